from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any, ClassVar, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import moonlib
from moonlib.config import recipe
from moonlib.config.merge import merge
from moonlib.config.names import BadNameError, run_name, stage_problem
from moonlib.config.recipe import Recipe, RecipeError, StageRecipe
from moonlib.config.typing import construct
from moonlib.encoders.encoder import Encoder
from moonlib.losses.loss import Loss
from moonlib.negatives.negative_sampler import NegativeSampler
from moonlib.registry import registry
from moonlib.sources.source import Source
from moonlib.stages.stage import Stage, StageContext
from moonlib.system.terminal import visible

Write = Callable[..., Path]


class Shop(Source):
    def __init__(self, size: Literal["tiny", "small"] = "small", seed: int = 0) -> None:
        if seed < 0:
            raise ValueError(f"shop: seed {seed} is negative")
        self.size, self.seed = size, seed

    def prepare(self, cache: Path) -> Path:
        return cache


class Softmax(Loss):
    def __init__(self, temperature: float = 0.07) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        return scores.sum(1)


class Mixed(Loss):
    """A loss made of losses: names nest."""

    def __init__(self, parts: dict[str, Loss], sizes: tuple[int, ...] = (8, 16)) -> None:
        super().__init__()
        self.parts, self.sizes = parts, sizes

    def forward(self, scores: Tensor, positive: Tensor, ignore: Tensor) -> Tensor:
        return scores.sum(1)


class Random(NegativeSampler):
    def __init__(self, count: int = 4) -> None:
        super().__init__()
        self.count = count


@dataclass
class TrainData:
    tasks: dict[str, float] = field(default_factory=lambda: {"image -> title": 1.0})
    batch_size: int = 32


class Train(Stage):
    data_type: ClassVar[type] = TrainData
    needs = frozenset()

    def __init__(
        self, loss: Loss, negatives: list[NegativeSampler], learning_rate: float = 1e-3, bank: Loss | None = None
    ) -> None:
        super().__init__()
        self.loss, self.negatives, self.learning_rate, self.bank = loss, negatives, learning_rate, bank

    def run(self, context: StageContext) -> dict[str, float]:
        return {}


