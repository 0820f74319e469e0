"""moonlib's own probes against slow, obvious oracles, and on representations whose worth is known."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional as F

from moonlib.data.dataset import Dataset
from moonlib.data.evaluation import evaluation_searches
from moonlib.data.splits import Split
from moonlib.probes.alignment import Alignment, alignment, uniformity
from moonlib.probes.attributes import Attributes, ridge_probe
from moonlib.probes.categories import Categories, nearest_centroid
from moonlib.probes.clusters import Clusters, normalised_mutual_information, spherical_kmeans
from moonlib.probes.contrastive import HeldOutLoss, held_out_loss
from moonlib.probes.held_out import Labelled
from moonlib.probes.probe import Probe, Represented
from moonlib.probes.search import Search
from moonlib.registry import registry
from moonlib.representations.store import Representations
from moonlib.testing import check_probe, example_dataset, example_representations

PROBES: list[Callable[[], Probe]] = [Alignment, Attributes, Categories, Clusters, HeldOutLoss, Search]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return example_dataset(tmp_path_factory.mktemp("shop") / "dataset")


def randomly(shop: Dataset, split: Split = "test", seed: int = 0) -> Represented:
    rng = np.random.default_rng(seed)

    def draw(ids: pl.Series) -> Representations:
        return Representations(ids.to_numpy(), rng.standard_normal((len(ids), 16), dtype=np.float32))

    return Represented(shop, draw(shop.products["item_id"]), draw(shop.queries["query_id"]), split)


def named(shop: Dataset, key: Callable[[int], int], classes: int, split: Split = "test") -> Represented:
    """Products that are one-hot in what ``key`` says of their row, and queries that are what was ordered."""
    n = len(shop.products)
    vectors = np.eye(classes, dtype=np.float32)[[key(i) for i in range(n)]]
    products = Representations(shop.products["item_id"].to_numpy(), vectors)
    ordered = pl.concat([evaluation_searches(shop, s) for s in ("valid", "test")]).unique("query_id", keep="first")
    queries = Representations(ordered["query_id"].to_numpy(), products.gather(ordered["item_id"].to_numpy()))
    return Represented(shop, products, queries, split)


def unit(rng: np.random.Generator, n: int, d: int) -> torch.Tensor:
    return F.normalize(torch.from_numpy(rng.standard_normal((n, d), dtype=np.float32)), dim=1)


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
def test_it_keeps_the_promises_of_a_probe(probe: Callable[[], Probe]) -> None:
    check_probe(probe)


def test_every_probe_is_registered() -> None:
    found = {registry.get("probes", component.name) for component in registry.components("probes")}
    assert set(PROBES) <= found


# --- search


def recall_by_hand(represented: Represented, k: int, shows: str | None) -> float:
    """One search after the other: what of the products listed by then is at least as near as the best hit."""
    shop = represented.dataset
    products = {row["item_id"]: row for row in shop.products.to_dicts()}
    queries = {row["query_id"]: row for row in shop.queries.to_dicts()}
    hits, total = 0, 0
    for search in evaluation_searches(shop, represented.split).to_dicts():
        query = queries[search["query_id"]]
        asked = "both" if query["image"] and query["text"] else "photo" if query["image"] else "text"
        if shows and asked != shows:
            continue
        total += 1
        q = represented.queries.gather(np.array([search["query_id"]]))[0].astype(float)
        best, others = -math.inf, []
        for item, row in products.items():
            if row["listed_at"] > search["ts"]:
                continue
            v = represented.products.gather(np.array([item]))[0].astype(float)
            cosine = float(q @ v / np.linalg.norm(q) / np.linalg.norm(v))
            if row["spu_id"] == search["spu_id"]:
                best = max(best, cosine)
            else:
                others.append(cosine)
        hits += sum(other >= best - 1e-6 for other in others) < k
    return hits / total


def test_recall_is_that_of_an_exhaustive_search(shop: Dataset) -> None:
    represented = randomly(shop)
    found = Search([1, 10, 500])(represented)
    assert found["search/recall@10"] == recall_by_hand(represented, 10, None)
    for shows in ("photo", "text"):
        assert found[f"search/recall@10@{shows}"] == recall_by_hand(represented, 10, shows)
    assert 0 < found["search/recall@10"] < 1
    assert not any("@500" in key or "@both" in key for key in found)  # K beyond the catalogue; what nobody asked


def test_queries_that_are_what_was_ordered_find_it(shop: Dataset) -> None:
    spu = shop.products["spu_id"].to_list()
    found = Search([1])(named(shop, lambda i: spu[i], max(spu) + 1))
    assert set(found.values()) == {1.0}


def test_a_query_without_a_representation_misses_at_any_k(shop: Dataset) -> None:
    few = randomly(shop)
    products = Representations(few.products.ids[:20], few.products.vectors[:20])
    nobody = Representations(np.zeros(0, np.int64), np.zeros((0, 16), np.float32))
    assert set(Search([50])(Represented(shop, products, nobody, "test")).values()) == {0.0}


# --- categories and attributes


def test_the_nearest_centroid_by_hand() -> None:
    rng = np.random.default_rng(1)
    known, tested = unit(rng, 60, 5), unit(rng, 25, 5)
    label = torch.from_numpy(rng.integers(0, 4, 60))
    label[label == 2] = 3  # a class that nobody has
    centroid = {c: known[label == c].mean(dim=0) for c in (0, 1, 3)}
    expected = [max(centroid, key=lambda c: float(F.cosine_similarity(v, centroid[c], dim=0))) for v in tested]
    assert nearest_centroid(known, label, tested, 4).tolist() == expected


def test_the_ridge_probe_is_the_minimum_of_what_it_says() -> None:
    rng = np.random.default_rng(2)
    known, tested, label = unit(rng, 40, 6), unit(rng, 30, 6), torch.from_numpy(rng.integers(0, 3, 40))
    weights = torch.zeros(6, 3, dtype=torch.float64, requires_grad=True)
    intercept = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, intercept], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16)
    target = F.one_hot(label, 3).double()

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        error = (known.double() @ weights + intercept - target).pow(2).sum() / 40 + 0.01 * weights.pow(2).sum()
        error.backward()
        return error

    optimizer.step(loss)
    expected = (tested.double() @ weights + intercept).argmax(dim=1)
    assert torch.equal(ridge_probe(known, label, tested, 3, 0.01), expected)


def test_probes_read_what_representations_hold_and_nothing_else(shop: Dataset) -> None:
    kinds, colours = (lambda i: i // 16), (lambda i: i // 2 % 8)
    for split in ("valid", "test"):
        of_kind, of_colour = named(shop, kinds, 6, split), named(shop, colours, 8, split)
        assert Categories()(of_kind) == {"category_accuracy": 1.0}
        assert Categories()(of_colour)["category_accuracy"] < 0.5
        expected = {"attribute_accuracy": 1.0, "attribute_accuracy@colour": 1.0}
        assert Attributes()(of_colour) == expected
        assert Attributes()(of_kind)["attribute_accuracy"] < 0.5
        assert Clusters()(of_kind)["cluster_nmi"] > 0.9  # k-means may let two centres share a category
        assert Clusters()(of_colour)["cluster_nmi"] < 0.5


def test_what_is_learned_from_is_listed_before_the_end_of_training(shop: Dataset) -> None:
    """The vector of a product is its row: so each can be told."""
    ids = shop.products["item_id"].to_numpy()
    rows = Representations(ids, np.eye(96, dtype=np.float32))
    represented = Represented(shop, rows, rows, "valid")
    labels = shop.products.select("item_id", label="category")
    found = Labelled.of(represented, labels)
    assert found is not None
    of_row = {int(rows.gather(np.array([row["item_id"]]))[0].argmax()): row for row in shop.products.to_dicts()}
    ends = shop.splits.train_until
    new = [row for row in of_row.values() if row["listed_at"] >= ends]
    assert len(found.tested) == len(new) == 8 and len(found.known) == 88
    assert all(of_row[int(v.argmax())]["listed_at"] >= ends for v in found.tested)
    assert all(of_row[int(v.argmax())]["listed_at"] < ends for v in found.known)

    # Without new products whole SPUs are held out, and nothing is learned from them.
    old = labels.filter(~pl.col("item_id").is_in([row["item_id"] for row in new]))
    held = Labelled.of(represented, old)
    assert held is not None
    learned, tested = ({of_row[int(v.argmax())]["spu_id"] for v in part} for part in (held.known, held.tested))
    assert learned and tested and not learned & tested


def test_one_label_is_nothing_to_learn(shop: Dataset) -> None:
    labels = shop.products.select("item_id", label=pl.lit("thing"))
    assert Labelled.of(randomly(shop), labels) is None


def test_a_penalty_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="penalty must be above 0"):
        Attributes(penalty=0)


# --- clusters


def test_mutual_information_by_hand() -> None:
    rng = np.random.default_rng(3)
    one, other = rng.integers(0, 4, 200), rng.integers(0, 6, 200)
    other[:120] = one[:120] * 10

    def entropy(counts: Counter[object]) -> float:
        return -sum(c / 200 * math.log(c / 200) for c in counts.values())

    a, b, both = Counter(one.tolist()), Counter(other.tolist()), Counter(zip(one.tolist(), other.tolist(), strict=True))
    h = [entropy(counts) for counts in (a, b, both)]  # type: ignore[arg-type]
    expected = 2 * (h[0] + h[1] - h[2]) / (h[0] + h[1])
    assert normalised_mutual_information(one, other) == pytest.approx(expected)
    assert normalised_mutual_information(one, np.zeros(200, np.int64)) == 0.0
    assert normalised_mutual_information(one, one + 7) == pytest.approx(1.0)


def test_clusters_are_the_same_every_time_and_find_what_is_apart() -> None:
    rng = np.random.default_rng(4)
    truth = np.repeat(np.arange(5), 40)
    vectors = np.eye(8, dtype=np.float32)[truth] + 0.05 * rng.standard_normal((200, 8), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = spherical_kmeans(vectors, 5)
    assert normalised_mutual_information(found, truth) == pytest.approx(1.0)
    assert np.array_equal(found, spherical_kmeans(vectors, 5))


# --- alignment, uniformity, contrastive loss


def test_alignment_and_uniformity_by_hand() -> None:
    rng = np.random.default_rng(5)
    x, y = unit(rng, 30, 4), unit(rng, 30, 4)
    squares = [float(((a - b) ** 2).sum()) for a, b in zip(x, y, strict=True)]
    assert float(alignment(x, y)) == pytest.approx(sum(squares) / 30, rel=1e-5)
    potential = [math.exp(-2 * float(((x[i] - x[j]) ** 2).sum())) for i in range(30) for j in range(30) if i != j]
    assert float(uniformity(x)) == pytest.approx(math.log(sum(potential) / len(potential)), rel=1e-5)


def test_uniformity_in_blocks_is_uniformity(monkeypatch: pytest.MonkeyPatch) -> None:
    x = unit(np.random.default_rng(6), 50, 4)
    whole = float(uniformity(x))
    monkeypatch.setattr("moonlib.probes.alignment.VECTORS_AT_ONCE", 7)
    assert float(uniformity(x)) == pytest.approx(whole)


def test_pairs_that_lie_on_each_other_are_aligned_and_those_in_one_point_not_spread(shop: Dataset) -> None:
    spu = shop.products["spu_id"].to_list()
    apart = Alignment()(named(shop, lambda i: spu[i], max(spu) + 1))
    together = Alignment()(named(shop, lambda i: 0, 2))
    assert apart["alignment"] == together["alignment"] == 0.0
    assert together["uniformity"] == 0.0 and apart["uniformity"] < -1
    zeros = example_representations(shop.products["item_id"], shop.queries["query_id"])["zero"]
    assert Alignment()(Represented(shop, *zeros, "test")) == {"alignment": 2.0, "uniformity": 0.0}


def loss_by_hand(query: torch.Tensor, item: torch.Tensor, spu: list[int], temperature: float, batch: int) -> float:
    losses = []
    for start in range(0, len(query), batch):
        first = max(0, min(start, len(query) - batch))
        rows = range(first, min(first + batch, len(query)))
        for i in rows:
            if i < start:
                continue
            scores = {j: float(query[i] @ item[j]) / temperature for j in rows if j == i or spu[j] != spu[i]}
            losses.append(math.log(sum(math.exp(s - scores[i]) for s in scores.values())))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("batch", [4, 10, 64])
def test_the_contrastive_loss_by_hand(batch: int) -> None:
    rng = np.random.default_rng(7)
    query, item, spu = unit(rng, 23, 5), unit(rng, 23, 5), rng.integers(0, 9, 23)
    found = float(held_out_loss(query, item, torch.from_numpy(spu), 0.2, batch))
    assert found == pytest.approx(loss_by_hand(query, item, spu.tolist(), 0.2, batch), rel=1e-4)


def test_what_says_nothing_has_the_loss_of_guessing() -> None:
    nothing, spu = torch.zeros(32, 4), torch.arange(32)
    assert float(held_out_loss(nothing, nothing, spu, 0.07, 16)) == pytest.approx(math.log(16))


def test_a_better_representation_has_the_smaller_loss(shop: Dataset) -> None:
    spu = shop.products["spu_id"].to_list()
    good = HeldOutLoss()(named(shop, lambda i: spu[i], max(spu) + 1))
    assert good["contrastive_loss"] < 0.1 < HeldOutLoss()(randomly(shop))["contrastive_loss"]


def test_data_without_orders_has_none_of_what_needs_them(shop: Dataset, tmp_path: Path) -> None:
    from moonlib.data.shards import write_dataset
    from moonlib.testing.examples import EXAMPLE_SPLITS, example_picture, example_tables

    tables = example_tables()
    tables = replace(tables, searches=tables.searches.filter(pl.col("action") != "order"))
    write_dataset(tmp_path / "d", tables, example_picture, EXAMPLE_SPLITS, name="quiet", version="1", workers=1)
    quiet = Dataset(tmp_path / "d")
    stores = example_representations(quiet.products["item_id"], quiet.queries["query_id"])["random"]
    represented = Represented(quiet, *stores, "test")
    found: dict[str, set[str]] = defaultdict(set)
    for probe in PROBES:
        found[probe.__name__] = set(probe()(represented))
    assert not found["Search"] | found["Alignment"] | found["HeldOutLoss"]
    assert found["Categories"] and found["Attributes"] and found["Clusters"]
