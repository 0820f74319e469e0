"""Functions of scores and masks: one value per query."""