class TrainLonger(Train):
    """Hands its remaining arguments on."""

    def __init__(self, rounds: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rounds = rounds


BASE = """
changes: {training: the first}
seed: 3
data: {class_path: shop, init_args: {size: tiny}}
stages:
  train:
    module: {class_path: train, init_args: {loss: softmax, negatives: [random], learning_rate: 1e-4}}
    data: {tasks: {image -> title+image: 1}, batch_size: 8}
    trainer: {max_steps: 10}
  last:
    module: {class_path: train, init_args: {loss: {class_path: softmax, init_args: {temperature: 0.2}}, negatives: []}}
"""


@pytest.fixture(autouse=True)
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_registered", {})
    for kind, name, cls in [
        ("sources", "shop", Shop),
        ("losses", "softmax", Softmax),
        ("losses", "mixed", Mixed),
        ("negatives", "random", Random),
        ("stages", "train", Train),
        ("stages", "train_longer", TrainLonger),
    ]:
        moonlib.register(kind, name)(cls)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    monkeypatch.chdir(tmp_path)

    def write(text: str, name: str = "child.yaml") -> Path:
        Path("base.yaml").write_text(BASE)
        Path(name).write_text(text)
        return Path(name)

    return write


def message(path: Path, *overrides: str) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe.load(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_expand_values_are_typed_and_defaults_resolved(write: Write) -> None:
    loaded = recipe.load(write(BASE, "one.yaml"))
    assert (loaded.name, loaded.seed, loaded.changes) == ("one", 3, {"training": "the first"})
    assert list(loaded.stages) == ["train", "last"]
    train = loaded.stages["train"]
    here = __name__
    assert train.config["module"] == {
        "class_path": f"{here}.Train",
        "init_args": {
            "loss": {"class_path": f"{here}.Softmax", "init_args": {"temperature": 0.07}},
            "negatives": [{"class_path": f"{here}.Random", "init_args": {"count": 4}}],
            "learning_rate": 1e-4,
            "bank": None,
        },
    }
    assert train.config["data"] == {"tasks": {"image -> title+image": 1.0}, "batch_size": 8}
    assert train.config["trainer"]["max_steps"] == 10
    assert train.config["trainer"]["accumulate_grad_batches"] == 1
    assert json.loads(json.dumps(train.config)) == train.config


def test_every_part_is_constructed_anew(write: Write) -> None:
    loaded = recipe.load(write(BASE, "one.yaml"))
    source, train = loaded.source(), loaded.stages["train"]
    assert isinstance(source, Shop) and (source.size, source.seed) == ("tiny", 0)
    assert loaded.encoder() is None
    module, other = train.module(), train.module()
    assert isinstance(module, Train) and isinstance(module.loss, Softmax) and isinstance(module.negatives[0], Random)
    assert isinstance(other, Train) and module.loss is not other.loss
    assert module.learning_rate == 1e-4
    assert train.data() == TrainData({"image -> title+image": 1.0}, 8)


def test_the_encoder_is_constructed_where_there_is_one() -> None:
    loaded = recipe.load("iter1")
    encoder, other = loaded.encoder(), loaded.encoder()
    assert isinstance(encoder, Encoder)
    assert encoder is not other


def test_the_trainer_takes_more_than_the_recipe_says(write: Write, tmp_path: Path) -> None:
    from lightning.pytorch.callbacks import LambdaCallback, Timer

    timer = "{class_path: lightning.pytorch.callbacks.Timer, init_args: {duration: '00:00:10:00'}}"
    loaded = recipe.load(write(BASE, "one.yaml"), [f"--stages.train.trainer.callbacks=[{timer}]"])
    extra = LambdaCallback()
    trainer = loaded.stages["train"].trainer(callbacks=[extra], logger=False, default_root_dir=str(tmp_path))
    assert trainer.max_steps == 10
    assert trainer.default_root_dir == str(tmp_path)
    assert extra in trainer.callbacks and any(isinstance(callback, Timer) for callback in trainer.callbacks)
    assert json.loads(json.dumps(loaded.stages["train"].config)) == loaded.stages["train"].config


def test_names_nest_and_arguments_pass_on_to_the_next_class(write: Write) -> None:
    text = """
    extends: base.yaml
    stages:
      train:
        module:
          class_path: train_longer
          init_args:
            rounds: 5
            loss: {class_path: mixed, init_args: {parts: {a: softmax, b: {class_path: info_nce}}}}
            negatives: [in_batch, {class_path: random, init_args: {count: 1}}]
            bank: softmax
    """
    module = recipe.load(write(text)).stages["train"].module()
    assert isinstance(module, TrainLonger) and module.rounds == 5
    assert isinstance(module.loss, Mixed) and isinstance(module.bank, Softmax)
    assert [type(part).__name__ for part in module.loss.parts.values()] == ["Softmax", "InfoNCE"]
    assert module.loss.sizes == (8, 16)
    assert [type(sampler).__name__ for sampler in module.negatives] == ["InBatch", "Random"]


def test_dotted_paths_pass_through(write: Write) -> None:
    loaded = recipe.load(write("extends: base.yaml"), [f"--stages.train.module.init_args.loss={__name__}.Softmax"])
    assert loaded.config == recipe.load(write("extends: base.yaml")).config


def test_children_merge_deeply(write: Write) -> None:
    text = """
    extends: base.yaml
    stages:
      train:
        data: {tasks: {text -> title: 2.0}}
        module: {init_args: {negatives: [in_batch]}}
    """
    loaded = recipe.load(write(text))
    train = loaded.stages["train"].config
    assert loaded.seed == 3
    assert train["data"] == {"tasks": {"image -> title+image": 1.0, "text -> title": 2.0}, "batch_size": 8}
    assert [sampler["class_path"] for sampler in train["module"]["init_args"]["negatives"]] == [
        "moonlib.negatives.in_batch.InBatch"
    ]
    assert train["module"]["init_args"]["learning_rate"] == 1e-4


def test_changes_are_not_inherited(write: Write) -> None:
    assert recipe.load(write("extends: base.yaml")).changes == {}
    assert recipe.load(write("{extends: base.yaml, changes: {data: more}}")).changes == {"data": "more"}


def loss_of(loaded: Recipe) -> dict[str, Any]:
    config: dict[str, Any] = loaded.stages["last"].written["module"]["init_args"]["loss"]
    return config


def test_another_class_drops_the_parents_arguments_and_the_same_class_keeps_them(write: Write) -> None:
    key = "--stages.last.module.init_args.loss"
    path = write("extends: base.yaml")
    assert loss_of(recipe.load(path, [key, "info_nce"])) == {"class_path": "moonlib.losses.info_nce.InfoNCE"}
    kept = {"class_path": f"{__name__}.Softmax", "init_args": {"temperature": 0.2}}
    assert loss_of(recipe.load(path, [key, "softmax"])) == kept
    assert loss_of(recipe.load(path, [key, f"{__name__}.Softmax"])) == kept
    only = recipe.load(path, [f"{key}.init_args.temperature", "0.3"])
    assert loss_of(only) == {"class_path": f"{__name__}.Softmax", "init_args": {"temperature": 0.3}}
    on_a_name = recipe.load(path, ["--stages.train.module.init_args.loss.init_args.temperature", "0.3"])
    assert on_a_name.stages["train"].config["module"]["init_args"]["loss"]["init_args"] == {"temperature": 0.3}


def test_null_removes_what_the_parent_says(write: Write) -> None:
    text = "{extends: base.yaml, stages: {last: null, train: {data: {batch_size: null}, trainer: null}}}"
    loaded = recipe.load(write(text))
    assert list(loaded.stages) == ["train"]
    assert loaded.stages["train"].config["data"]["batch_size"] == 32
    assert loaded.stages["train"].config["trainer"]["max_steps"] == -1


def test_null_leaves_the_default_where_no_parent_says_anything(write: Write) -> None:
    key = "stages.train.module.init_args.loss"
    null = ["--stages.train.data.tasks", "null", f"--{key}.init_args.temperature", "null"]
    train = recipe.load(write("{extends: base.yaml}"), null).stages["train"].config
    assert train["data"]["tasks"] == {"image -> title": 1.0}
    assert train["module"]["init_args"]["loss"]["init_args"] == {"temperature": 0.07}


def test_a_new_stage_says_where_it_goes(write: Write) -> None:
    stage = "module: {class_path: train, init_args: {loss: softmax, negatives: []}}"
    text = f"""
    extends: base.yaml
    stages:
      second: {{after: train, {stage}}}
      third: {{after: second, {stage}}}
    """
    assert list(recipe.load(write(text)).stages) == ["train", "second", "third", "last"]
    moved = recipe.load(write(text), ["--stages.train.after", "last"])
    assert list(moved.stages) == ["second", "third", "last", "train"]
    assert message(write(f"{{extends: base.yaml, stages: {{trian: {{{stage}}}}}}}")) == (
        "child.yaml: stages.trian: a new stage says `after: NAME`; to change one, did you mean 'train'?"
    )
    assert message(write(f"{{extends: base.yaml, stages: {{new: {{after: lst, {stage}}}}}}}")) == (
        "child.yaml: stages.new.after: no stage 'lst'; did you mean 'last'?"
    )


def test_extends_is_relative_to_the_file_or_names_a_shipped_recipe(write: Write, tmp_path: Path) -> None:
    write("extends: base.yaml")
    (tmp_path / "folder").mkdir()
    nested = write("extends: ../child.yaml", "folder/nested.yaml")
    assert recipe.load(nested).config == recipe.load("base.yaml", ["--changes", "null"]).config
    assert recipe.load(write("extends: iter1", "mine.yaml")).stages.keys() == recipe.load("iter1.yaml").stages.keys()


def test_circles_are_refused_with_their_path(write: Write) -> None:
    write("extends: b.yaml", "a.yaml")
    write("extends: c.yaml", "b.yaml")
    write("extends: a.yaml", "c.yaml")
    assert message(Path("a.yaml")) == (
        "c.yaml: extends: recipes extend each other in a circle: a.yaml → b.yaml → c.yaml → a.yaml"
    )


def test_a_missing_recipe_is_named(write: Write) -> None:
    known = shorten(", ".join(name for name in recipe.shipped() if not name.startswith("studies/")), 200)
    assert message(write("extends: bse.yaml")) == f"child.yaml: extends: 'bse.yaml': no such recipe; known: {known}"
    assert message(Path("iter11.yaml")) == "iter11.yaml: no such recipe; did you mean 'iter1'?"


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("stags.train.x=1", "stags: unknown key; did you mean 'stages'?"),
        ("seed=abc", "seed: expected int, got 'abc'"),
        ("changes=3", "changes: expected dict[str, str], got 3"),
        ("data=shp", "data: unknown sources/shp; did you mean 'shop' (this process)?"),
        ("data.init_args.size=huge", "data.init_args.size: expected one of 'tiny', 'small', got 'huge'"),
        ("data.size=tiny", "data.size: unknown key; a component has class_path and init_args"),
        ("data=null", "data: missing; expected one of sources ("),
        ("encoder=shop", "encoder: unknown encoders/shop; "),
        ("stages.train.trainer.max_stps=3", "stages.train.trainer.max_stps: unknown key; did you mean 'max_steps'?"),
        ("stages.train.trainer.max_steps=x", "stages.train.trainer.max_steps: expected int, got 'x'"),
        ("stages.train.trainer.max_steps=1e3", "stages.train.trainer.max_steps: expected int, got 1000.0"),
        ("stages.train.data.batch=3", "stages.train.data.batch: unknown key; did you mean 'batch_size'?"),
        ("stages.train.data.tasks.text=x", "stages.train.data.tasks.text: expected float, got 'x'"),
        ("stages.train.data=3", "stages.train.data: expected a mapping of the arguments of TrainData, got 3"),
        ("stages.train.modul=3", "stages.train.modul: unknown key; did you mean 'module'?"),
        ("stages.train=3", "stages.train: expected a mapping with module, data, trainer; got 3"),
        ("stages=3", "stages: expected a mapping from names to stages, got 3"),
        (
            "stages.train.module.init_args.losss=softmax",
            "stages.train.module.init_args.losss: unknown key; did you mean 'loss'?",
        ),
        (
            "stages.train.module.init_args.loss=softmx",
            "stages.train.module.init_args.loss: unknown losses/softmx; did you mean 'softmax' (this process)?",
        ),
        (
            "stages.train.module.init_args.loss.init_args.temperatur=1",
            "stages.train.module.init_args.loss.init_args.temperatur: unknown key; did you mean 'temperature'?",
        ),
        (
            "stages.train.module.init_args.loss.init_args.temperature=hot",
            "stages.train.module.init_args.loss.init_args.temperature: expected float, got 'hot'",
        ),
        (
            "stages.train.module.init_args.negatives=[random, {class_path: random, init_args: {count: many}}]",
            "stages.train.module.init_args.negatives.1.init_args.count: expected int, got 'many'",
        ),
        (
            "stages.train.module.init_args.negatives=random",
            "stages.train.module.init_args.negatives: expected list[NegativeSampler], got 'random'",
        ),
        ("stages.train.module.init_args.loss=null", "stages.train.module.init_args.loss: missing; Train needs one of "),
        ("stages.train.module.init_args.bank=3", "stages.train.module.init_args.bank: expected one of losses ("),
        ("stages.train.module=os.path.join", "stages.train.module: os.path.join is not a class"),
        ("stages.train.module=no.such.Stage", "stages.train.module: no.such.Stage cannot be imported: ModuleNotFound"),
        (
            "stages.train.module.init_args.loss=moonlib.negatives.in_batch.InBatch",
            "stages.train.module.init_args.loss: expected one of losses (",
        ),
    ],
)
def test_a_mistake_is_one_line_with_the_keys_path(write: Write, override: str, problem: str) -> None:
    assert message(write("extends: base.yaml"), f"--{override}").startswith(f"command line: {problem}")


