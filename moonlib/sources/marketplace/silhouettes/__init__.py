"""Silhouettes of the products, a module per department."""
