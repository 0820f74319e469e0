"""Optimizers named by a recipe: which parameters they train at which rates, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from moonlib.adapters.simtier import SimTier
from moonlib.config import recipe
from moonlib.config.merge import RecipeError
from moonlib.config.recipe import StageRecipe
from moonlib.optimizers.adam import AdamFactory, LazyAdamFactory
from moonlib.optimizers.adamw import AdamWFactory, warmup_cosine
from moonlib.optimizers.optimizer_factory import (
    OptimizerContext,
    OptimizerFactory,
    TrainedParameter,
    matrices,
    trained_parameters,
)
from moonlib.optimizers.torch_optimizer import TorchFactory
from moonlib.predictors.mlp import MLP
from moonlib.stages.application import Application, ImpressionData
from moonlib.stages.relevance import Relevance
from moonlib.testing import EXAMPLE_SPLITS, check_optimizer, check_stage, example_products, example_tables
from moonlib.testing.stages import small_encoder

CPU = OptimizerContext(torch.device("cpu"), False, False, count_steps=lambda: 10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamWFactory(0.01),
        lambda: AdamFactory(0.01),
        lambda: LazyAdamFactory(0.01),
        lambda: TorchFactory(lambda groups: torch.optim.SGD(groups, lr=0.1)),
    ],
    ids=["adamw", "adam", "lazy_adam", "torch"],
)
def test_ours_keep_the_promises_of_an_optimizer(make: Callable[[], OptimizerFactory]) -> None:
    check_optimizer(make)


def module(stage: str, **init_args: Any) -> Any:
    section = {"module": {"class_path": stage, "init_args": init_args}, "data": {}}
    if stage in ("pretraining", "contrastive"):
        section["data"] = {"tasks": {"image -> title": 1.0}}
    return StageRecipe(stage, section).module()


@pytest.mark.parametrize(
    ("stage", "arguments"),
    [
        ("pretraining", {"loss": "info_nce", "negatives": ["in_batch"]}),
        ("generative_pretraining", {}),
        ("application", {"adapter": "vector", "predictor": "mlp"}),
        ("relevance", {}),
    ],
)
def test_every_stage_that_trains_takes_an_optimizer_by_name_or_by_class_path(
    stage: str, arguments: dict[str, Any]
) -> None:
    named = module(stage, **arguments, optimizer={"class_path": "adamw", "init_args": {"learning_rate": 0.5}})
    assert isinstance(named.optimizer, AdamWFactory) and named.optimizer.learning_rate == 0.5
    path = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}
    by_path = module(stage, **arguments, optimizer=path)
    made: Any = by_path.optimizer([TrainedParameter("weight", nn.Parameter(torch.ones(2)))], CPU)
    assert type(made) is torch.optim.SGD and made.defaults["lr"] == 0.1 and made.defaults["momentum"] == 0.9
    default = module(stage, **arguments, learning_rate=0.25)
    assert default.optimizer.learning_rate == 0.25
    with pytest.raises(RecipeError, match=r"learning_rate: 0.25 has no effect beside 'optimizer'.*learning_rate: null"):
        module(stage, **arguments, learning_rate=0.25, optimizer="adam")
    assert isinstance(module(stage, **arguments, learning_rate=None, optimizer="adam").optimizer, AdamFactory)


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"optimizer.class_path.*expected one of optimizers \(adam, adamw, "):
        module("relevance", optimizer={"class_path": "torch.nn.Linear"})
    with pytest.raises(RecipeError, match=r"unknown optimizers/adamv; did you mean 'adam"):
        module("relevance", optimizer="adamv")
    with pytest.raises(RecipeError, match=r"optimizer\.init_args\.lrr: unknown key; did you mean 'lr'"):
        module("relevance", optimizer={"class_path": "torch.optim.SGD", "init_args": {"lrr": 0.1}})
    with pytest.raises(RecipeError, match=r"optimizer\.init_args\.lr: expected float or Tensor, got 'fast'"):
        module("relevance", optimizer={"class_path": "torch.optim.SGD", "init_args": {"lr": "fast"}})
    with pytest.raises(
        RecipeError, match=r"optimizer\.init_args: expected a mapping of the arguments of SGD, got \[1\]"
    ):
        module("relevance", optimizer={"class_path": "torch.optim.SGD", "init_args": [1]})
    with pytest.raises(RecipeError, match=r"optimizer\.init_args\.lr: missing; Rated needs float"):
        module("relevance", optimizer={"class_path": f"{__name__}.Rated"})


class Rated(torch.optim.SGD):
    """Has no default rate."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, lr)