def test_an_error_names_the_file_that_says_it(write: Write, tmp_path: Path) -> None:
    write("extends: base.yaml\nstages: {train: {trainer: {max_steps: x}}}", "middle.yaml")
    path = write("extends: middle.yaml\nstages: {train: {trainer: {max_epochs: 2}}}")
    assert message(path) == "middle.yaml: stages.train.trainer.max_steps: expected int, got 'x'"
    assert message(path, "--stages.train.trainer.max_steps", "y").startswith("command line: stages.train.trainer.max_s")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("seed: 1\ndata: [\n", "child.yaml:3: not valid YAML: "),
        ("seed: 1\nseed: 2", "child.yaml:2: not valid YAML: 'seed' is given twice"),
        ("- a", "child.yaml: is no recipe: expected a mapping with keys such as data, encoder, stages, got list"),
        ("extends: [a]", "child.yaml: extends: expected a file or the name of a shipped recipe, got ['a']"),
        ("data: shop", "child.yaml: stages: a recipe needs at least one stage"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(write: Write, text: str, problem: str) -> None:
    assert message(write(text)).startswith(problem)


@pytest.mark.parametrize(
    "content",
    [
        b"root:x:0:hunter2:/root\ndaemon:x:1:1\n",
        b"root: $6$hunter2\n",
        b'{"password": "hunter2"}',
        b"TOKEN=hunter2\nOTHER: [\n",
        b"- hunter2\n",
        b"hunter2\xff\x00",
        b"",
    ],
)
def test_what_is_extended_and_is_no_recipe_is_not_printed(write: Write, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret").write_bytes(content)
    told = message(write("extends: secret"))
    assert told.startswith("secret") and ("is no recipe" in told or "not valid YAML" in told)
    assert "hunter2" not in told


def test_recipe_check_imports_nothing_from_the_current_folder(tmp_path: Path) -> None:
    """The script `moonlib` finds modules where Python's path leads, and not where it happens to be started."""
    (tmp_path / "here.py").write_text("open('imported', 'w').close()")
    recipe = "extends: iter1\nstages: {pretrain: {module: {init_args: {loss: here.Loss}}}}"
    (tmp_path / "mine.yaml").write_text(recipe)
    script = Path(sys.executable).with_name("moonlib")
    words = [str(script), "recipe", "check", "mine.yaml"]
    done = subprocess.run(words, cwd=tmp_path, stdout=-1, stderr=-1, text=True)
    assert done.returncode == 1 and "here.Loss cannot be imported: ModuleNotFoundError" in done.stdout + done.stderr
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["seed", "1"], "command line: expected --key value, got 'seed'"),
        (["--seed"], "command line: seed: expected a value"),
        (["--seed", "1", "--seed.a", "2"], "command line: seed.a: 'seed' is given a value of its own as well"),
        (["--seed", "["], "command line: seed:1: not valid YAML: "),
    ],
)
def test_words_that_are_no_override_are_refused(write: Write, words: list[str], problem: str) -> None:
    assert message(write(BASE), *words).startswith(problem)


