"""The LightningModules of an iteration, one per stage."""
