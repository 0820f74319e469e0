"""Conformance checks: what a plugin's author runs to know that a component keeps its kind's promises.

Each check takes a function that makes a fresh component, and raises `AssertionError` with a sentence about the first
promise broken::

    from moonlib.testing import check_fusion

    def test_my_fusion():
        check_fusion(lambda: MyFusion(hidden=32))
"""

from __future__ import annotations

import io
import pickle
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

import moonlib.compat  # noqa: F401  (before torchmetrics)
import numpy as np
import polars as pl
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics import Metric

from moonlib.adapters.adapter import Adapter, BehaviourBatch
from moonlib.data.content import Content
from moonlib.data.tables import SCHEMAS
from moonlib.encoders.encoder import ContentBatch, Encoder
from moonlib.encoders.tower import ImageTower, TextTower
from moonlib.encoders.weights import load_weights, save_weights
from moonlib.fusion.fusion import Fusion
from moonlib.losses.loss import Loss
from moonlib.negatives.negative_sampler import Candidates, NegativeSampler
from moonlib.predictors.predictor import Predictor

Fitted = TypeVar("Fitted", Encoder, TextTower)


def check_encoder(make: Callable[[], Encoder]) -> None:
    """Check an encoder: shapes, independent rows, missing modalities, determinism, pickling, gradients, weights.

    Args:
        make: returns a fresh encoder that `Encoder.setup` was not called on.
    """
    contents = example_contents()
    with tempfile.TemporaryDirectory() as folder:
        encoder = _seeded(make, Path(folder))
        again = _seeded(make, Path(folder), products=example_products()[:1])
        save_weights(encoder, Path(folder) / "weights.safetensors")
        load_weights(again, Path(folder) / "weights.safetensors")
    _require(encoder.dim > 0, f"dim is {encoder.dim}")
    _require(encoder.image_dim > 0 or encoder.text_dim > 0, "image_dim and text_dim are both 0")

    batch = encoder.preprocessor(contents, "product")
    for name, tensor in batch.items():
        _require(len(tensor) == len(contents), f"preprocessor: '{name}' has {len(tensor)} rows of {len(contents)}")
    copy = pickle.loads(pickle.dumps(encoder.preprocessor))(contents, "product")
    _require(_same_batch(batch, copy), "preprocessor: gives other tensors after pickling")
    encoder.preprocessor(contents, "query")

    encoder.eval()
    rows = _encode(encoder, batch)
    _require(rows.shape == (len(contents), encoder.dim), f"forward: shape {tuple(rows.shape)} is not [B, dim]")
    _require(rows.is_floating_point(), f"forward: {rows.dtype} is not a float")
    _require(bool(rows.isfinite().all()), "forward: a row with a missing modality is not finite")
    _require(_close(rows, _encode(encoder, batch)), "forward: a second call in eval mode gives another result")
    order = torch.arange(len(contents)).flip(0)
    flipped = _encode(encoder, {name: tensor[order] for name, tensor in batch.items()})
    _require(_close(rows[order], flipped), "forward: a row depends on its place in the batch")
    for i, content in enumerate(contents):
        alone = _encode(encoder, encoder.preprocessor([content], "product"))[0]
        _require(_close(rows[i], alone), f"forward: row {i} alone differs from row {i} in a batch")
    restored = _encode(again.eval(), again.preprocessor(contents, "product"))
    _require(
        _close(rows, restored), "setup: preprocessing read back from its directory and weights give another result"
    )
    with tempfile.TemporaryDirectory() as folder:
        fresh = _seeded(make, Path(folder)).eval()
        _require(
            _close(rows, _encode(fresh, fresh.preprocessor(contents, "product"))),
            "setup: the same products and seed give another result",
        )
    _check_gradients(encoder, lambda: encoder(batch))