def test_overrides_are_yaml_and_reach_every_key(write: Write) -> None:
    words = ["--seed=7", "--stages.train.data.tasks", "{'text -> image': 1e-1, image -> title+image: null}"]
    loaded = recipe.load(write("extends: base.yaml"), [*words, "--stages.train.trainer.overfit_batches", "1"])
    assert loaded.seed == 7
    assert loaded.stages["train"].data().tasks == {"text -> image": 0.1}
    assert loaded.stages["train"].config["trainer"]["overfit_batches"] == 1


def test_a_training_stage_may_be_probed_and_else_keeps_its_configuration() -> None:
    plain = recipe.load("iter2")
    probed = recipe.load("iter2", ["--stages.posttrain.checkpoint_evaluation.every", "50"])
    assert all(
        stage.schedule is None and "checkpoint_evaluation" not in stage.config for stage in plain.stages.values()
    )
    stage = probed.stages["posttrain"]
    assert stage.schedule is not None and stage.schedule.every == 50
    assert stage.config == {**plain.stages["posttrain"].config, "checkpoint_evaluation": {"every": 50}}
    assert recipe.diff(plain.config, probed.config) == [
        ("stages.posttrain.checkpoint_evaluation.every", recipe.NOT_SET, 50)
    ]
    assert stage.override({"learning_rate": 0.5}).schedule == stage.schedule


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        (
            "posttrain.checkpoint_evaluation.evry=3",
            "posttrain.checkpoint_evaluation.evry: unknown key; did you mean 'every'?",
        ),
        (
            "posttrain.checkpoint_evaluation={}",
            "posttrain.checkpoint_evaluation.every: missing; EvaluationSchedule needs int",
        ),
        (
            "posttrain.checkpoint_evaluation.every=often",
            "posttrain.checkpoint_evaluation.every: expected int, got 'often'",
        ),
        ("posttrain.checkpoint_evaluation.every=0", "posttrain.checkpoint_evaluation: every must be at least 1, got 0"),
        (
            "posttrain.checkpoint_evaluatio.every=3",
            "posttrain.checkpoint_evaluatio: unknown key; did you mean 'checkpoint_evaluation'?",
        ),
        ("represent.checkpoint_evaluation.every=3", "represent.checkpoint_evaluation: Represent trains no encoder, "),
    ],
)
def test_a_mistake_in_a_probe_is_one_line_with_the_keys_path(override: str, problem: str) -> None:
    assert message(Path("iter2"), f"--stages.{override}").startswith(f"command line: stages.{problem}")


