from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torchmetrics
from torch import Tensor

from moonlib.data.dataset import Dataset
from moonlib.metrics.key import MetricKey
from moonlib.representations.store import Representations
from moonlib.runs.run import Run
from moonlib.stages.represent import Represent, RepresentData, evaluation_searches, oracle_representations
from moonlib.stages.stage import StageContext

ALONE = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(root_device="cpu"))


class MeanRank(torchmetrics.MeanMetric):
    """The mean rank of what was ordered, which has no K."""

    higher_is_better = False

    def update(self, ranks: Tensor) -> None:
        super().update(ranks.double())


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluation_searches_by_a_loop(tiny: Dataset, split: str) -> None:
    start, end = tiny.splits.window(split)  # type: ignore[arg-type]
    photos = {q for q, image in tiny.queries.select("query_id", "image").iter_rows() if image is not None}
    spu = dict(tiny.products.select("item_id", "spu_id").iter_rows())
    expected = {
        (row["search_id"], spu[row["item_id"]])
        for row in tiny.searches.iter_rows(named=True)
        if row["action"] == "order" and start <= row["ts"] < end and row["query_id"] in photos
    }
    found = evaluation_searches(tiny, split, "image_search")  # type: ignore[arg-type]
    assert len(found) == len(expected) > 0
    assert set(found.select("search_id", "spu_id").iter_rows()) == expected


def test_oracle_covers_every_product_and_query(tiny: Dataset) -> None:
    products, queries = oracle_representations(tiny)
    assert (products.rows(tiny.products["item_id"].to_numpy()) >= 0).all()
    assert (queries.rows(tiny.queries["query_id"].to_numpy()) >= 0).all()
    assert products.dim == queries.dim
    assert np.isfinite(products.vectors).all()


def test_real_data_has_no_oracle(tiny: Dataset, tmp_path: Path) -> None:
    for part in ("dataset.json", "shards"):
        (tmp_path / part).symlink_to(tiny.directory / part)
    with pytest.raises(FileNotFoundError, match="no true latents"):
        oracle_representations(Dataset(tmp_path))


def test_training_sees_no_event_after_its_days(tiny: Dataset, tmp_path: Path) -> None:
    """What post-training and pretraining read lies before what the CTR model is tested on."""
    from moonlib.pairs.pair_source import PairContext
    from moonlib.pairs.products import ProductPairs
    from moonlib.pairs.searches import SearchPairs

    here = PairContext(tiny, tmp_path, first=True, represent=lambda *args: pytest.fail("nothing is compared"))
    pairs, searches = SearchPairs().pairs(here)
    later = tiny.searches.filter(pl.col("ts") >= tiny.splits.behaviour_until)
    assert not set(pairs.query_id.tolist()) & set(later["query_id"].to_list())
    assert not set(searches["search_id"].to_list()) & set(later["search_id"].to_list())
    listed, searches = ProductPairs().pairs(here)
    assert searches.is_empty()
    new = tiny.products.filter(pl.col("listed_at") >= tiny.splits.train_until)
    assert len(new) and not set(listed.item_id.tolist()) & set(new["item_id"].to_list())


def context(dataset: Dataset, directory: Path, **data: Any) -> StageContext:
    return StageContext(dataset, RepresentData(**data), trainer=ALONE, directory=directory, seed=0)  # type: ignore[arg-type]


def test_chance_is_about_k_of_the_gallery_and_segments_part_the_searches(tiny: Dataset, tmp_path: Path) -> None:
    dataset = Dataset(tiny.directory)
    language = pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit("zh")).otherwise(pl.lit("en"))
    dataset.__dict__["queries"] = tiny.queries.with_columns(language=language)
    metrics = Represent(of="chance").run(context(dataset, tmp_path, segments=["language"]))
    # A hit is any of an SPU's few SKUs, so chance lies above 10 of about 300 and well below what anything learns.
    assert 0.01 < metrics["image_search/recall@10"] < 0.2
    searches = pl.read_parquet(tmp_path / "searches.parquet").filter(
        pl.col("task") == "image_search", pl.col("split") == "test"
    )
    for value in ("en", "zh"):
        hits = [rank < 10 for rank, spoken in searches.select("rank", "language").iter_rows() if spoken == value]
        assert len(hits) > 5
        assert metrics[f"image_search/recall@10@{value}"] == sum(hits) / len(hits)


