from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from moonlib.batches.planner import BatchPlan
from moonlib.data.dataset import Dataset
from moonlib.encoders.mllm.encoder import MLLM
from moonlib.pairs.questions import KINDS, Question, ask
from moonlib.runs.iteration import fit
from moonlib.stages.generative_pretraining import (
    Exams,
    GenerativePretraining,
    QuestionData,
    Questions,
    most_frequent,
)
from moonlib.testing import check_stage
from moonlib.testing.mllm import example_mllm_config
from moonlib.testing.stages import small_encoder

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def small_mllm() -> MLLM:
    return MLLM(config=example_mllm_config(), vocab_size=300, dim=8, image_tokens=4, max_length=16)


def prepared(dataset: Dataset, tmp_path: Path, encoder: Any = None, **data: Any) -> GenerativePretraining:
    stage = GenerativePretraining()
    encoder = encoder or small_mllm()
    encoder.setup(dataset.splits.known(dataset.products), tmp_path)
    context: Any = SimpleNamespace(
        trainer=SimpleNamespace(max_steps=3),
        encoder=encoder,
        dataset=dataset,
        data=QuestionData(**{"workers": 0, "batch_size": 8} | data),
        weights=None,
        directory=tmp_path,
        seed=3,
    )
    stage.prepare(context)
    return stage


def plan(stage: GenerativePretraining, items: list[int], kinds: list[str], step: int = 0) -> BatchPlan:
    ids, none = np.array(items), np.empty(0, np.int64)
    task = np.array([stage.kinds.index(kind) for kind in kinds])  # type: ignore[arg-type]
    return BatchPlan(step, np.arange(len(ids)), ids, ids, none, none, task, seed=0)


def test_it_keeps_the_promises_of_stages() -> None:
    """Killed and continued it has the same weights, bit by bit."""
    data = QuestionData(batch_size=8, workers=0, sample=8, augment=0.5)
    check_stage(lambda: GenerativePretraining(max_answer_tokens=2), data, small_mllm, max_steps=3)


def test_a_question_depends_on_seed_step_and_product_alone(shop: Dataset, tmp_path: Path) -> None:
    stage = prepared(shop, tmp_path)
    questions = Questions(stage, stage.encoder.questions)
    items, kinds = shop.products["item_id"].to_list()[1:5], ["attribute", "category", "subject", "attribute"]
    samples = questions.reader.read(np.array(items))
    asked = [questions.asked(kind, sample, 5) for kind, sample in zip(kinds, samples, strict=True)]  # type: ignore[arg-type]
    again = [questions.asked(kind, sample, 5) for kind, sample in zip(kinds[::-1], samples[::-1], strict=True)]  # type: ignore[arg-type]
    assert asked == again[::-1]
    later = {questions.asked("category", samples[1], step)[1].text for step in range(20)}
    assert len(later) == 2, "both wordings come up"
    for content, question in asked:
        assert content.image is not None or content.text is not None
        assert question.kind in kinds
    whole = questions[plan(stage, items, kinds)]
    part = questions[plan(stage, items[1::2], kinds[1::2])]
    own = part.content["token_mask"]
    assert torch.equal(whole.content["tokens"][1::2, : own.shape[1]][own], part.content["tokens"][own])


def test_a_title_is_never_written_from_itself(shop: Dataset, tmp_path: Path) -> None:
    stage = prepared(shop, tmp_path, reads={"title+image": 1.0})
    questions = Questions(stage, stage.encoder.questions)
    known = stage.listed.filter(pl.col("title").is_not_null() & pl.col("image").is_not_null())
    for sample in questions.reader.read(known["item_id"].to_numpy()[:8]):
        assert questions.asked("title", sample, 0)[0].text is None
        content, _ = questions.asked("category", sample, 0)
        assert content.text == sample.row["title"] and content.image is not None


def test_nothing_is_learnt_of_products_listed_later_and_the_exam_is_of_the_validation_days(
    shop: Dataset, tmp_path: Path
) -> None:
    stage = prepared(shop, tmp_path, sample=4)
    listed = dict(shop.products.select("item_id", "listed_at").iter_rows())
    assert all(listed[item] < shop.splits.train_until for item in stage.listed["item_id"])
    asked = {item for item, _ in stage.exam}
    assert len(asked) == 4 < len(listed) - len(stage.listed)
    assert all(shop.splits.train_until <= listed[item] < shop.splits.valid_until for item in asked)
    assert {question.kind for _, question in stage.exam} == set(KINDS) - {"own"}


def test_every_question_of_the_exam_is_counted_once_over_processes(shop: Dataset, tmp_path: Path) -> None:
    stage = prepared(shop, tmp_path, sample=5)
    parts = [stage.exam[start : start + 3] for start in range(0, len(stage.exam), 3)]
    counted, batches = [], []
    for rank in range(4):
        exams = Exams(stage, stage.encoder, parts, rank, 4)
        found = [exams[number] for number in range(len(exams))]
        counted.append(sum(int(batch.counts.sum()) for batch in found))
        batches.append([batch.decoded for batch in found])
    assert sum(counted) == len(stage.exam) and counted[3] == 0
    assert all(decoded == batches[0] for decoded in batches), "all decode together or not at all"


