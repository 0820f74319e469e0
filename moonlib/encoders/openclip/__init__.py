"""Towers from open_clip: any of its architectures, with or without its weights; the extra ``openclip``."""
