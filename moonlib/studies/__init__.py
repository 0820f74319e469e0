"""Across runs: exchange rate, scaling laws, A/B, report."""
