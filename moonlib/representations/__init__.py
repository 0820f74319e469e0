"""The representation center: the store and index of what encoders produced."""
