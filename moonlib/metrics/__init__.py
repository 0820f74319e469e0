"""Exact, mergeable metrics with named conventions."""