def test_a_value_that_the_constructor_refuses_is_an_error_with_its_key(write: Write) -> None:
    loaded = recipe.load(write("extends: base.yaml"), ["--data.init_args.seed", "-1"])
    with pytest.raises(RecipeError, match=r"^data\.init_args: shop: seed -1 is negative$"):
        loaded.source()


def test_a_class_inside_a_function_is_refused(write: Write) -> None:
    class Hidden(Softmax):
        pass

    moonlib.register("losses", "hidden")(Hidden)
    assert "is defined inside a function" in message(write(BASE), "--stages.train.module.init_args.loss", "hidden")


def test_override_changes_only_the_modules_arguments(write: Write) -> None:
    last = recipe.load(write(BASE)).stages["last"]
    changed = last.override({"loss": "info_nce", "learning_rate": 0.5})
    assert isinstance(changed, StageRecipe) and changed.name == "last"
    assert changed.config["module"]["init_args"]["loss"]["class_path"] == "moonlib.losses.info_nce.InfoNCE"
    assert changed.config["module"]["init_args"]["learning_rate"] == 0.5
    assert changed.config["data"] == last.config["data"]
    assert last.config["module"]["init_args"]["learning_rate"] == 1e-3
    with pytest.raises(RecipeError, match=r"stages\.last\.module\.init_args\.lss: unknown key; did you mean 'loss'"):
        last.override({"lss": "info_nce"})


