from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from moonlib.data.dataset import Dataset
from moonlib.stages.represent import evaluation_searches, oracle_representations


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


def test_training_sees_no_event_after_its_days(tiny: Dataset) -> None:
    """What post-training and pretraining read lies before what the CTR model is tested on."""
    from moonlib.losses.info_nce import InfoNCE
    from moonlib.stages.posttraining import Posttraining, SearchData
    from moonlib.stages.pretraining import Pretraining

    pairs = Posttraining(InfoNCE(), []).pairs(tiny, SearchData(tasks={}))
    later = tiny.searches.filter(pl.col("ts") >= tiny.splits.behaviour_until)
    assert not set(pairs.query_id.tolist()) & set(later["query_id"].to_list())
    listed = Pretraining(InfoNCE(), []).pairs(tiny, SearchData(tasks={}))
    new = tiny.products.filter(pl.col("listed_at") >= tiny.splits.train_until)
    assert len(new) and not set(listed.item_id.tolist()) & set(new["item_id"].to_list())
