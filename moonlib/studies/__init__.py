"""Across runs: exchange rates, scaling laws, A/B tests, and the report."""
