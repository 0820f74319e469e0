"""(target, behaviours, query) → features for a downstream model."""
