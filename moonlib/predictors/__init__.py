"""Heads that turn an adapter's features into click logits."""