def test_the_merged_recipe_is_a_recipe_of_its_own(write: Write) -> None:
    loaded = recipe.load(write("{extends: base.yaml, changes: {data: more}, stages: {last: null}}"))
    again = recipe.load(write(yaml.safe_dump(loaded.config, sort_keys=False), "again.yaml"))
    assert again.config == loaded.config
    assert {name: stage.config for name, stage in again.stages.items()} == {
        name: stage.config for name, stage in loaded.stages.items()
    }
    assert recipe.diff(loaded.config, again.config) == []


def test_diff_tells_each_key_with_both_values(write: Write) -> None:
    base = recipe.load(write("extends: base.yaml"))
    words = ["--seed=4", "--stages.train.data.batch_size=null", "--stages.train.trainer.max_epochs=2"]
    other = recipe.load("base.yaml", ["--changes=null", *words, "--stages.train.after=last"])
    assert recipe.diff(base.config, other.config) == [
        ("seed", 3, 4),
        ("stages.train.data.batch_size", 8, recipe.NOT_SET),
        ("stages.train.trainer.max_epochs", recipe.NOT_SET, 2),
        ("stages", ["train", "last"], ["last", "train"]),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)
MAPPINGS = st.dictionaries(st.sampled_from("abc"), JSON, max_size=3)


