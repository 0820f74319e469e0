"""TAOBAO-MM, Taobao's published click data with its own multimodal representations, as a source."""