def check_image_tower(make: Callable[[], ImageTower]) -> None:
    """Check an image tower: decoding, shapes, independent rows, determinism, pickling, gradients.

    Args:
        make: returns a fresh tower that `ImageTower.setup` was not called on.
    """
    towers = []
    for _ in range(2):
        torch.manual_seed(0)
        tower = make()
        tower.setup()
        towers.append(tower.eval())
    tower, twin = towers
    load = pickle.loads(pickle.dumps(tower.load_image))
    images = [tower.load_image(example_jpeg(seed, width=90, height=60 + seed)) for seed in range(3)]
    for seed, image in enumerate(images):
        _require(image.dtype == torch.uint8, f"load_image: {image.dtype} is not uint8")
        expected = (3, tower.image_size, tower.image_size)
        _require(tuple(image.shape) == expected, f"load_image: shape {tuple(image.shape)} is not {expected}")
        copy = load(example_jpeg(seed, width=90, height=60 + seed))
        _require(torch.equal(image, copy), "load_image: gives another image after pickling")
    batch = torch.stack([*images, torch.zeros_like(images[0]), torch.full_like(images[0], 255)])
    with torch.no_grad():
        rows = tower(batch)
        expected_shape = (len(batch), tower.out_features)
        _require(rows.shape == expected_shape, f"forward: shape {tuple(rows.shape)} is not [B, out_features]")
        _require(bool(rows.isfinite().all()), "forward: an all-black, all-white or ordinary image is not finite")
        _require(_close(rows.flip(0), tower(batch.flip(0))), "forward: a row depends on its place in the batch")
        _require(_close(rows[:1], tower(batch[:1])), "forward: a row alone differs from the row in a batch")
        _require(_close(rows, twin(batch)), "setup: the same seed gives other weights")
    _check_gradients(tower, lambda: tower(batch))


def check_text_tower(make: Callable[[], TextTower]) -> None:
    """Check a text tower: tokens and masks, blank texts, padding, independent rows, determinism, gradients.

    Args:
        make: returns a fresh tower that `TextTower.setup` was not called on.
    """
    texts = ["red cotton t-shirt", "", "蓝色 马克杯", "a long title with a great many more words than the others", "  "]
    blank = torch.tensor([not text.strip() for text in texts])
    with tempfile.TemporaryDirectory() as folder:
        tower, loaded = _seeded(make, Path(folder)), _seeded(make, Path(folder), products=example_products()[:1])
    with tempfile.TemporaryDirectory() as folder:
        refitted = _seeded(make, Path(folder))
    ids, mask = tower.tokenize(texts)
    _require(ids.dtype == torch.int64 and mask.dtype == torch.bool, "tokenize: not int64 ids and a bool mask")
    _require(ids.shape == mask.shape and len(ids) == len(texts), "tokenize: ids and mask are not both [B, T]")
    _require(bool((mask.any(dim=1) != blank).all()), "tokenize: not exactly the blank texts have an all-False mask")
    _require(tower.tokenize([""])[0].shape[1] > 0, "tokenize: T is 0 where all texts are blank")
    copies = [pickle.loads(pickle.dumps(tower.tokenize)), loaded.tokenize, refitted.tokenize]
    for copy, how in zip(copies, ["after pickling", "read back from the directory", "fitted again"], strict=True):
        _require(all(map(torch.equal, copy(texts), (ids, mask))), f"tokenize: {how}, gives other tokens")

    tower.eval()
    with torch.no_grad():
        rows = tower(ids, mask)
        _require(rows.shape == (len(texts), tower.out_features), f"forward: shape {tuple(rows.shape)} is not [B, F]")
        _require(bool(rows.isfinite().all()), "forward: a blank text is not finite")
        _require(_close(rows.flip(0), tower(ids.flip(0), mask.flip(0))), "forward: a row depends on its place")
        _require(_close(rows, refitted.eval()(ids, mask)), "setup: the same seed gives other weights")
        for i in torch.arange(len(texts))[~blank].tolist():
            alone = tower(*tower.tokenize([texts[i]]))[0]
            _require(_close(rows[i], alone), "forward: padding changes the output of a text")
        junk = torch.where(mask, ids, ids.max())
        _require(_close(rows[~blank], tower(junk, mask)[~blank]), "forward: the ids of padding change the output")
    _check_gradients(tower, lambda: tower(ids, mask))