@given(MAPPINGS)
def test_merging_nothing_changes_nothing(value: dict[str, Any]) -> None:
    assert merge(value, {}) == value
    assert merge({}, value) == value


@given(MAPPINGS, MAPPINGS)
def test_a_merge_says_what_the_child_says(parent: dict[str, Any], child: dict[str, Any]) -> None:
    before = json.dumps([parent, child])
    merged = merge(parent, child)
    assert json.dumps([parent, child]) == before
    for key, value in child.items():
        if not isinstance(value, dict) and value is not None:
            assert merged[key] == value
    for key in parent.keys() - child.keys():
        assert merged[key] == parent[key]


@given(MAPPINGS)
def test_a_fingerprint_depends_on_values_and_not_on_order(value: dict[str, Any]) -> None:
    assert recipe.fingerprint(value) == recipe.fingerprint(dict(reversed(value.items())))
    assert recipe.fingerprint({**value, "new": 1}) != recipe.fingerprint({**value, "new": 2})
    assert recipe.fingerprint([value, 1]) != recipe.fingerprint([1, value])


def test_the_fingerprint_never_moves() -> None:
    assert recipe.fingerprint({"b": [1, 2.5, None, True], "a": "纹"}) == "8e881e911c9309ac"


class Fraction:
    def __init__(self, batches: float | int | None = None, share: float = 1) -> None:
        self.batches, self.share = batches, share


def test_an_int_stays_an_int_where_one_is_allowed() -> None:
    """Lightning reads 1 as one batch and 1.0 as all of them."""
    built = construct(Fraction, {"batches": 1, "share": 1}, ("trainer",))
    assert repr(built.resolved) == "{'batches': 1, 'share': 1.0}"
    assert repr(vars(built.build())) == "{'batches': 1, 'share': 1.0}"


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 10**20),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(
        ["train", "softmax", "random", "shop", "tiny", "os.path.join", "os", "a.b", ".", "..", "1e3", "../x"]
    ),
)
KEYS = st.one_of(
    st.sampled_from(
        [
            "seed",
            "changes",
            "data",
            "encoder",
            "stages",
            "scale",
            "extends",
            "train",
            "last",
            "module",
            "trainer",
            "checkpoint_evaluation",
            "after",
            "class_path",
            "init_args",
            "loss",
            "negatives",
            "callbacks",
            "max_steps",
            "tasks",
            "batch_size",
            "every",
            "size",
        ]
    ),
    st.text(max_size=4),
    st.none(),
    st.booleans(),
    st.integers(-1, 2),
    st.floats(allow_nan=False),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
PATHS = st.sampled_from(
    [
        *((), ("seed",), ("data",), ("encoder",), ("stages",), ("stages", "train"), ("stages", "train", "module")),
        *(("stages", "train", part) for part in ("data", "trainer", "checkpoint_evaluation", "after")),
        *(("stages", "train", "module", "init_args", part) for part in ("loss", "negatives", "bank")),
        *(("data", "init_args"), ("data", "class_path"), ("changes",), ("extends",)),
    ]
)


def loads_or_tells(path: Path, overrides: list[str]) -> None:
    """Loading, and what the verbs do with a recipe, either works or tells what is wrong on one line."""
    try:
        loaded = recipe.load(path, overrides)
        for stage in loaded.stages.values():
            assert stage_problem(stage.name) is None
            stage.module(), stage.data()
        loaded.source(), loaded.encoder()
        assert yaml.safe_load(yaml.safe_dump(loaded.config)) is not None
        assert recipe.diff(loaded.config, loaded.config) == []
    except RecipeError as error:
        assert "\n" not in visible(str(error)).rstrip()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=120)