def test_values_that_look_like_keys_stay_apart_from_other_segments(tiny: Dataset, tmp_path: Path) -> None:
    """``new`` is a segment of products, and ``en`` the value of two columns."""
    values = {"language": ["en", "new", "32d", "a@b", "", "a/b=c"], "spoken": ["en", "fr", "fr", "fr", "fr", "fr"]}
    dataset = Dataset(tiny.directory)
    columns = {name: pl.Series(given * len(tiny.queries))[: len(tiny.queries)] for name, given in values.items()}
    dataset.__dict__["queries"] = tiny.queries.with_columns(**columns)
    stage = Represent(of="chance")
    plain = stage.run(context(dataset, tmp_path))
    metrics = stage.run(context(dataset, tmp_path, segments=["language", "spoken"]))
    assert {key: metrics[key] for key in plain} == plain
    searches = pl.read_parquet(tmp_path / "searches.parquet").filter(
        pl.col("task") == "image_search", pl.col("split") == "test"
    )
    for column, value, label in (
        *(("language", "en", "en"), ("language", "new", "language=new"), ("language", "32d", "32d")),
        *(("language", "a@b", "a%40b"), ("language", "", "language="), ("language", "a/b=c", "a/b=c")),
        *(("spoken", "en", "spoken=en"), ("spoken", "fr", "fr")),
    ):
        ranks = searches.filter(pl.col(column) == value)["rank"]
        assert len(ranks) and metrics[f"image_search/recall@10@{label}"] == sum(rank < 10 for rank in ranks) / len(
            ranks
        )


def test_metrics_of_the_recipe_stand_beside_recall_and_change_nothing_of_it(tiny: Dataset, tmp_path: Path) -> None:
    dataset = Dataset(tiny.directory)
    floors = pl.Series(["1", "2"] * len(tiny.queries))[: len(tiny.queries)]
    dataset.__dict__["queries"] = tiny.queries.with_columns(floor=floors)
    plain = Represent(of="chance").run(context(dataset, tmp_path))
    stage = Represent(of="chance", metrics=[MeanRank()])
    metrics = stage.run(context(dataset, tmp_path, segments=["floor"]))
    assert {key: metrics[key] for key in plain} == plain
    assert stage.meanings()["text_search/mean_rank"].higher_is_better is False
    searches = pl.read_parquet(tmp_path / "searches.parquet").filter(pl.col("split") == "test")
    for task in ("image_search", "text_search"):
        of_task = searches.filter(pl.col("task") == task)
        assert metrics[f"{task}/mean_rank"] == pytest.approx(of_task["rank"].mean())
        assert metrics[f"{task}/mean_rank@new"] == pytest.approx(of_task.filter("new")["rank"].mean())
        # A number would be read as the metric's K.
        first = of_task.filter(pl.col("floor") == "1")["rank"]
        assert metrics[f"{task}/mean_rank@floor=1"] == pytest.approx(first.mean())
        assert MetricKey.parse(f"{task}/mean_rank@floor=1").segment == "floor=1"


