"""A plugin written for the oldest plugin API still works: its imports, and base classes without new methods."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from moonlib.registry import OLDEST_API
from moonlib.testing import check_encoder, check_stage

PLUGIN = '''
from dataclasses import dataclass

import torch
from torch import nn

from moonlib.data.batches import PLANNED_AHEAD
from moonlib.data.catalogue import Catalogue
from moonlib.data.content import Content
from moonlib.data.filters.filter import Filter
from moonlib.data.pairs import Pairs
from moonlib.data.source import Source
from moonlib.disk import replacing
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.losses.loss import Loss
from moonlib.negatives.negative_sampler import Candidates, NegativeSampler, TrainingData
from moonlib.representations.probe import Probe, Represented
from moonlib.stages.optimizer import adamw
from moonlib.stages.stage import Reference, Stage, StageContext


class Lengths:
    def __call__(self, contents, side):
        texts = [content.text or "" for content in contents]
        return {"length": torch.tensor([[len(text) / 20, float(bool(text))] for text in texts])}


class Parted(Encoder):
    """Calls its own components parts, and has rates of its own."""

    dim, image_dim, text_dim = 4, 0, 2

    def setup(self, products, directory):
        self.preprocessor = Lengths()
        self.parts = nn.ModuleList([nn.Linear(2, 4)])

    def learning_rate_factor(self, name):
        return 0.5 if "weight" in name else 1.0

    def forward(self, batch):
        return self.parts[0](batch["length"])


class Refreshed(NegativeSampler):
    refresh_every = PLANNED_AHEAD


@dataclass
class NoData:
    """Nothing to say."""


class Measured(Stage):
    """Says nothing of what its metrics mean."""

    data_type = NoData
    needs = frozenset()

    def references(self, dataset):
        return [Reference("naive", "a naive guess", {})]

    def run(self, context: StageContext):
        return {"length/mean": 1.0}
'''


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    assert OLDEST_API == 2, "write the plugin as that version had it"
    (tmp_path / "moonlib_of_api_2.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("moonlib_of_api_2")


@pytest.mark.filterwarnings("ignore:.*the old (path|name) works until.*:FutureWarning")
def test_an_encoder_a_sampler_and_a_stage_of_api_2_work(plugin: ModuleType) -> None:
    check_encoder(plugin.Parted)
    check_stage(plugin.Measured)
    assert plugin.Refreshed().refresh_every == 64