def test_a_recipe_with_a_class_path_of_torch_is_written_so_that_it_can_be_read_again(tmp_path: Path) -> None:
    text = """
        extends: iter1
        stages:
          pretrain: {module: {init_args: {optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1}}}}}
    """
    (tmp_path / "sgd.yaml").write_text(text)
    loaded = recipe.load(tmp_path / "sgd.yaml")
    config = loaded.config["stages"]["pretrain"]
    again = StageRecipe("pretrain", config)
    assert again.config == loaded.stages["pretrain"].config
    assert isinstance(again.module().optimizer, TorchFactory)
    changed = recipe.load(tmp_path / "sgd.yaml", ["--stages.pretrain.module.init_args.optimizer.init_args.lr", "0.5"])
    made: Any = changed.stages["pretrain"].module().optimizer([TrainedParameter("w", nn.Parameter(torch.ones(2)))], CPU)
    assert made.defaults["lr"] == 0.5


def test_sparse_gradients_need_an_optimizer_that_takes_them() -> None:
    arguments = {"adapter": "vector", "predictor": "mlp", "sparse": True}
    assert isinstance(module("application", **arguments).optimizer, LazyAdamFactory)
    assert isinstance(module("application", **arguments, optimizer="lazy_adam").optimizer, LazyAdamFactory)
    with pytest.raises(RecipeError, match="sparse: AdamWFactory takes no sparse gradients; use lazy_adam"):
        module("application", **arguments, optimizer="adamw")


def test_defaults_are_what_they_were() -> None:
    application, relevance = module("application", adapter="vector", predictor="mlp"), module("relevance")
    assert isinstance(application, Application) and isinstance(relevance, Relevance)
    for stage, rate in ((application, 3e-3), (relevance, 1e-3)):
        assert type(stage.optimizer) is AdamFactory and stage.optimizer.learning_rate == rate
    pretraining = module("pretraining", loss="info_nce", negatives=["in_batch"]).optimizer
    assert type(pretraining) is AdamWFactory
    assert (pretraining.learning_rate, pretraining.weight_decay, pretraining.warmup) == (1e-3, 0.05, 0.05)


def test_an_encoder_keeps_its_rates_whatever_the_stage_calls_it(tmp_path: Path) -> None:
    encoder = small_encoder()
    encoder.setup(example_products(), tmp_path)
    rates = {"^image": 0.5}
    encoder.learning_rates = type(encoder.learning_rates)(rates)
    stage = nn.ModuleDict({"model": encoder, "head": nn.Linear(8, 1)})
    decayed = matrices(stage)
    found = {each.name: each for each in trained_parameters(stage, encoder, decayed)}
    for name, each in found.items():
        assert each.factor == (0.5 if name.startswith("model.image") else 1.0), name
        assert each.decays == (each.parameter.ndim > 1), name
    made: Any = AdamWFactory(0.2, weight_decay=0.1)(list(found.values()), CPU)
    for group in made["optimizer"].param_groups:
        for parameter in group["params"]:
            own = next(each for each in found.values() if each.parameter is parameter)
            assert group["initial_lr"] == own.factor * 0.2
            assert group["weight_decay"] == (0.1 if own.decays else 0.0)


def test_learning_rate_rises_and_falls() -> None:
    made: Any = AdamWFactory(1.0, warmup=0.2)([TrainedParameter("weight", nn.Parameter(torch.ones(2)))], CPU)
    rates = []
    for _ in range(10):
        rates.append(made["optimizer"].param_groups[0]["lr"])
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
    assert rates == [warmup_cosine(step, 2, 10) for step in range(10)]
    assert rates[0] == 0.5 and max(rates) == 1.0 and rates[-1] < 0.1


class Noting(AdamWFactory):
    """Notes the steps it is told of, and which parameters decay, by their number of dimensions."""

    steps: ClassVar[list[int]] = []
    decays: ClassVar[set[tuple[int, bool]]] = set()

    def __call__(self, parameters: Any, context: OptimizerContext) -> Any:
        self.steps.append(context.count_steps())
        self.decays.update((each.parameter.ndim, each.decays) for each in parameters)
        return super().__call__(parameters, context)


def test_a_click_model_is_trained_with_a_schedule_and_resumes_to_the_same_bits() -> None:
    """A stage that counts in epochs: the schedule ends where its epochs do."""
    Noting.steps.clear()
    make = lambda: Application(SimTier(), MLP(), optimizer=Noting(0.01))  # noqa: E731
    check_stage(make, ImpressionData(batch_size=32), max_epochs=2)
    rows = example_tables().impressions
    impressions = len(EXAMPLE_SPLITS.select(rows, "train"))
    assert set(Noting.steps) == {2 * -(-impressions // 32)}
    assert Noting.decays == {(2, True), (1, False), (0, False)}


@pytest.mark.parametrize("sparse", [False, True])
def test_a_click_model_is_trained_by_an_optimizer_of_torch_and_resumes_to_the_same_bits(sparse: bool) -> None:
    """Its moments are sparse where gradients are."""
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}}
    arguments = {"adapter": "simtier", "predictor": "mlp", "sparse": sparse}
    check_stage(
        lambda: module("application", **arguments, optimizer=optimizer), ImpressionData(batch_size=32), max_epochs=2
    )