def test_a_segment_that_is_no_column_is_named(tiny: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no column 'langauge'"):
        Represent(of="chance").run(context(tiny, tmp_path, segments=["langauge"]))


def test_a_gallery_of_new_products_holds_those_listed_on_the_days_of_the_split(tiny: Dataset, tmp_path: Path) -> None:
    Represent(of="oracle", ks=[1]).run(context(tiny, tmp_path, gallery="new"))
    searches = pl.read_parquet(tmp_path / "searches.parquet")
    for split in ("valid", "test"):
        start, end = tiny.splits.window(split)  # type: ignore[arg-type]
        listed = tiny.products.filter(pl.col("listed_at") >= start, pl.col("listed_at") < end)
        part = searches.filter(pl.col("split") == split)
        assert part["gallery"].unique().to_list() == [len(listed)]
        spus = set(listed["spu_id"].to_list())
        spu = dict(tiny.products.select("item_id", "spu_id").iter_rows())
        assert all(
            (rank < len(listed)) <= (spu[item] in spus) for item, rank in part.select("item_id", "rank").iter_rows()
        )


def test_searches_without_representation_are_misses_and_the_gallery_keeps_its_size(
    tiny: Dataset, tmp_path: Path
) -> None:
    """Ids that the representations lack must not be given another row's vector."""
    stage, here = Represent(of="oracle"), context(tiny, tmp_path)
    products, queries = oracle_representations(tiny)
    whole = stage.rank_searches(here, "image_search", "test", products, queries)
    bought, asked = whole["item_id"][0], whole["query_id"][-1]
    spu = dict(tiny.products.select("item_id", "spu_id").iter_rows())
    gone, known = np.array([spu[int(id)] == spu[bought] for id in products.ids]), queries.ids != asked
    fewer = stage.rank_searches(
        here,
        "image_search",
        "test",
        Representations(products.ids[~gone], products.vectors[~gone]),
        Representations(queries.ids[known], queries.vectors[known]),
    )
    gallery = len(tiny.products)
    assert fewer["gallery"].unique().to_list() == [gallery]
    for (query, item), before, after in zip(
        whole.select("query_id", "item_id").iter_rows(), whole["rank"], fewer["rank"], strict=True
    ):
        if query == asked or spu[item] == spu[bought]:
            assert after == gallery
        else:
            assert after <= before
    assert whole["rank"].max() <= gallery


def test_what_a_cut_off_attempt_left_is_used_and_nothing_but_the_results_stays(
    finished_run: Path, tiny: Dataset, tmp_path: Path
) -> None:
    def run(directory: Path) -> dict[str, float]:
        directory.mkdir(exist_ok=True)
        here = context(tiny, directory, batch_size=64)
        here.encoder = Run(finished_run).encoder()
        return Represent().run(here)

    metrics = run(tmp_path / "whole")
    files = {"products.npy", "products.ids.npy", "queries.npy", "queries.ids.npy", "searches.parquet", "undefined.json"}
    files.add("rows.json")
    assert {path.name for path in (tmp_path / "whole").iterdir()} == files
    cut = tmp_path / "cut"
    cut.mkdir()
    for name in ("products.ids.npy", "queries.ids.npy", "queries.npy"):
        (cut / name).write_bytes((tmp_path / "whole" / name).read_bytes())
    vectors = (tmp_path / "whole/products.npy").read_bytes()
    (cut / ".products.npy.partial").write_bytes(vectors[: len(vectors) // 2])
    assert run(cut) == metrics
    for name in files:
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_leading_dimensions_are_ranked_as_vectors_of_their_own(tiny: Dataset, tmp_path: Path) -> None:
    stage, here = Represent(dims=[8]), context(tiny, tmp_path)
    products, queries = oracle_representations(tiny)
    found = stage.rank_searches(here, "image_search", "test", products, queries)
    short = [Representations(part.ids, np.ascontiguousarray(part.vectors[:, :8])) for part in (products, queries)]
    alone = Represent().rank_searches(here, "image_search", "test", *short)
    assert found["rank@8d"].to_list() == alone["rank"].to_list()
    assert found["rank@8d"].to_list() != found["rank"].to_list()
    assert Represent(of="thumbnail", dims=[8]).dims == []
