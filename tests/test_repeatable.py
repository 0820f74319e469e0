"""The suite itself: no test depends on chance."""

from __future__ import annotations

import ast
import random
from pathlib import Path

import numpy as np
import torch
from hypothesis import settings

ROOT = Path(__file__).parents[1]
SEEDED = {"default_rng", "RandomState", "Random"}
"""What draws from the operating system where it is given no seed."""

SEEDLESS = {"SystemRandom", "token_hex", "token_bytes", "uuid4", "urandom"}
"""What always does."""


def test_no_test_draws_from_a_generator_without_a_seed() -> None:
    found = []
    for path in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("plugins/*/tests/*.py"), *ROOT.glob("moonlib/testing/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            seedless = not node.keywords and (not node.args or ast.unparse(node.args[0]) == "None")
            if ast.unparse(node.func).rpartition(".")[2] in (SEEDED | SEEDLESS if seedless else SEEDLESS):
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
