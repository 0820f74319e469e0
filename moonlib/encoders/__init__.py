"""Encoders: the image and text of a product or a query → one representation."""
