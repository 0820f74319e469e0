"""Arguments that a constructor passes on are a recipe's keys; those that it gives itself are not."""

from __future__ import annotations

from typing import Any

import pytest

from moonlib.config.merge import RecipeError
from moonlib.config.recipe import StageRecipe
from moonlib.registry import registry
from moonlib.registry.signature import parameters
from moonlib.stages.contrastive import Contrastive
from moonlib.stages.posttraining import Posttraining
from moonlib.stages.pretraining import Pretraining


def test_named_stages_take_all_arguments_of_contrastive_but_its_pairs() -> None:
    whole = list(parameters(Contrastive))
    assert "pairs" in whole
    assert list(parameters(Pretraining)) == [name for name in whole if name != "pairs"]
    assert set(parameters(Posttraining)) == set(whole) - {"pairs"} | {"filters"}
    assert parameters(Posttraining)["learning_rate"].default == 1e-3


def test_a_stage_of_a_plugin_may_derive_from_a_named_one() -> None:
    class Slow(Pretraining):
        def __init__(self, patience: int = 3, **options: Any) -> None:
            super().__init__(learning_rate=1e-5, **options)

    found = list(parameters(Slow))
    assert found[0] == "patience" and "loss" in found and "learning_rate" not in found and "pairs" not in found


@pytest.mark.parametrize(
    ("stage", "wrong", "message"),
    [
        ("pretraining", {"pairs": "products"}, r"init_args\.pairs: unknown key"),
        ("pretraining", {"options": {}}, r"init_args\.options: unknown key"),
        ("posttraining", {"filter": []}, r"init_args\.filter: unknown key; did you mean 'filters'"),
        (
            "contrastive",
            {},
            r"init_args\.pairs: missing; Contrastive needs one of pairs \(graded, item_item, products, searches",
        ),
    ],
)
def test_keys_are_told_as_before(stage: str, wrong: dict[str, Any], message: str) -> None:
    init_args = {"loss": "info_nce", "negatives": ["in_batch"], **wrong}
    section = {"module": {"class_path": stage, "init_args": init_args}, "data": {"tasks": {"image -> title": 1.0}}}
    with pytest.raises(RecipeError, match=message):
        StageRecipe("train", section)


def test_plugins_show_tells_passed_on_arguments() -> None:
    signature = registry.describe("stages", "pretraining").signature
    assert "**" not in signature and "pairs" not in signature and "matryoshka" in signature