def check_fusion(make: Callable[[], Fusion]) -> None:
    """Check a fusion: shapes, missing modalities, independent rows, determinism, gradients.

    Args:
        make: returns a fresh fusion that `Fusion.setup` was not called on.
    """
    dim = 6
    for image_dim, text_dim in [(5, 7), (5, 0), (0, 7)]:
        where = f"with image_dim {image_dim} and text_dim {text_dim}"
        fusions = []
        for _ in range(2):
            torch.manual_seed(0)
            fusion = make()
            fusion.setup(image_dim, text_dim, dim)
            fusions.append(fusion.eval())
        fusion, twin = fusions
        rng = torch.Generator().manual_seed(1)
        image, text = torch.randn(8, image_dim, generator=rng), torch.randn(8, text_dim, generator=rng)
        has_image = torch.tensor([True, True, False, False] * 2) & bool(image_dim)
        has_text = torch.tensor([True, False, True, False] * 2) & bool(text_dim)
        with torch.no_grad():
            rows = fusion(image, text, has_image, has_text)
            _require(rows.shape == (8, dim), f"forward: shape {tuple(rows.shape)} is not [B, dim] {where}")
            _require(bool(rows.isfinite().all()), f"forward: not finite {where}")
            neither = ~(has_image | has_text)
            _require(not rows[neither].any(), f"forward: a row with neither modality is not all zeros {where}")
            some = rows[~neither].abs().amax(dim=1)
            _require(bool((some > 0).all()), f"forward: a row with a modality is all zeros {where}")
            flipped = fusion(image.flip(0), text.flip(0), has_image.flip(0), has_text.flip(0))
            _require(_close(rows.flip(0), flipped), f"forward: a row depends on its place in the batch {where}")
            alone = fusion(image[:1], text[:1], has_image[:1], has_text[:1])
            _require(_close(rows[:1], alone), f"forward: a row alone differs from the row in a batch {where}")
            _require(
                _close(rows, twin(image, text, has_image, has_text)), f"setup: the same seed, other weights {where}"
            )
        for junk in (1e3, torch.nan):
            junk_image = image.masked_fill(~has_image.unsqueeze(1), junk).requires_grad_()
            junk_text = text.masked_fill(~has_text.unsqueeze(1), junk).requires_grad_()
            output = fusion(junk_image, junk_text, has_image, has_text)
            _require(_close(rows, output), f"forward: {junk} in a missing row changes the output {where}")
            output.square().sum().backward()
            for values, present in ((junk_image, has_image), (junk_text, has_text)):
                if values.grad is not None:
                    _require(not values.grad[~present].any(), f"backward: a missing row has a gradient {where}")
                    _require(bool(values.grad.isfinite().all()), f"backward: {junk} in a missing row spreads {where}")
        _check_gradients(fusion, lambda: fusion(image, text, has_image, has_text))  # noqa: B023


