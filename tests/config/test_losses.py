"""Several losses in a recipe: how they are written, layered and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moonlib.config import recipe
from moonlib.config.merge import RecipeError
from moonlib.losses.circle import Circle
from moonlib.losses.info_nce import InfoNCE

BASE = """
seed: 3
data: {class_path: marketplace, init_args: {size: tiny}}
encoder: {class_path: dual, init_args: {image: convnet, fusion: sum}}
stages:
  posttrain:
    module: {class_path: posttraining, init_args: {LOSSES, negatives: [in_batch]}}
    data: {tasks: {image -> image: 1}, batch_size: 8}
    trainer: {max_steps: 10}
"""
PLACE = "--stages.posttrain.module.init_args.losses"


def weighted(folder: Path, base: str, *layers: str, overrides: tuple[str, ...] = ()) -> dict[str, Any]:
    """The losses of the stage that a recipe and those that extend it give, and what is kept of them in a run."""
    file = folder / "base.yaml"
    file.write_text(BASE.replace("LOSSES", base))
    for number, layer in enumerate(layers):
        child = folder / f"{number}.yaml"
        child.write_text(
            f"extends: {file.name}\nstages: {{posttrain: {{module: {{init_args: {{losses: {layer}}}}}}}}}\n"
        )
        file = child
    loaded = recipe.load(file, list(overrides))
    recipe.check_spelling(file, list(overrides))
    found: dict[str, Any] = loaded.stages["posttrain"].module().weighted
    kept = folder / "kept.yaml"  # a run's recipe is a recipe, too
    kept.write_text(yaml.safe_dump(loaded.config, sort_keys=False))
    again = recipe.load(kept).stages["posttrain"]
    assert again.config == loaded.stages["posttrain"].config
    return found


def test_numbers_names_and_mappings_are_losses(tmp_path: Path) -> None:
    losses = (
        "losses: {info_nce: 1, circle: {weight: 0.5, dims: look, init_args: {gamma: 32}}, "
        "wide: {class_path: info_nce, dims: [0, 8]}}"
    )
    found = weighted(tmp_path, losses)
    assert {name: each.weight for name, each in found.items()} == {"info_nce": 1.0, "circle": 0.5, "wide": 1.0}
    assert isinstance(found["info_nce"].loss, InfoNCE) and isinstance(found["wide"].loss, InfoNCE)
    assert isinstance(found["circle"].loss, Circle) and found["circle"].loss.gamma == 32
    assert {name: each.dims for name, each in found.items()} == {"info_nce": None, "circle": "look", "wide": [0, 8]}


def test_layers_merge_entry_by_entry_in_whichever_form(tmp_path: Path) -> None:
    found = weighted(
        tmp_path,
        "losses: {info_nce: 1, near: circle, far: {class_path: triplet, weight: 2}}",
        "{info_nce: {init_args: {temperature: 0.5}}, near: 0.25, far: null}",
        "{info_nce: 3, near: {init_args: {gamma: 16}}, sigmoid: 0.1}",
    )
    assert {name: each.weight for name, each in found.items()} == {"info_nce": 3.0, "near": 0.25, "sigmoid": 0.1}
    assert found["info_nce"].loss.fixed_temperature == 0.5
    assert isinstance(found["near"].loss, Circle) and found["near"].loss.gamma == 16


def test_one_loss_gives_way_to_several(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE.replace("LOSSES", "loss: circle"))
    child = tmp_path / "child.yaml"
    text = "extends: base.yaml\nstages: {{posttrain: {{module: {{init_args: {{{}losses: {{info_nce: 1}}}}}}}}}}\n"
    child.write_text(text.format(""))
    with pytest.raises(RecipeError, match=r"give one of loss and losses: .*`loss: null` takes out"):
        recipe.load(child).stages["posttrain"].module()
    child.write_text(text.format("loss: null, "))
    assert list(recipe.load(child).stages["posttrain"].module().weighted) == ["info_nce"]


def test_the_command_line_sets_weights(tmp_path: Path) -> None:
    found = weighted(tmp_path, "losses: {info_nce: 1, circle: 1}", overrides=(f"{PLACE}.circle", "0.5"))
    assert found["circle"].weight == 0.5 and isinstance(found["circle"].loss, Circle)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ("{info_nc: 1}", r"losses\.info_nc\.loss: unknown losses/info_nc; did you mean 'info_nce'"),
        ("{info_nce: {wieght: 1}}", r"losses\.info_nce\.wieght: unknown key; did you mean 'weight'\?"),
        ("{info_nce: {weight: heavy}}", r"losses\.info_nce\.weight: expected float, got 'heavy'"),
        ("{info_nce: {init_args: {tau: 1}}}", r"losses\.info_nce\.loss\.init_args\.tau: unknown key"),
        ("{info_nce: -1}", r"weight: expected a number of at least 0, got -1"),
        ("{a.b: {class_path: circle}}", r"'a\.b' is no name for a loss"),
        ("[info_nce]", r"losses: expected .*got \['info_nce'\]"),
    ],
)
def test_mistakes_are_named_by_their_key(tmp_path: Path, losses: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(BASE.replace("LOSSES", f"losses: {losses}"))
    with pytest.raises(RecipeError, match=message):
        recipe.load(file).stages["posttrain"].module()
