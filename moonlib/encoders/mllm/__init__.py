"""A generative multimodal language model of transformers as the encoder."""
