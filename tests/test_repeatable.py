"""The suite itself: no test depends on chance."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import numpy as np
import torch
from hypothesis import settings

ROOT = Path(__file__).parents[1]
UNSEEDED = {
    "np.random.default_rng()",
    "random.Random()",
    "secrets.token_hex()",
    "uuid.uuid4()",
    "random.SystemRandom()",
}


def test_no_test_draws_from_a_generator_without_a_seed() -> None:
    found = []
    for path in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("plugins/*/tests/*.py"), *ROOT.glob("moonlib/testing/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node) in UNSEEDED:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    assert found == []


def test_global_generators_begin_every_test_alike() -> None:
    expected = (
        random.Random(0).random(),
        np.random.RandomState(0).rand(),
        torch.Generator().manual_seed(0).initial_seed(),
    )
    assert (random.random(), np.random.rand(), torch.initial_seed()) == expected  # noqa: NPY002


def test_hypothesis_draws_the_same_examples_every_time() -> None:
    assert settings.default is not None and settings.default.derandomize
