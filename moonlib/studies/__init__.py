"""Studies across runs."""
