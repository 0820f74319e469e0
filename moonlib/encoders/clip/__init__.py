"""CLIP, SigLIP and SigLIP2 of transformers: both halves of one checkpoint."""
