"""Across runs: what the representation is worth, and how that scales."""
