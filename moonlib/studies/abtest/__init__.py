"""An A/B test before there is one: click models rank, and the marketplace's shoppers click, or a log tells."""

from moonlib.studies.abtest.compare import abtest

__all__ = ["abtest"]
