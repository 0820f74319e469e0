"""A trained encoder at work: embed a catalogue, index it, search it, measure it on other data."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
