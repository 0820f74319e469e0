from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from moonlib.config import recipe, spelling
from moonlib.config.recipe import RecipeError
from moonlib.registry import registry
from moonlib.registry.signature import parameters

MISSPELT = {
    "--sede 1": "sede: unknown key; did you mean 'seed'?",
    "--stages.pretrain.trainre.max_steps 3": "stages.pretrain.trainre: unknown key; did you mean 'trainer'?",
    "--stages.pretrain.trainer.max_stepss 3": "max_stepss: unknown key; did you mean 'max_steps'?",
    "--stages.pretrain.trainer.max_steps ten": "stages.pretrain.trainer.max_steps: expected int, got 'ten'",
    "--stages.pretrain.trainer.max_steps [3]": "stages.pretrain.trainer.max_steps: expected int, got [3]",
    "--stages.pretrain.data.batchsize 3": "stages.pretrain.data.batchsize: unknown key; did you mean 'batch_size'?",
    "--stages.pretrain.module pretrainning": "unknown stages/pretrainning; did you mean ",
    "--stages.pretrain.module.init_args.loss info_ncee": "unknown losses/info_ncee; did you mean 'info_nce'",
    "--stages.pretrain.module.init_args.negatives [in_bach]": "negatives.0: unknown negatives/in_bach; did you mean",
    "--stages.application.module.init_args.adapter.init_arg 1": "unknown key; a component has class_path and init_args",
    "--stages.application.module.init_args.representation traind": "representation: expected ",
    "--encoder.init_args.image.init_args.widht 3": "encoder.init_args.image.init_args.widht: unknown key; did you mean",
    "--data.init_args.size smal": "data.init_args.size: expected one of 'tiny', 'small', 'medium', 'large', got 'smal'",
}


@pytest.mark.parametrize("words", MISSPELT)
def test_a_wrong_letter_is_told_as_typing_would_tell_it(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError) as early:
        recipe.check_spelling("iter1", words.split())
    assert MISSPELT[words] in str(early.value)
    monkeypatch.setattr(spelling, "check", lambda merged: None)
    with pytest.raises(RecipeError) as late:
        recipe.load("iter1", words.split())
    assert str(early.value) == str(late.value)


