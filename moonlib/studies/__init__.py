"""Studies across runs: what a representation buys, and how that scales."""
