from __future__ import annotations

import json
import logging
import shutil
import warnings
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import Callback, LightningModule, Trainer, seed_everything
from safetensors.torch import load_file

from moonlib.adapters.cube import Cube
from moonlib.adapters.id_only import IdOnly
from moonlib.adapters.make import Make
from moonlib.adapters.semantic_id import SemanticId
from moonlib.adapters.simtier import SimTier
from moonlib.artifacts.reading import Unreadable
from moonlib.clicks.impressions import Vocabularies
from moonlib.clicks.price import PriceScale
from moonlib.clicks.saved_vocabularies import SEEN, Description, SavedVocabularies, save_vocabularies
from moonlib.clicks.vocabulary import Vocabulary
from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.data.ids import IdMap, ShopIds
from moonlib.data.tables import SCHEMAS, Tables
from moonlib.predictors.dcnv2 import DCNv2
from moonlib.predictors.mlp import MLP
from moonlib.stages.application import Application, ImpressionData
from moonlib.stages.click_warm_start import ClickWarmStart, carried_over
from moonlib.stages.stage import StageContext
from moonlib.stages.tune import Tune
from moonlib.testing.data import with_text_ids
from moonlib.testing.examples import EXAMPLE_SPLITS, example_tables

END = datetime(2025, 1, 8, tzinfo=UTC)


class FirstBatch(Callback):
    """Remembers weights before the first step of every epoch."""

    def __init__(self) -> None:
        self.begin: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            self.begin.append({name: value.clone() for name, value in pl_module.state_dict().items()})


def context_of(
    shop: Dataset, directory: Path, source: Path | None, represented: Path | None, epochs: int, **data: Any
) -> StageContext:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    directory.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[FirstBatch()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=directory,
    )
    settings = ImpressionData(**{"batch_size": 64, **data})
    return StageContext(shop, settings, trainer, directory, seed=3, representations=represented, warm_start=source)


def run(
    shop: Dataset,
    directory: Path,
    stage: Application,
    source: Path | None = None,
    represented: Path | None = None,
    epochs: int = 1,
    **data: Any,
) -> tuple[Path, FirstBatch]:
    seed_everything(0, verbose=False)
    context = context_of(shop, directory, source, represented, epochs, **data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stage.run(context)
    watch = context.trainer.callbacks[0]  # type: ignore[attr-defined]
    assert isinstance(watch, FirstBatch)
    return directory, watch


def predictions(directory: Path) -> pl.DataFrame:
    return pl.read_parquet(directory / "predictions.parquet")


def table(directory: Path, name: str) -> dict[Any, torch.Tensor]:
    """The embedding of each of a table's ids, in the shop's words."""
    entries = pl.read_parquet(directory / "vocabularies" / f"{name}.parquet")
    weights = load_file(directory / "weights.safetensors")[f"{name}.weight"]
    key = "id" if "id" in entries.columns else "value"
    assert len(weights) == len(entries) + 1
    return dict(zip(entries[key], weights[1:], strict=True))


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """A shop with text ids before and after three users, and the products that they alone touched, have come."""
    later = with_text_ids(example_tables())
    newcomers = later.users["user_id"].to_list()[:3]
    known = [later[name].filter(~pl.col("user_id").is_in(newcomers)) for name in ("users", "searches", "impressions")]
    users, searches, impressions = known
    touched = pl.concat([searches["item_id"], impressions["item_id"]]).unique()
    products = later.products.filter(pl.col("item_id").is_in(touched.implode()))
    assert len(products) < len(later.products)
    earlier = replace(later, products=products, users=users, searches=searches, impressions=impressions)
    made = []
    for name, tables in (("earlier", earlier), ("later", later)):
        made.append(built(tables, tmp_path_factory.mktemp("shop") / name))
    return made[0], made[1]


def built(tables: Tables, folder: Path) -> Dataset:
    """A dataset of tables, without pictures."""
    (folder / "tables").mkdir(parents=True)
    for name in SCHEMAS:
        if tables[name].height:
            frame = tables[name].drop("image", strict=False) if name == "products" else tables[name]
            if name == "queries":
                frame = frame.with_columns(text=pl.coalesce("text", "image")).drop("image")
            frame.write_parquet(folder / "tables" / f"{name}.parquet")
    return Dataset(build(folder / "tables", None, folder / "data", splits=EXAMPLE_SPLITS, workers=1))


# --- by id, and not by place

FEW = st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), unique=True, max_size=12)