def check_loss(make: Callable[[], Loss]) -> None:
    """Check a loss: one value per query, masks obeyed, direction of the gradient, finite at every edge.

    Args:
        make: returns a fresh loss.
    """
    loss = make()
    rng = torch.Generator().manual_seed(0)
    scores = (torch.rand(6, 9, generator=rng) * 2 - 1).requires_grad_()
    positive = torch.eye(6, 9, dtype=torch.bool)
    positive[:3, 6] = True  # several positives
    ignore = torch.zeros_like(positive)
    ignore[1:5, 7] = True
    positive[4], ignore[4] = False, False  # no positive
    ignore[5] = ~positive[5]  # no negative
    values = loss(scores, positive, ignore)
    _require(values.shape == (6,), f"forward: shape {tuple(values.shape)} is not [Q]")
    _require(bool(values.isfinite().all()), "forward: a query without positives or negatives is not finite")
    _require(values[4].item() == 0, "forward: a query without positives does not cost 0")
    (gradient,) = torch.autograd.grad(values.sum(), scores)
    _require(bool(gradient.isfinite().all()), "backward: a query without positives or negatives is not finite")
    _require(not gradient[4].any(), "backward: a query without positives has a gradient")
    _require(not gradient[ignore].any(), "backward: an ignored candidate has a gradient")
    one = positive.sum(dim=1) == 1
    _require(bool((gradient[positive & one.unsqueeze(1)] <= 0).all()), "backward: a positive is pushed away")
    _require(bool((gradient[~positive & ~ignore] >= 0).all()), "backward: a negative is pulled closer")
    with torch.no_grad():
        _require(_close(values[:1], loss(scores[:1], positive[:1], ignore[:1])), "forward: a query depends on others")
        flipped = loss(scores.flip(1), positive.flip(1), ignore.flip(1))
        _require(_close(values, flipped), "forward: a query depends on the order of candidates")
        far = loss(scores.masked_fill(ignore, 1.0), positive, ignore)
        _require(_close(values, far), "forward: the score of an ignored candidate matters")
    _check_gradients(loss, lambda: loss(scores, positive, ignore))