def test_it_is_told_before_anything_that_a_recipe_names_is_imported(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("stages: {a: [")
    program = """
        import sys
        from moonlib.cli import main
        for config, *words in WORDS:
            assert main(["fit", "--config", config, *words]) == 2
        assert main(["scale", "--config", "studies/scaling/training_samples", "--stages.posttrain.modul", "x"]) == 2
        heavy = {"torch", "lightning", "torchmetrics", "transformers", "timm", "polars", "pyarrow", "matplotlib"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    words = [["iter1", *words.split()] for words in MISSPELT]
    words += [[str(tmp_path / "broken.yaml")], ["iter11"], ["iter1", "--stages.new.trainer.max_steps", "1"]]
    subprocess.run([sys.executable, "-c", dedent(program).replace("WORDS", repr(words))], check=True, cwd=tmp_path)


def test_constructors_are_read_as_they_are() -> None:
    read = 0
    for component in registry.components():
        module, _, name = component.value.partition(":")
        found = spelling._class(module, name) if module.startswith("moonlib.") else None
        if found and (written := found.parameters()):
            present = [name for name, (annotation, _) in written.items() if annotation is not None]
            assert present == list(parameters(registry.get(component.kind, component.name))), component
            read += 1
    assert read > 40
    trainer = spelling._class(*spelling.TRAINER)
    assert trainer is not None
    assert list(trainer.parameters() or ()) == list(parameters(recipe._trainer_class()))


SOURCE = """
    from dataclasses import dataclass
    from functools import wraps
    from typing import Literal

    from pathlib import Path

    from moonlib.losses.loss import Loss
    from moonlib.predictors.predictor import Predictor
    from moonlib.registry.deprecation import renamed_arguments

    Size = Literal["small", "large"]

    def decorated(init):
        return lambda self, *, other: init(self, other)

    class Renamed(Loss):
        @renamed_arguments("2.0", width="margin")
        def __init__(self, margin: float = 0.1, size: Size | None = None, parts: list[Loss] | None = None) -> None: ...

    class Decorated(Loss):
        @decorated
        def __init__(self, margin: float = 0.1) -> None: ...

    class Open(Loss):
        def __init__(self, margin: float = 0.1, **more: float) -> None: ...

    @dataclass
    class Base:
        margin: float = 0.1

    @dataclass
    class Derived(Base):
        size: Size = "small"

    class Grouped(Loss):
        def __init__(self, given: Derived) -> None: ...

    class PositionalSelf(Loss):
        def __init__(self, /, margin: float = 0.1) -> None: ...

    OLD = {"width": "margin"}

    class RenamedByMapping(Loss):
        @renamed_arguments("2.0", **OLD)
        def __init__(self, margin: float = 0.1) -> None: ...

    def other_constructor(cls):
        cls.__init__ = lambda self, *, other=1: None
        return cls

    @other_constructor
    class DecoratedClass(Loss):
        def __init__(self, margin: float = 0.1) -> None: ...

    class Assigned(Renamed):
        __init__ = lambda self, *, other=1: None

    class Conditional(Renamed):
        if True:
            def __init__(self, other: int = 1) -> None: ...

    if True:
        class Either(Loss):
            def __init__(self, new: int = 1) -> None: ...
    else:
        class Either(Loss):
            def __init__(self, old: int = 1) -> None: ...

    try:
        from decimal import Decimal as int
    except ImportError:
        pass

    class Shadowing(Loss):
        def __init__(self, count: int = 1) -> None: ...

    class Several(Loss):
        def __init__(
            self,
            head: Loss | Predictor | None = None,
            heads: list[Loss] | list[Predictor] = (),
            given: Derived | Base | None = None,
            place: Path | Base | None = None,
            width: float = None,
        ) -> None: ...
"""


@pytest.fixture
def losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "spelt_losses.py").write_text(dedent(SOURCE))
    monkeypatch.syspath_prepend(tmp_path)
    spelling._scope.cache_clear()
    return "spelt_losses"


@pytest.mark.parametrize(
    ("cls", "arguments"),
    [
        ("Renamed", {"width": 0.2, "size": "large", "parts": ["info_nce", {"class_path": "triplet"}]}),
        ("Renamed", {"size": None, "margin": "1e-3"}),
        ("Decorated", {"other": 1}),
        ("Open", {"whatever": 1}),
        ("Grouped", {"given": {"margin": 1, "size": "small"}}),
        ("Nowhere", {"whatever": 1}),
        ("PositionalSelf", {"margin": 0.2}),
        ("RenamedByMapping", {"width": 0.2}),
        ("DecoratedClass", {"other": 1}),
        ("Assigned", {"other": 1}),
        ("Conditional", {"other": 1}),
        ("Either", {"new": 1}),
        ("Shadowing", {"count": "1.5"}),
        ("Several", {"head": "info_nce", "heads": ["info_nce"]}),
        ("Several", {"given": {"size": "large"}, "place": {"x": 1}}),
        ("Several", {"width": "null"}),
    ],
)
def test_what_the_source_does_not_rule_out_is_let_through(losses: str, cls: str, arguments: dict[str, object]) -> None:
    spelling._component("losses", {"class_path": f"{losses}.{cls}", "init_args": arguments}, ("loss",))


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        ("Renamed", {"witdh": 0.2}, "loss.init_args.witdh: unknown key; did you mean 'width'?"),
        ("Renamed", {"size": "larg"}, "loss.init_args.size: expected one of 'small', 'large' or null, got 'larg'"),
        ("Renamed", {"parts": ["info_ncee"]}, "loss.init_args.parts.0.class_path: unknown losses/info_ncee"),
        ("PositionalSelf", {"margn": 1}, "loss.init_args.margn: unknown key; did you mean 'margin'?"),
        ("Several", {"head": "info_ncee"}, "loss.init_args.head.class_path: unknown losses/info_ncee"),
        ("Grouped", {"given": {"margn": 1}}, "loss.init_args.given.margn: unknown key; did you mean 'margin'?"),
        ("Grouped", {"given": {"size": "larg"}}, "loss.init_args.given.size: expected one of 'small', 'large', got"),
    ],
)
def test_what_it_rules_out_is_refused(losses: str, cls: str, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError) as error:
        spelling._component("losses", {"class_path": f"{losses}.{cls}", "init_args": arguments}, ("loss",))
    assert str(error.value).startswith(message)
