from __future__ import annotations

import itertools
import math
from pathlib import Path

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import pytest
import torch
from lightning import Trainer

from moonlib.adapters.concat import Concat
from moonlib.adapters.semantic_id import SemanticId
from moonlib.adapters.simtier import SimTier
from moonlib.config.recipe import RecipeError
from moonlib.data.build import build
from moonlib.data.dataset import Dataset
from moonlib.exports.folder import export
from moonlib.predictors.mlp import MLP
from moonlib.representations.residual_kmeans import decode, encode, read_codebooks, scaled
from moonlib.representations.store import Representations
from moonlib.runs.iteration import fit
from moonlib.runs.run import Run
from moonlib.runs.warm_start import encoder_origin
from moonlib.stages.application import Application
from moonlib.stages.quantise import Quantise, QuantiseData, perplexity, same_spu
from moonlib.stages.stage import StageContext
from moonlib.testing import check_stage
from moonlib.testing.data import with_text_ids
from moonlib.testing.examples import EXAMPLE_SPLITS, example_tables

FAST = [
    "--data.init_args.size=tiny",
    "--encoder.init_args.image={class_path: convnet, init_args: {image_size: 32, width: 8}}",
    "--encoder.init_args.text={class_path: transformer, init_args: {vocab_size: 300, width: 32, depth: 1}}",
    "--encoder.init_args.dim=32",
    "--stages.pretrain.trainer.max_steps=3",
    "--stages.pretrain.data.batch_size=32",
    "--stages.pretrain.data.workers=0",
    "--stages.represent.data.workers=0",
    "--stages.application.module.init_args.oracle_adapters=[]",
    "--stages.application.data.history=4",
]
CODED = [
    "--stages.quantise={after: represent, module: {class_path: quantise, init_args: {levels: 2, size: 16}}}",
    "--stages.application.module.init_args.adapter=semantic_id",
]
RETRIEVAL = (
    "--stages.retrieval={after: %s, module: {class_path: retrieval, init_args: "
    "{representation: coded, weights: [0.1]}}}"
)