@settings(max_examples=40, deadline=None)
@given(before=FEW, now=FEW, as_text=st.booleans(), seed=st.integers(0, 99))
def test_rows_go_by_what_they_are_of(
    before: list[int], now: list[int], as_text: bool, seed: int, shop: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Against a dictionary from ids to embeddings; text ids have other numbers in the later dataset."""
    directory = tmp_path_factory.mktemp("carried")
    shuffled = np.random.default_rng(seed)

    def dataset(ids: list[int]) -> tuple[Dataset, np.ndarray[Any, Any]]:
        other = copy(shop)
        texts = pl.Series(list(map(str, shuffled.permutation(ids))), dtype=pl.String)
        parts = [texts[:3], texts[3:]] if as_text else []
        maps = IdMap([IdMap.of([part]).parts[0] for part in parts]) if as_text else None
        other.__dict__["ids"] = ShopIds({} if maps is None else {"user": maps})
        wanted = pl.Series(list(map(str, ids)), dtype=pl.String)
        numbers = np.array(ids, dtype=np.int64) if maps is None else maps.encode(wanted).to_numpy()
        return other, numbers

    def vocabularies(users: np.ndarray[Any, Any]) -> Vocabularies:
        user, none = Vocabulary(users), Vocabulary(np.zeros(0, dtype=np.int64))
        entries = pl.DataFrame({"value": user.values}).with_columns(last_seen=pl.lit(END).cast(SEEN))
        empty = entries.clear()
        texts = pl.Series(dtype=pl.String)
        rest = {"item": empty, "query": empty, "merchant": empty, "category": empty.cast({"value": pl.String})}
        return Vocabularies(user, none, none, texts, none, {"user": entries, **rest})

    first, numbers = dataset(before)
    known = vocabularies(numbers)
    description = Description(END, known.sizes, [], PriceScale(0, 0, 1), [], {})
    save_vocabularies(directory, first, description, known.entries)
    second, numbers = dataset(now)
    grown = vocabularies(numbers)
    start = ClickWarmStart(SavedVocabularies(directory, second), grown, None)
    old = torch.randn(len(known.user), 2)
    tensor = torch.full((len(grown.user), 2), torch.nan)
    start._load("user.weight", tensor, old)
    of = {
        name: old[int(row)] for name, row in zip(before, known.user.rows(dataset_numbers(first, before)), strict=True)
    }
    for name, row in zip(now, grown.user.rows(numbers), strict=True):
        expected = of.get(name, torch.full((2,), torch.nan))
        assert torch.equal(tensor[int(row)].nan_to_num(7), expected.nan_to_num(7))
    assert torch.equal(tensor[0], old[0])
    both = len(set(before) & set(now))
    assert start.counts["user"] == {"carried": both, "new": len(now) - both, "left": len(before) - both}


def dataset_numbers(dataset: Dataset, ids: list[int]) -> np.ndarray[Any, Any]:
    encoded = dataset.ids.of("user_id")
    if encoded is None:
        return np.array(ids, dtype=np.int64)
    return encoded.encode(pl.Series(list(map(str, ids)), dtype=pl.String)).to_numpy()


MODELS: dict[str, Callable[[], Application]] = {
    "cube and features": lambda: Application(
        Cube(),
        DCNv2(cross_layers=1, hidden=[8]),
        features={
            "products.attributes": "multi_valued",
            "products.price": "log_numeric",
            "users.user_id": "categorical",
            "products.category": "categorical",
        },
        sparse=True,
    ),
    "hashed": lambda: Application(SemanticId(levels=2, codes=4), MLP([8]), buckets=7),
    "pretrained": lambda: Application(Make(epochs=1, width=4, hidden=[6]), MLP([8])),
    "tuned": lambda: Application(Cube(), MLP([8]), tune=Tune(rank=3)),
    "rare ids": lambda: Application(SimTier(), MLP([8]), min_count=3, id_epochs=1),
}


@pytest.mark.parametrize("model", MODELS)
def test_without_a_step_it_predicts_what_the_earlier_model_does(
    model: str, shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    source, _ = run(shop, tmp_path / "source", MODELS[model](), represented=represented, epochs=2)
    directory, watch = run(shop, tmp_path / "later", MODELS[model](), source, represented, epochs=0)
    assert not watch.begin
    assert predictions(directory).equals(predictions(source))
    counts = json.loads((directory / "carried_over.json").read_text())
    assert all(each["new"] == each["left"] == 0 for each in counts.values()) and counts["item"]["carried"] > 0


def test_known_ids_keep_their_embeddings_where_the_vocabulary_has_grown(
    shops: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    earlier, later = shops

    def make() -> Application:
        return Application(IdOnly(), MLP([8]), features={"users.user_id": "categorical", "products.price": "numeric"})

    source, _ = run(earlier, tmp_path / "source", make(), epochs=3)
    scratch, _ = run(later, tmp_path / "scratch", make(), epochs=0)
    directory, _ = run(later, tmp_path / "later", make(), source, epochs=0)
    for name in ("user", "item", "merchant", "category"):
        before, now, fresh = table(source, name), table(directory, name), table(scratch, name)
        assert all(torch.equal(now[key], value) for key, value in before.items())
        assert now.keys() == fresh.keys() | before.keys()
        assert all(torch.equal(now[key], fresh[key]) for key in now.keys() - before.keys())
    assert len(table(directory, "user")) == len(table(source, "user")) + 2
    # The numbers of text ids are others in the larger shop, and so are the rows: where nothing new takes part, the
    # predictions are the same.
    new = pl.Series(list(table(directory, "item").keys() - table(source, "item").keys()), dtype=pl.String).implode()
    acted = later.ids.decoded(later.searches, "user_id", "item_id")
    touched = acted.filter(pl.col("item_id").is_in(new))["user_id"].implode()
    keys = ["search_id", "user_id", "item_id", "split"]
    both = predictions(source).join(predictions(directory), on=keys, how="left", maintain_order="left")
    both = both.filter(~pl.col("item_id").is_in(new), ~pl.col("user_id").is_in(touched))
    assert len(both) > 20
    assert both["probability"].equals(both["probability_right"].rename("probability"))
    counts = json.loads((directory / "carried_over.json").read_text())
    assert counts["users.user_id"] == counts["user"] == {"carried": 9, "new": 2, "left": 0}


def test_text_ids_that_the_dataset_does_not_know_leave(shops: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    earlier, later = shops
    source, _ = run(later, tmp_path / "source", Application(IdOnly(), MLP([8])), epochs=2)
    directory, _ = run(earlier, tmp_path / "smaller", Application(IdOnly(), MLP([8])), source, epochs=0)
    before, now = table(source, "user"), table(directory, "user")
    assert len(now) == len(before) - 2 and all(torch.equal(before[key], value) for key, value in now.items())
    assert json.loads((directory / "carried_over.json").read_text())["user"] == {"carried": 9, "new": 0, "left": 2}


def test_ids_that_begin_anew_after_an_epoch_begin_as_they_were_carried_over(
    shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    source, _ = run(shop, tmp_path / "source", MODELS["rare ids"](), represented=represented)
    _, watch = run(shop, tmp_path / "later", MODELS["rare ids"](), source, represented, epochs=2)
    weights = load_file(source / "weights.safetensors")
    for epoch in (0, 1):
        assert torch.equal(watch.begin[epoch]["model.item.weight"], weights["item.weight"])
    assert not torch.equal(watch.begin[1]["model.adapter.scale"], weights["adapter.scale"])


def test_an_adapter_is_neither_fitted_nor_pretrained_again(
    shop: Dataset, represented: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = run(shop, tmp_path / "make", MODELS["pretrained"](), represented=represented)
    _, watch = run(shop, tmp_path / "made", MODELS["pretrained"](), source, represented, epochs=2)
    assert len(watch.begin) == 2
    source, _ = run(shop, tmp_path / "source", MODELS["hashed"](), represented=represented)
    monkeypatch.setattr(SemanticId, "fit", lambda self, vectors: pytest.fail("fitted again"))
    run(shop, tmp_path / "later", MODELS["hashed"](), source, represented)


# --- what leaves


def test_ids_unseen_for_long_leave_and_begin_anew_should_they_come_back(shop: Dataset, tmp_path: Path) -> None:
    def make(days: int | None) -> Application:
        return Application(IdOnly(), MLP([8]), forget_after=days, features={"users.user_id": "categorical"})

    source, _ = run(shop, tmp_path / "source", make(None))
    directory, _ = run(shop, tmp_path / "later", make(1), source, epochs=0)
    end = shop.splits.train_until
    seen: dict[str, dict[int, datetime]] = {"user": {}, "item": {}}
    shown = shop.splits.select(shop.impressions, "train")
    acted = shop.searches.filter(pl.col("ts") < end)
    for user, item, ts in shown.select("user_id", "item_id", "ts").iter_rows():
        seen["user"][user] = max(ts, seen["user"].get(user, ts))
        seen["item"][item] = max(ts, seen["item"].get(item, ts))
    for item, ts in acted.select("item_id", "ts").iter_rows():
        seen["item"][item] = max(ts, seen["item"].get(item, ts))
    for name, when in seen.items():
        entries = pl.read_parquet(directory / "vocabularies" / f"{name}.parquet")
        expected = {key: ts for key, ts in when.items() if ts >= end - timedelta(days=1)}
        assert dict(entries.select("id", "last_seen").iter_rows()) == expected
        assert set(table(source, name)) == when.keys() and len(expected) < len(when)
    counts = json.loads((directory / "carried_over.json").read_text())
    assert counts["item"]["left"] == len(table(source, "item")) - len(table(directory, "item")) > 0
    # Back again: the row is one of the new ones.
    back, _ = run(shop, tmp_path / "back", make(None), directory, epochs=0)
    assert json.loads((back / "carried_over.json").read_text())["item"]["new"] == counts["item"]["left"]


def test_what_a_later_day_has_not_seen_keeps_the_moment_when_it_was_seen(shop: Dataset, tmp_path: Path) -> None:
    """Day by day: each day's impressions alone are trained on, and users of the days before stay known."""
    first, _ = run(shop, tmp_path / "1", Application(IdOnly(), MLP([8])), day="2024-01-06")
    second, _ = run(shop, tmp_path / "2", Application(IdOnly(), MLP([8])), first, day="2024-01-07")
    users = pl.read_parquet(second / "vocabularies/user.parquet")
    begin, end = datetime(2024, 1, 6, tzinfo=UTC), datetime(2024, 1, 8, tzinfo=UTC)
    shown = shop.impressions.filter(pl.col("ts").is_between(begin, end, closed="left"))
    expected = shown.group_by("user_id").agg(pl.col("ts").max()).sort("user_id")
    assert users["id"].to_list() == expected["user_id"].to_list()
    assert users["last_seen"].to_list() == expected["ts"].to_list()


def test_hashed_ids_cannot_leave() -> None:
    with pytest.raises(ValueError, match="forget_after: hashed ids share rows, so none can leave"):
        Application(IdOnly(), MLP(), buckets=10, forget_after=60)
    with pytest.raises(ValueError, match="forget_after must be at least 1, got 0"):
        Application(IdOnly(), MLP(), forget_after=0)


# --- the weights of a finished one


@pytest.mark.parametrize("model", ["cube and features", "hashed"])
def test_a_model_that_started_from_another_scores_as_it_predicted(
    model: str, shop: Dataset, represented: Path, tmp_path: Path
) -> None:
    source, _ = run(shop, tmp_path / "1", MODELS[model](), represented=represented, day="2024-01-06")
    directory, _ = run(shop, tmp_path / "2", MODELS[model](), source, represented)
    stage = MODELS[model]()
    context = context_of(shop, directory, None, represented, 1)
    test = shop.splits.select(shop.impressions, "test")
    expected = predictions(directory).filter(pl.col("split") == "test")["probability"].to_numpy()
    assert np.array_equal(stage.score(context, test), expected)


def test_nothing_of_a_day_after_is_read_before_the_test(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    """Neither clicks nor actions of what follows a day change its model; clicks do not change its predictions."""
    end = datetime(2024, 1, 7, tzinfo=UTC)
    later = pl.col("ts") >= end
    clicks, actions = copy(shop), copy(shop)
    clicks.__dict__["impressions"] = shop.impressions.with_columns(clicked=pl.col("clicked") ^ later)
    actions.__dict__["searches"] = shop.searches.filter(pl.col("ts") < end)
    directories = [
        run(data, tmp_path / name, MODELS["cube and features"](), represented=represented, day="2024-01-06")[0]
        for name, data in (("true", shop), ("clicks", clicks), ("actions", actions))
    ]
    weights = [load_file(directory / "weights.safetensors") for directory in directories]
    kept = [sorted((directory / "vocabularies").iterdir()) for directory in directories]
    for other in (1, 2):
        assert all(torch.equal(weights[0][name], value) for name, value in weights[other].items())
        assert all(one.read_bytes() == two.read_bytes() for one, two in zip(kept[0], kept[other], strict=True))
    true, flipped, alone = map(predictions, directories)
    tested = shop.impressions.filter(later & (pl.col("ts") < end + timedelta(days=1)))
    assert set(true["split"]) == {"test"} and set(true["search_id"]) == set(tested["search_id"])
    assert (true["clicked"] ^ flipped["clicked"]).all()
    assert true["probability"].equals(flipped["probability"])
    assert not true["probability"].equals(alone["probability"])  # the histories of the test day grow as it goes on


# --- bad input


def test_the_first_difference_is_named(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    source, _ = run(shop, tmp_path / "source", Application(SimTier(), MLP([8])), represented=represented)
    cases: dict[str, tuple[Application, str]] = {
        "adapter": (Application(Cube(), MLP([8])), "adapter is SimTier there and Cube here; give the recipe what"),
        "width": (
            Application(SimTier(), MLP([9])),
            r"hidden0.weight' is \[8, 164\] there and \[9, 164\] here",
        ),
        "activation": (Application(SimTier(), MLP([8], activation="prelu")), "predictor: .* there and .*PReLU here"),
        "id_dim": (Application(SimTier(), MLP([8]), id_dim=4), r"'user.weight' is \[12, 16\] there and \[12, 4\] here"),
        "buckets": (
            Application(SimTier(), MLP([8]), buckets=9),
            "exact vocabularies there and 9 buckets here",
        ),
        "features": (
            Application(SimTier(), MLP([8]), features={"products.price": "numeric"}),
            "features: products.price is not declared there and numeric here; give the recipe what",
        ),
        "bins": (Application(SimTier(bins=12), MLP([8])), "there and .* here"),
        "tune": (
            Application(SimTier(), MLP([8]), tune=Tune(rank=3)),
            "tune is nothing there and LowRankResidual here; give the recipe what that model was trained with",
        ),
    }
    for name, (stage, message) in cases.items():
        with pytest.raises(ValueError, match=message):
            run(shop, tmp_path / name, stage, source, represented)
        assert not (tmp_path / name / "weights.safetensors").exists()


def test_a_tuning_of_another_rank_is_named(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    source, _ = run(shop, tmp_path / "source", Application(SimTier(), MLP([8]), tune=Tune(3)), represented=represented)
    with pytest.raises(ValueError, match=r"'tune.down' is \[8, 3\] there and \[8, 4\] here"):
        run(shop, tmp_path / "later", Application(SimTier(), MLP([8]), tune=Tune(4)), source, represented)
    with pytest.raises(ValueError, match="tune is LowRankResidual there and nothing here"):
        run(shop, tmp_path / "without", Application(SimTier(), MLP([8])), source, represented)


def test_buckets_of_another_number_are_refused(shop: Dataset, tmp_path: Path) -> None:
    source, _ = run(shop, tmp_path / "source", Application(IdOnly(), MLP([8]), buckets=9))
    with pytest.raises(ValueError, match="user has 9 buckets there and 10 buckets here; set the same `buckets`"):
        run(shop, tmp_path / "later", Application(IdOnly(), MLP([8]), buckets=10), source)
    with pytest.raises(ValueError, match="user has 9 buckets there and exact vocabularies here"):
        run(shop, tmp_path / "exact", Application(IdOnly(), MLP([8])), source)


def test_ids_of_another_type_are_refused(shop: Dataset, shops: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    source, _ = run(shop, tmp_path / "source", Application(IdOnly(), MLP([8])))
    with pytest.raises(ValueError, match=r"ids of its .* table are integers, and here they are text: none is the same"):
        run(shops[1], tmp_path / "later", Application(IdOnly(), MLP([8])), source)


def test_what_holds_no_vocabularies_is_refused(shop: Dataset, represented: Path, tmp_path: Path) -> None:
    source, _ = run(shop, tmp_path / "source", Application(IdOnly(), MLP([8])))
    old = shutil.copytree(source, tmp_path / "old")
    shutil.rmtree(old / "vocabularies")
    other = tmp_path / "represent"
    other.mkdir()
    (other / "identity.json").write_text('{"config": {"module": {"class_path": "moonlib.stages.represent.Represent"}}}')
    truth = shutil.copytree(old, tmp_path / "truth")
    (truth / "weights.safetensors").unlink()
    for directory, message in (
        (old, "was made by an earlier moonlib, which did not keep the vocabularies"),
        (other, r"is of another stage \(Represent\), and no click model; name a run with an application"),
        (truth, "holds the true click probability"),
    ):
        with pytest.raises(ValueError, match=message):
            run(shop, tmp_path / "later", Application(IdOnly(), MLP([8])), directory)


def test_a_vocabulary_that_cannot_be_read_is_named(shop: Dataset, tmp_path: Path) -> None:
    source, _ = run(shop, tmp_path / "source", Application(IdOnly(), MLP([8])))
    whole = (source / "vocabularies/item.parquet").read_bytes()
    for name, content, message in (
        ("item.parquet", whole[:100], "item.parquet is no Parquet file that can be read"),
        ("item.parquet", None, "item.parquet"),
        ("user.parquet", whole, "user.parquet does not hold the 11 rows of user"),
        ("description.json", b"{}", "description.json describes no vocabularies"),
        ("description.json", b"{", "description.json is no JSON file that can be read"),
    ):
        broken = shutil.copytree(source, tmp_path / "broken", dirs_exist_ok=True)
        file = broken / "vocabularies" / name
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises((Unreadable, FileNotFoundError), match=message):
            run(shop, tmp_path / "later", Application(IdOnly(), MLP([8])), broken)


def test_a_day_is_a_moment_with_impressions(shop: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="day: 'monday' is no moment; write one such as 2025-01-05"):
        ImpressionData(day="monday")
    with pytest.raises(ValueError, match="the train split of impressions is empty"):
        run(shop, tmp_path / "later", Application(IdOnly(), MLP([8])), day="2030-01-01")


def test_a_day_without_impressions_after_it_has_no_metrics(shop: Dataset, tmp_path: Path) -> None:
    last = shop.impressions["ts"].dt.date().max()
    directory, _ = run(shop, tmp_path / "last", Application(IdOnly(), MLP([8])), day=str(last))
    assert (directory / "weights.safetensors").exists()
    assert json.loads((directory / "undefined.json").read_text())["ctr/logloss"] == "there is no row"


def test_the_sentence_says_how_many_of_each() -> None:
    said = carried_over({"user": {"carried": 1200, "new": 30, "left": 0}, "item": {"carried": 1, "new": 2, "left": 3}})
    assert said == "embeddings carried over, new, left: user 1,200, 30, 0; item 1, 2, 3"
