from __future__ import annotations

from pathlib import Path

from moonlib.data import Dataset
from moonlib.templates.sources import Template
from moonlib.testing import check_source


def test_it_keeps_the_promises_of_a_source() -> None:
    check_source(lambda: Template(copies=2, searches=120))


def test_another_seed_is_another_dataset(tmp_path: Path) -> None:
    datasets = [Dataset(Template(copies=1, searches=60, seed=seed).prepare(tmp_path)) for seed in (0, 1)]
    assert datasets[0].hash != datasets[1].hash
    assert datasets[0].counts == datasets[1].counts
