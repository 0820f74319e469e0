"""Across runs: what one brings over another, and what is worth measuring."""
