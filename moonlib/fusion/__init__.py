"""Heads that join the modalities of a dual encoder."""