def check_negative_sampler(make: Callable[[], NegativeSampler]) -> None:
    """Check a negative sampler: what it proposes, what it leaves of the pool, and that its state is saved.

    Args:
        make: returns a fresh sampler.
    """
    sampler, ids = make(), np.arange(8, dtype=np.int64)
    first, again = (sampler.propose(ids.copy(), np.random.default_rng(3)) for _ in range(2))
    _require(first.dtype == np.int64 and first.shape[:1] == (8,) and first.ndim == 2, "propose: not int64 [Q, k]")
    _require(np.array_equal(first, again), "propose: the same generator state gives other items")

    def pool(seed: int) -> Candidates:
        item = torch.arange(8) + 8 * seed
        representations = torch.randn(8, 4, generator=torch.Generator().manual_seed(seed))
        return Candidates(representations.requires_grad_(), item, item // 2, item % 3)

    for seed in range(3):
        given = pool(seed)
        extended = sampler.extend(replace(given))
        for field in fields(Candidates):
            before, after = getattr(given, field.name), getattr(extended, field.name)
            _require(after.dtype == before.dtype, f"extend: {field.name} became {after.dtype}")
            _require(torch.equal(after[:8], before), f"extend: {field.name} of the pool's own candidates changed")
            _require(len(after) == len(extended.item_id), f"extend: {field.name} is not as long as item_id")
        _require(bool(extended.representations.isfinite().all()), "extend: a representation is not finite")
        _require(extended.representations[:8].requires_grad, "extend: the pool's own candidates lost their gradient")
    restored = make()
    restored.load_state_dict(sampler.state_dict())
    ours, theirs = sampler.extend(pool(3)), restored.extend(pool(3))
    same = all(torch.equal(getattr(ours, field.name), getattr(theirs, field.name)) for field in fields(Candidates))
    _require(same, "state_dict: a restored sampler extends the pool otherwise")


def check_adapter(make: Callable[[], Adapter]) -> None:
    """Check an adapter: shapes, independent rows, missing representations, padding, determinism, gradients.

    Args:
        make: returns a fresh adapter that `Adapter.setup` was not called on.
    """
    id_dim, dim = 3, 5
    adapters = []
    for _ in range(2):
        torch.manual_seed(0)
        adapter = make()
        adapter.setup(id_dim, dim)
        adapters.append(adapter.eval())
    adapter, twin = adapters
    batch = example_behaviours(id_dim, dim)
    rows = adapter(batch)
    expected = (len(batch.target), adapter.out_features)
    _require(rows.shape == expected, f"forward: shape {tuple(rows.shape)} is not [B, out_features] = {expected}")
    _require(bool(rows.isfinite().all()), "forward: a row that lacks a history or a representation is not finite")
    _require(_close(rows, twin(batch)), "setup: the same seed gives other weights")
    one = BehaviourBatch(**{field.name: getattr(batch, field.name)[:1] for field in fields(batch)})
    _require(_close(rows[:1], adapter(one)), "forward: a row alone differs from the row in a batch")
    for junk in (1e3, torch.nan):
        dirty = replace(
            batch,
            item_ids=batch.item_ids.masked_fill(~batch.item_mask.unsqueeze(2), junk).requires_grad_(),
            items=batch.items.masked_fill(~batch.item_known.unsqueeze(2), junk),
            queries=batch.queries.masked_fill(~batch.query_known.unsqueeze(2), junk),
        )
        features = adapter(dirty)
        _require(_close(rows, features), f"forward: {junk} in padding changes the features")
        if features.requires_grad:
            features.square().sum().backward()
        if dirty.item_ids.grad is not None:
            _require(not dirty.item_ids.grad[~batch.item_mask].any(), "backward: padding has a gradient")
    histories = {}
    for name in ("item_ids", "items", "queries", "item_mask", "item_known", "query_known"):
        history = getattr(batch, name)
        histories[name] = torch.cat([history, torch.zeros_like(history[:, :2])], dim=1)
    _require(_close(rows, adapter(replace(batch, **histories))), "forward: more padding changes the features")
    empty = replace(batch, **{name: history[:, :0] for name, history in histories.items()})
    _require(adapter(empty).shape == expected, "forward: histories of length 0 change the shape")
    if not adapter.reads_content:
        bare = {name: getattr(batch, name)[..., :0] for name in ("target", "items", "queries", "query")}
        _require(_close(rows, adapter(replace(batch, **bare))), "reads_content: is False, but representations matter")
    batch.target_id.requires_grad_()
    _check_gradients(adapter, lambda: adapter(batch))


def check_predictor(make: Callable[[], Predictor]) -> None:
    """Check a predictor: shapes, independent rows, determinism, gradients.

    Args:
        make: returns a fresh predictor that `Predictor.setup` was not called on.
    """
    predictors = []
    for _ in range(2):
        torch.manual_seed(0)
        predictor = make()
        predictor.setup(7)
        predictors.append(predictor.eval())
    predictor, twin = predictors
    features = torch.randn(6, 7, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = predictor(features)
        _require(logits.shape == (6,), f"forward: shape {tuple(logits.shape)} is not [B]")
        _require(bool(logits.isfinite().all()), "forward: a logit is not finite")
        _require(_close(logits[:1], predictor(features[:1])), "forward: a row alone differs from the row in a batch")
        _require(_close(logits, twin(features)), "setup: the same seed gives other weights")
    _check_gradients(predictor, lambda: predictor(features))


def check_metric(make: Callable[[], Metric], *rows: Tensor, **constants: object) -> None:
    """Check a metric: one value, whatever the order, batches and parts the rows come in.

    Args:
        make: returns a fresh metric.
        rows: what ``update`` takes, each [n], n at least 4.
        constants: arguments of ``update`` that are not rows.
    """

    def after(*parts: Tensor | slice) -> Metric:
        metric = make()
        for part in parts:
            metric.update(*(column[part] for column in rows), **constants)
        return metric

    n = len(rows[0])
    everything, first, second = slice(None), slice(n // 3), slice(n // 3, None)
    whole = after(everything).compute()
    _require(whole.ndim == 0 and bool(whole.isfinite()), f"compute: {whole} is not one finite value")
    same = partial(torch.allclose, whole, rtol=1e-9, atol=0.0)
    _require(same(after(torch.arange(n).flip(0)).compute()), "update: the order of rows matters")
    _require(same(after(first, second).compute()), "update: two batches differ from one")
    merged, other = after(first), after(second)
    merged.merge_state(other)
    _require(same(merged.compute()), "merge_state: two parts differ from the whole")
    used = after(first)
    used.reset()
    used.update(*rows, **constants)
    _require(same(used.compute()), "reset: rows from before still count")
    _require(same(pickle.loads(pickle.dumps(after(everything))).compute()), "pickle: rows are lost")


def example_products() -> pl.DataFrame:
    """Return twelve rows of the products table, in English and Chinese, some without title or attributes."""
    colours, kinds = ["red 红色", "blue 蓝色", "green 绿色"], ["mug 马克杯", "t-shirt T恤", "lamp 台灯", "bag 手提包"]
    titles = [f"{colour} {kind}" for colour in colours for kind in kinds]
    rows = [
        {
            "item_id": 100 + i,
            "spu_id": i,
            "title": title if i > 0 else None,
            "category": f"goods/{title.split()[2]}",
            "attributes": [("colour", title.split()[0]), ("material", "棉 cotton")] if i < 11 else None,
            "listed_at": datetime(2024, 1, 1, tzinfo=UTC),
        }
        for i, title in enumerate(titles)
    ]
    products = pl.from_arrow(pa.Table.from_pylist(rows, schema=SCHEMAS["products"]))
    assert isinstance(products, pl.DataFrame)
    return products


def example_contents() -> list[Content]:
    """Return contents with every combination of image and text, missing ones included."""
    return [
        Content(example_jpeg(0), "red cotton t-shirt"),
        Content(example_jpeg(1), None),
        Content(None, "蓝色 马克杯 blue mug with a longer title"),
        Content(None, None),
        Content(example_jpeg(2, width=50, height=90), "lamp", box=(0.1, 0.2, 0.8, 0.9)),
    ]


def example_jpeg(seed: int, width: int = 80, height: int = 80) -> bytes:
    """Return a JPEG of coarse noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(buffer, "JPEG")
    return buffer.getvalue()


def example_behaviours(id_dim: int, dim: int) -> BehaviourBatch:
    """Return eight random rows; among them one without any history, and one with no representation at all."""
    rng = torch.Generator().manual_seed(0)
    item_mask, known, query_known = (torch.rand(8, 4, generator=rng) < 0.7 for _ in range(3))
    target_known, has_query = (torch.rand(8, generator=rng) < 0.7 for _ in range(2))
    item_mask[0] = query_known[0] = False
    target_known[0] = has_query[0] = True
    known[1] = query_known[1] = target_known[1] = has_query[1] = False
    item_known = item_mask & known

    def represented(mask: Tensor) -> Tensor:
        return torch.randn(*mask.shape, dim, generator=rng) * mask.unsqueeze(-1)

    return BehaviourBatch(
        target_id=torch.randn(8, id_dim, generator=rng),
        target=represented(target_known),
        target_known=target_known,
        item_ids=torch.randn(8, 4, id_dim, generator=rng),
        item_mask=item_mask,
        items=represented(item_known),
        item_known=item_known,
        queries=represented(query_known),
        query_known=query_known,
        query=represented(has_query),
        has_query=has_query,
    )


def _seeded(make: Callable[[], Fitted], directory: Path, products: pl.DataFrame | None = None) -> Fitted:
    torch.manual_seed(0)
    component = make()
    component.setup(example_products() if products is None else products, directory)
    return component


def _encode(encoder: Encoder, batch: ContentBatch) -> Tensor:
    with torch.no_grad():
        return encoder(batch)


def _check_gradients(module: nn.Module, forward: Callable[[], Tensor]) -> None:
    """Every trainable parameter has a finite gradient, and not all are zero."""
    module.train()
    module.zero_grad()
    output = forward()
    # A random direction: the sum alone is constant after a normalisation.
    direction = torch.randn(output.shape, generator=torch.Generator().manual_seed(2))
    (output * direction).sum().backward()
    trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
    for name, parameter in trainable.items():
        _require(parameter.grad is not None, f"backward: '{name}' has no gradient")
        _require(bool(parameter.grad.isfinite().all()), f"backward: the gradient of '{name}' is not finite")  # type: ignore[union-attr]
    gradients: Sequence[Tensor] = [p.grad for p in trainable.values() if p.grad is not None]
    _require(not gradients or any(g.any() for g in gradients), "backward: all gradients are zero")


def _same_batch(a: ContentBatch, b: ContentBatch) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5)


def _require(condition: bool, promise: str) -> None:
    if not condition:
        raise AssertionError(promise)