def test_the_most_frequent_value_is_a_baseline() -> None:
    known = pl.DataFrame(
        {"attributes": pl.Series([{"colour": "red"}, {"colour": "red"}, {"colour": "blue"}, None],
                                 dtype=pl.Map(pl.String, pl.String))}
    )  # fmt: skip
    row = {"item_id": 1, "title": "x", "category": "a", "attributes": {"colour": "red"}}
    red = ask("attribute", row, np.random.default_rng(0))
    asked: list[tuple[int, Question]] = [(1, red), (2, replace(red, answer="blue")), (3, replace(red, key=None))]
    assert most_frequent(known, asked) == 0.5


def test_your_own_questions_are_asked(shop: Dataset, tmp_path: Path) -> None:
    listed = shop.splits.known(shop.products)["item_id"]
    file = tmp_path / "own.csv"
    pl.DataFrame({"item_id": [listed[2]], "question": ["Is it nice?"], "answer": ["very"]}).write_csv(file)
    stage = prepared(shop, tmp_path, table=file, questions={"own": 1.0})
    questions = Questions(stage, stage.encoder.questions)
    batch = questions[plan(stage, [listed[2]], ["own"])]
    answer = batch.content["tokens"][batch.content["answer"]]
    assert tuple(answer.tolist()) == stage.encoder.questions.answer_tokens(["very"])[0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"questions": {"colour": 1.0}}, "no kind 'colour'; there are describe"),
        ({"questions": {"own": 1.0}}, "'own' needs data.table"),
        ({"reads": {"rich": 1.0}}, "'rich' would give the answers away"),
    ],
)
def test_what_does_not_fit_is_refused(shop: Dataset, tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(shop, tmp_path, **data)


def test_an_encoder_that_cannot_answer_is_refused(shop: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DualEncoder cannot; use mllm, or pretraining"):
        prepared(shop, tmp_path, encoder=small_encoder())


def test_it_learns_the_answers_of_a_few_products(shop: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    stage = prepared(shop, tmp_path, questions={"attribute": 1.0}, reads={"title": 1.0})
    encoder, questions = stage.encoder, Questions(stage, stage.encoder.questions)
    items = stage.listed.filter(pl.col("title").is_not_null() & (pl.col("attributes").is_not_null()))["item_id"][:40:5]
    batch = questions[plan(stage, items.to_list(), ["attribute"] * len(items))].content
    optimizer = torch.optim.Adam([p for p in encoder.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        losses, tokens = encoder.answer_losses(batch)
        optimizer.zero_grad()
        (losses.sum() / tokens.sum()).backward()
        optimizer.step()
    samples = questions.reader.read(items.to_numpy())
    asked = [questions.asked("attribute", sample, 0) for sample in samples]
    texts, answers = [q.text for _, q in asked], [q.answer for _, q in asked]
    found = encoder.answer(encoder.questions.ask([content for content, _ in asked], texts), 6)
    assert len(set(answers)) > 1 and found == encoder.spelled(answers)


def test_the_large_recipe_on_two_processes_is_that_on_one(runs: Path, tiny: Dataset, cli: Cli) -> None:
    """The same weights and exam, though rows are shared out unevenly and answers differ in length."""
    overrides = [
        "--data.init_args.size=tiny",
        "--encoder.init_args.model=null",
        f"--encoder.init_args.config={json.dumps(example_mllm_config('qwen2_5_vl_small'))}",
        "--encoder.init_args.image_tokens=6",
        "--encoder.init_args.vocab_size=300",
        "--stages.pretrain.data.sample=6",
        "--stages.posttrain.module.init_args.matryoshka={16: 1.0, 256: 1.0}",
        "--stages.refine=null",
        "--stages.represent=null",
        "--stages.application=null",
    ]
    for stage in ("pretrain", "posttrain"):
        small = {"max_steps": 2, "accelerator": "cpu", "strategy": "auto", "precision": "32-true"}
        overrides += [f"--stages.{stage}.trainer.{key}={value}" for key, value in small.items()]
        overrides += [f"--stages.{stage}.data.batch_size=7", f"--stages.{stage}.data.workers=0"]
    devices = [[f"--stages.{stage}.trainer.devices={n}" for stage in ("pretrain", "posttrain")] for n in (1, 2)]
    one = fit("large/qwen2_5_vl_3b", [*overrides, *devices[0]], runs=runs, name="one")
    done = cli("fit", "--config", "large/qwen2_5_vl_3b", *overrides, *devices[1], "--runs", runs, "--name", "two")
    assert done.returncode == 0, done.stderr
    for stage in ("pretrain", "posttrain"):
        assert (one / stage).resolve() != (runs / "two" / stage).resolve()
        weights = [load_file(run / stage / "weights.safetensors") for run in (one, runs / "two")]
        for name, tensor in weights[0].items():
            torch.testing.assert_close(
                weights[1][name], tensor, rtol=1e-3, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    results: list[dict[str, float]] = [json.loads((run / "results.json").read_text()) for run in (one, runs / "two")]
    assert results[0] and results[0] == pytest.approx(results[1], rel=1e-3)
