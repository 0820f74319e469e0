"""Conformance checks: what a plugin's author runs to know that a component keeps its kind's promises.

Each check takes a function that makes a fresh component, and raises `AssertionError` with a sentence about the first
promise broken::

    from moonlib.testing import check_fusion

    def test_my_fusion():
        check_fusion(lambda: MyFusion(hidden=32))
"""

from __future__ import annotations

from moonlib.testing.application import check_adapter, check_predictor
from moonlib.testing.data import check_filter, check_source
from moonlib.testing.encoders import check_encoder, check_fusion, check_image_tower, check_text_tower
from moonlib.testing.examples import (
    EXAMPLE_SPLITS,
    example_behaviours,
    example_contents,
    example_dataset,
    example_jpeg,
    example_picture,
    example_products,
    example_representations,
    example_tables,
)
from moonlib.testing.measures import check_metric, check_probe
from moonlib.testing.optimizers import check_optimizer
from moonlib.testing.pairs import check_pairs
from moonlib.testing.stages import check_stage
from moonlib.testing.training import check_loss, check_negative_sampler

__all__ = [
    "EXAMPLE_SPLITS",
    "check_adapter",
    "check_encoder",
    "check_filter",
    "check_fusion",
    "check_image_tower",
    "check_loss",
    "check_metric",
    "check_negative_sampler",
    "check_optimizer",
    "check_pairs",
    "check_predictor",
    "check_probe",
    "check_source",
    "check_stage",
    "check_text_tower",
    "example_behaviours",
    "example_contents",
    "example_dataset",
    "example_jpeg",
    "example_picture",
    "example_products",
    "example_representations",
    "example_tables",
]