@pytest.fixture(scope="module")
def run(data_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An iteration with coded products."""
    runs = tmp_path_factory.mktemp("runs")
    (runs / ".data").symlink_to(data_cache)
    return fit("iter1", [*FAST, *CODED, RETRIEVAL % "quantise"], runs=runs, name="coded")


def test_it_keeps_the_promises_of_a_stage() -> None:
    check_stage(lambda: Quantise(levels=2, size=8))


def test_the_table_holds_the_codes_of_every_product_and_its_figures_are_those_of_a_loop(run: Path) -> None:
    source, books = Run(run), read_codebooks(run / "quantise")
    dataset, (products, _) = source.dataset(), source.representations()
    table = pl.read_parquet(run / "quantise/codes.parquet")
    assert table.columns == ["item_id", "code1", "code2"] and books.shape == (2, 16, 32)
    vectors = torch.from_numpy(products.read(slice(None)))
    codes = encode(vectors, books)
    assert table["item_id"].to_list() == products.ids.tolist()
    assert table.select("code1", "code2").rows() == [tuple(row) for row in codes.tolist()]
    spu = dict(dataset.products.select("item_id", "spu_id").iter_rows())
    new = set(dataset.products.filter(pl.col("listed_at") >= dataset.splits.train_until)["item_id"])
    holders: dict[tuple[int, ...], set[int]] = {}
    for item, code in zip(products.ids.tolist(), map(tuple, codes.tolist()), strict=True):
        holders.setdefault(code, set()).add(spu[item])
    results = source.results
    for segment, items in (("", products.ids.tolist()), ("@new", [i for i in products.ids.tolist() if i in new])):
        code_of = dict(zip(products.ids.tolist(), map(tuple, codes.tolist()), strict=True))
        shared = [len(holders[code_of[item]]) > 1 for item in items]
        assert results[f"quantise/collision{segment}"] == pytest.approx(sum(shared) / len(shared))
        same = [code_of[a] == code_of[b] for a, b in itertools.combinations(items, 2) if spu[a] == spu[b]]
        assert results[f"quantise/same_spu{segment}"] == pytest.approx(sum(same) / len(same))
    error = (scaled(vectors) - decode(codes, books)).square().sum() / scaled(vectors).square().sum()
    assert results["quantise/error"] == pytest.approx(error.item(), rel=1e-4)
    assert results["quantise/error@level1"] > results["quantise/error@level2"] == results["quantise/error"]
    counts = np.bincount(codes[:, 0].numpy(), minlength=16)
    shares = counts[counts > 0] / counts.sum()
    assert results["quantise/perplexity@level1"] == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))
    assert results["quantise/use@level1"] == (counts > 0).sum() / 16
    assert source.layout.results.exists() and len(new) > 0


def test_the_adapter_reads_the_stage_s_codes_and_fits_none(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    books = read_codebooks(run / "quantise")
    module, context = Run(run).reopen("application", Run(run).dataset())
    assert isinstance(module, Application) and context.codes == (run / "quantise").resolve()
    found = module.score(context, Run(run).dataset().splits.select(Run(run).dataset().impressions, "test"))
    adapter = module.model.adapter
    assert isinstance(adapter, SemanticId) and torch.equal(adapter.centroids, books)
    assert [len(table.weight) for table in adapter.embeddings] == [16, 16]
    predicted = pl.read_parquet(run / "application/predictions.parquet").filter(pl.col("split") == "test")
    np.testing.assert_allclose(found, predicted["probability"].to_numpy(), rtol=1e-5)
    # The latents of the oracle are another space, which has codes of its own.
    oracle, above = Run(run).reopen("application.oracle", Run(run).dataset())
    assert above.codes is None and oracle.needs == frozenset()


def test_other_codes_make_what_reads_them_anew_and_nothing_else(run: Path) -> None:
    words = [*FAST, *CODED, RETRIEVAL % "quantise", "--stages.quantise.module.init_args.levels=1"]
    other = fit("iter1", words, runs=run.parent, name="other")
    for link, same in (("represent", True), ("application", False), ("retrieval", False)):
        assert ((other / link).resolve() == (run / link).resolve()) == same
    found = Run(run).results, Run(other).results
    assert found[0]["retrieval/recall@10"] != found[1]["retrieval/recall@10"]
    with_codes = fit("iter1", [*FAST, CODED[0]], runs=run.parent, name="with-codes")
    without = fit("iter1", FAST, runs=run.parent, name="without")
    assert (with_codes / "application").resolve() == (without / "application").resolve()  # `vector` reads none


def test_retrieval_of_codes_without_a_stage_that_makes_them_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"stages\.retrieval reads codes of representations: put a stage quantise"):
        fit("iter1", [*FAST, RETRIEVAL % "represent"], runs=tmp_path)
    assert not list(tmp_path.iterdir())


def test_codes_travel_with_an_export_and_are_none_of_its_preprocessing(run: Path, tmp_path: Path) -> None:
    folder = Path(export(run, tmp_path / "shipped"))
    for name in ("codes.parquet", "codebooks.safetensors"):
        assert (folder / name).read_bytes() == (run / "quantise" / name).read_bytes()
    assert encoder_origin(str(folder)).preprocessing.keys() == encoder_origin(str(run)).preprocessing.keys()


def test_the_table_has_the_shop_s_own_ids_and_nulls_where_nothing_is_shown(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    products = with_text_ids(example_tables()).products
    products.drop("image", strict=False).write_parquet(tmp_path / "tables/products.parquet")
    data = Dataset(build(tmp_path / "tables", None, tmp_path / "data", splits=EXAMPLE_SPLITS, workers=1))
    ids = data.products["item_id"].to_numpy()
    vectors = np.random.default_rng(0).standard_normal((len(ids), 8), dtype=np.float32)
    vectors[3] = 0
    for name, store in (
        ("products", Representations(ids, vectors)),
        ("queries", Representations(ids[:1], vectors[:1])),
    ):
        (tmp_path / "represented").mkdir(exist_ok=True)
        store.save(tmp_path / "represented", name)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    (tmp_path / "made").mkdir()
    context = StageContext(
        data, QuantiseData(), trainer, tmp_path / "made", seed=3, representations=tmp_path / "represented"
    )
    Quantise(levels=2, size=4).run(context)
    table = pl.read_parquet(tmp_path / "made/codes.parquet")
    assert table["item_id"].to_list() == data.ids.decoded(data.products, "item_id")["item_id"].to_list()
    assert table["item_id"].dtype == pl.String
    lacking = table.filter(pl.col("code1").is_null())
    assert lacking["item_id"].to_list() == [table["item_id"][3]] and lacking["code2"].null_count() == 1


def test_concat_hands_codebooks_on() -> None:
    books = torch.randn(2, 4, 5)
    adapter = Concat([SimTier(), SemanticId()])
    assert adapter.reads_codes and not Concat([SimTier()]).reads_codes
    adapter.take_codebooks(books)
    adapter.setup(3, 5)
    adapter.fit(torch.randn(50, 5))
    assert torch.equal(adapter.parts[1].centroids, books)
    adapter = SemanticId()
    adapter.take_codebooks(books)
    with pytest.raises(ValueError, match="codebooks of width 5 for representations of width 6"):
        adapter.setup(3, 6)
    assert Application(adapter, MLP()).needs == {"representations", "codes"}


def test_measures_of_nothing_are_not_defined() -> None:
    empty = pl.DataFrame({"spu_id": [], "code1": []}, schema={"spu_id": pl.Int64, "code1": pl.Int32})
    assert math.isnan(perplexity(empty, ["code1"])) and math.isnan(same_spu(empty, ["code1"]))


@pytest.mark.parametrize("arguments", [(0, 8), (2, 1)])
def test_bad_arguments_are_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="levels must be at least 1 and size at least 2"):
        Quantise(*arguments)