@given(place=PATHS, value=VALUES)
def test_whatever_a_recipe_holds_is_loaded_or_told(write: Write, place: tuple[str, ...], value: object) -> None:
    content: Any = value
    for key in reversed(place):
        content = {key: content}
    whole = {"extends": "base.yaml", **content} if isinstance(content, dict) and "extends" not in content else content
    loads_or_tells(write(yaml.safe_dump(whole, allow_unicode=True)), [])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=120)
@given(
    words=st.lists(
        st.one_of(
            st.text(max_size=8),
            st.builds(
                lambda key, value: f"--{'.'.join(key)}={value}",
                PATHS | st.lists(KEYS.map(str), max_size=4).map(tuple),
                st.text(max_size=8) | VALUES.map(lambda value: yaml.safe_dump(value, default_flow_style=True).strip()),
            ),
        ),
        max_size=3,
    )
)
def test_whatever_the_command_line_says_is_taken_or_told(write: Write, words: list[str]) -> None:
    loads_or_tells(write("extends: base.yaml"), words)


@settings(max_examples=500)
@given(st.text() | st.text("./\\-_a1 \0", max_size=8))
def test_a_name_leads_nowhere_but_down(name: str) -> None:
    try:
        place = Path("/runs") / run_name(name)
    except BadNameError as error:
        assert repr(name) in str(error)
    else:
        assert str(place) == os.path.normpath(place) == f"/runs/{name}" and place.is_relative_to("/runs/")
        assert not any(part.startswith((".", "-")) for part in place.parts)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--stages.pretrain.keep=best"], "best is what validation says: set validate.every"),
        (["--stages.pretrain.keep=first"], "expected one of last, best, got 'first'"),
        (["--stages.pretrain.validate={evry: 2}"], "evry"),
        (["--stages.pretrain.validate={every: 0}"], "every must be at least 1, got 0"),
        (["--stages.pretrain.validate={every: soon}"], "stages.pretrain.validate.every"),
        (["--stages.represent.validate={every: 2}"], "Represent is not measured while it trains"),
    ],
)
def test_a_wrong_key_of_validation_is_named(words: list[str], message: str) -> None:
    with pytest.raises(recipe.RecipeError) as error:
        recipe.load("iter1", words)
    assert message in str(error.value)


def test_validation_is_part_of_what_is_fingerprinted_only_where_it_is_given() -> None:
    plain, last, best = (
        recipe.load("iter1", words).stages["pretrain"]
        for words in (
            [],
            ["--stages.pretrain.keep=last"],
            ["--stages.pretrain.validate.every=5", "--stages.pretrain.keep=best"],
        )
    )
    assert plain.config == last.config and plain.validate is None and plain.keep == "last"
    assert best.config["keep"] == "best" and best.config["validate"]["every"] == 5
    assert best.validate is not None and best.validate.every == 5 and best.keep == "best"
