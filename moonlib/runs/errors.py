"""Errors of run directories and exports."""

from __future__ import annotations


class RunError(ValueError):
    """A run directory that cannot give what it is asked for; the message says why and what to do."""
