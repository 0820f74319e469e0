"""Generative pretraining: questions about products, answered token by token."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import moonlib.compat  # noqa: F401
import numpy as np
import polars as pl
import torch
import torch.distributed as dist
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from moonlib.artifacts.layout import QUARANTINE
from moonlib.batches.loading import augmented, give_way
from moonlib.batches.planner import BatchPlan, BatchPlanner
from moonlib.data.content import Content, Modalities, compose
from moonlib.data.images import UnreadableImage
from moonlib.data.quarantine import Quarantine, TooManyUnreadable
from moonlib.data.reader import Sample, SampleReader
from moonlib.data.reads import Reads
from moonlib.encoders.encoder import ContentBatch
from moonlib.encoders.generative import GenerativeEncoder, QuestionPreprocessor
from moonlib.encoders.weights import load_weights
from moonlib.optimizers.adamw import AdamWFactory
from moonlib.optimizers.optimizer_factory import (
    OptimizerContext,
    OptimizerFactory,
    chosen,
    matrices,
    trained_parameters,
)
from moonlib.pairs.pairs import product_pairs
from moonlib.pairs.questions import KINDS, Question, QuestionKind, answerable, ask, read_questions
from moonlib.stages.stage import Need, Stage, StageContext
from moonlib.stages.training import save_encoder, train
from moonlib.system.workers import end_at_a_lost_batch

COLUMNS = ("item_id", "title", "category", "attributes", "image", "listed_at")

# Independent random streams of one seed, beside those of `moonlib.batches.planner`.
_WORDING, _SAMPLE = 100, 101


def _questions() -> dict[str, float]:
    return {"describe": 0.15, "attributes": 0.25, "attribute": 0.25, "title": 0.15, "subject": 0.1, "category": 0.1}


@dataclass
class QuestionData:
    """How questions are made and turned into batches.

    Args:
        questions: weight of each kind: ``describe``, ``attributes`` (all of them), ``attribute`` (one), ``title``,
            ``subject`` (what is shown), ``category`` (its path), ``own`` (of ``table``).
        reads: weight of what a question is asked about: ``image``, ``title+image`` or ``title``. A product that lacks
            one is asked about the other; a title is always written from the image alone.
        table: your own questions, Parquet or CSV: item_id, question, answer.
        batch_size: questions in a batch, over all devices.
        augment: strength of the image augmentation in training, 0 for none.
        sample: products listed in the validation days that the metrics are measured on.
        workers: loader processes; has no effect on the batches.
    """

    questions: dict[str, float] = field(default_factory=_questions)
    reads: dict[str, float] = field(default_factory=lambda: {"image": 0.5, "title+image": 0.5})
    table: Path | None = None
    batch_size: int = 64
    augment: float = 0.0
    sample: int = 256
    workers: int = 2


@dataclass
class QuestionBatch:
    """Q questions.

    Attributes:
        content: with answers, as `QuestionPreprocessor.ask` made it, first dimension Q.
        kind: int64 [Q], index of each question's kind.
    """

    content: ContentBatch
    kind: Tensor


@dataclass
class ExamBatch(QuestionBatch):
    """Q questions of which the answers are known, and are to be found.

    Attributes:
        counts: bool [Q], False for a row that only fills up a batch.
        asked: the same questions without answers.
        answers: what is right, as the encoder spells it.
        decoded: whether answers are to be found; the same on all processes.
    """

    counts: Tensor
    asked: ContentBatch
    answers: list[str]
    decoded: bool


class GenerativePretraining(Stage):
    """Teach a generative encoder the domain by next-token prediction on product question answering.

    Questions are made of the products table while batches are loaded: describe the product, extract its attributes,
    write a title, name the main subject, the category; in Chinese where the answer is, else in English. The loss is
    that of the answers' tokens alone, averaged over the answer tokens of the batch on all devices. Only products listed
    before the end of training are learnt from.

    At the end it asks about products that were listed in the validation days:

    - ``valid/questions/attribute_accuracy``: share of attributes answered exactly, by greedy decoding, beside
      ``valid/questions/attribute_accuracy@most_frequent``, that of the attribute's most frequent value in training;
    - ``valid/questions/perplexity@KIND``: exp of the mean loss per answer token, for each kind of question.

    Args:
        learning_rate: peak of the schedule (linear warm-up, cosine decay to 0 at ``trainer.max_steps``).
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps over which the learning rate rises.
        max_answer_tokens: a decoded answer is cut off after so many.
        optimizer: takes the place of AdamW with its three arguments above; null for that.

    Source: MOON (arXiv 2511.11305), Stage 1. The kinds of question are told of it; wordings and weights are our choice.
    """

    data_type: ClassVar[type] = QuestionData
    provides: ClassVar[Literal["weights", "representations"] | None] = "weights"
    warm_starts: ClassVar[bool] = True

    def __init__(
        self,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.05,
        max_answer_tokens: int = 12,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        if max_answer_tokens < 1:
            raise ValueError(f"max_answer_tokens must be at least 1, got {max_answer_tokens}")
        self.optimizer = chosen(
            optimizer,
            lambda: AdamWFactory(learning_rate, weight_decay, warmup),
            GenerativePretraining,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            warmup=warmup,
        )
        self.max_answer_tokens = max_answer_tokens

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"encoder", "weights"})

    def reads(self, data: Any, validated: bool = False) -> Reads:
        """Content of questions, and of what they are asked about, of products listed until validation days end."""
        shown = Reads.content("products", [Modalities(image=True, text="title")])
        found = shown | Reads.of(products=COLUMNS, moments=["train_until", "valid_until"])
        return found.before("valid_until")

    def run(self, context: StageContext) -> dict[str, float]:
        self.prepare(context)
        train(self, context)
        save_encoder(self.encoder, context)
        return self.metrics

    def prepare(self, context: StageContext) -> None:
        """Load the weights and look through the products: all that comes before the trainer.

        Raises:
            ValueError: the encoder cannot answer, or an argument does not fit.
        """
        if context.trainer.max_steps is None or context.trainer.max_steps < 1:
            raise ValueError("generative_pretraining counts in steps: set trainer.max_steps in its recipe")
        encoder, data, dataset = context.encoder, context.data, context.dataset
        if not isinstance(encoder, GenerativeEncoder):
            raise ValueError(
                f"generative_pretraining needs an encoder that can answer questions, and {type(encoder).__name__} "
                "cannot; use mllm, or pretraining in place of this stage"
            )
        if unknown := [kind for kind in data.questions if kind not in KINDS]:
            raise ValueError(f"data.questions: no kind '{unknown[0]}'; there are {', '.join(KINDS)}")
        if data.questions.get("own", 0) > 0 and data.table is None:
            raise ValueError("data.questions: 'own' needs data.table, the file of your questions")
        for words in data.reads:
            if Modalities.parse(words).text == "rich":
                raise ValueError(f"data.reads: '{words}' would give the answers away; expected image, title or both")
        self.encoder, self.context, self.metrics = encoder, context, dict[str, float]()
        if context.weights is not None:
            load_weights(encoder, context.weights)
        encoder.learn("generation")
        self.decayed = matrices(self)
        products = dataset.table("products", COLUMNS)
        self.listed = dataset.splits.known(products)
        if self.listed.is_empty():
            raise ValueError(f"{dataset.directory}: no product is listed before the end of training")
        self.kinds: list[QuestionKind] = [kind for kind in KINDS if kind in data.questions]
        self.own = {} if data.table is None else read_questions(data.table, self.listed["item_id"], context.dataset.ids)
        start, end = dataset.splits.window("valid")
        unseen = products.filter((pl.col("listed_at") >= start) & (pl.col("listed_at") < end)).sort("item_id")
        drawn = np.random.default_rng([context.seed, _SAMPLE]).permutation(len(unseen))[: data.sample]
        self.exam = exam(unseen[np.sort(drawn)], [kind for kind in self.kinds if kind != "own"], context.seed)

    def train_dataloader(self) -> DataLoader[QuestionBatch]:
        context, data = self.context, self.context.data
        pairs = product_pairs(self.listed)
        rows = pl.DataFrame({"item_id": pairs.item_id}).join(self.listed, on="item_id", maintain_order="left")
        planner = BatchPlanner(
            pairs,
            {kind: data.questions[kind] for kind in self.kinds},
            answerable(rows, self.kinds, self.own),
            data.batch_size,
            seed=context.seed,
            steps=self.trainer.max_steps * self.trainer.accumulate_grad_batches,
            start_step=context.position.batch,
            epoch=context.position.epoch,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return DataLoader(
            Questions(self, self.encoder.questions),
            sampler=planner,
            batch_size=None,
            num_workers=data.workers,
            generator=torch.Generator().manual_seed(context.seed),
            worker_init_fn=give_way if self.trainer.strategy.root_device.type == "cpu" else end_at_a_lost_batch,
        )

    def val_dataloader(self) -> DataLoader[ExamBatch] | list[Any]:
        if not self.exam:
            return []
        trainer, size = self.trainer, self.context.data.batch_size
        parts = [self.exam[start : start + size] for start in range(0, len(self.exam), size)]
        exams = Exams(self, self.encoder, parts, trainer.global_rank, trainer.world_size)
        generator = torch.Generator().manual_seed(self.context.seed)
        return DataLoader(exams, batch_size=None, generator=generator)

    def training_step(self, batch: QuestionBatch, step: int) -> Tensor:
        losses, tokens = self.encoder.answer_losses(batch.content)
        total, world = tokens.sum(), self.trainer.world_size
        if world > 1:
            dist.all_reduce(total)
        # Of R processes each returns its share times R: the mean of their gradients is that of the global batch.
        loss = losses.sum() * (world / total.clamp(min=1))
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_validation_epoch_start(self) -> None:
        # Per kind: summed loss, answer tokens; then right answers and attributes asked for.
        self.sums = torch.zeros(len(KINDS) + 1, 2, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: ExamBatch, step: int) -> None:
        if self.trainer.global_step < self.trainer.max_steps:  # Lightning looks at a few batches before it begins
            return
        losses, tokens = self.encoder.answer_losses(batch.content)
        measured = torch.stack([losses.double(), tokens.double()], dim=1) * batch.counts.unsqueeze(1)
        self.sums.index_add_(0, batch.kind, measured)
        if not batch.decoded:
            return
        found = self.encoder.answer(batch.asked, self.max_answer_tokens)
        asked = (batch.kind == KINDS.index("attribute")) & batch.counts
        right = torch.tensor([a == b for a, b in zip(found, batch.answers, strict=True)], device=self.device)
        self.sums[-1] += torch.stack([(right & asked).sum(), asked.sum()])

    def on_validation_epoch_end(self) -> None:
        if self.trainer.global_step < self.trainer.max_steps:
            return
        if self.trainer.world_size > 1:
            dist.all_reduce(self.sums)
        *kinds, (right, asked) = self.sums.tolist()
        for kind, (loss, tokens) in zip(KINDS, kinds, strict=True):
            if tokens:
                self.metrics[f"valid/questions/perplexity@{kind}"] = math.exp(min(loss / tokens, 700.0))
        if asked:
            self.metrics["valid/questions/attribute_accuracy"] = right / asked
            self.metrics["valid/questions/attribute_accuracy@most_frequent"] = most_frequent(self.listed, self.exam)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        return self.optimizer(trained_parameters(self, self.encoder, self.decayed), OptimizerContext.of(self))


def exam(products: pl.DataFrame, kinds: Sequence[QuestionKind], seed: int) -> list[tuple[int, Question]]:
    """Ask every product one question of every kind that it can answer.

    Args:
        products: rows with `COLUMNS`.
        kinds: of question.
        seed: of the draws.

    Returns:
        Item ids and questions, kind by kind.
    """
    if products.is_empty() or not kinds:
        return []
    can, rows = answerable(products, kinds, {}), products.select(COLUMNS[:4]).to_dicts()
    found = []
    for k, kind in enumerate(kinds):
        for row in (rows[i] for i in np.flatnonzero(can[:, k])):
            row = row | {"attributes": dict(row["attributes"] or ())}
            found.append((row["item_id"], ask(kind, row, _draws(seed, _SAMPLE, row["item_id"]))))
    return found


def most_frequent(known: pl.DataFrame, asked: Sequence[tuple[int, Question]]) -> float:
    """Share of the attributes asked for that the most frequent value among known products answers.

    Args:
        known: products that were learnt from.
        asked: the exam.
    """
    counts: dict[str, Counter[str]] = {}
    for attributes in known["attributes"].to_list():
        for key, value in dict(attributes or ()).items():
            if value:
                counts.setdefault(key, Counter())[value] += 1
    best = {key: values.most_common(1)[0][0] for key, values in counts.items()}
    questions = [question for _, question in asked if question.key is not None]
    return sum(best.get(str(question.key)) == question.answer for question in questions) / max(1, len(questions))


def _draws(seed: int, *rest: int) -> np.random.Generator:
    """A generator of its own for every product, whichever process asks."""
    return np.random.default_rng([seed, *(number & 0xFFFF_FFFF_FFFF_FFFF for number in rest)])


def _reads(
    kind: QuestionKind, row: dict[str, Any], has_image: bool, reads: dict[str, float], draw: float
) -> Modalities:
    """The part of a product that a question is about."""
    weights = np.array(list(reads.values()), dtype=np.float64).cumsum()
    chosen = Modalities.parse(list(reads)[min(int((draw * weights[-1] >= weights).sum()), len(reads) - 1)])
    title = bool((row["title"] or "").strip())
    if kind == "title" or not title:
        return Modalities(image=True, text=None)
    if not has_image:
        return Modalities(image=False, text="title")
    return chosen


class Questions(TorchDataset[QuestionBatch]):
    """Asks what a plan says: ``questions[plan]`` is a `QuestionBatch`.

    A product whose image cannot be read is named in the quarantine and left out.

    Args:
        stage: after `GenerativePretraining.prepare`.
        preprocessor: the encoder's.
    """

    def __init__(self, stage: GenerativePretraining, preprocessor: QuestionPreprocessor) -> None:
        context = stage.context
        self.reader = SampleReader(context.dataset, "products")
        dataset = context.dataset
        self.quarantine = Quarantine(context.directory / QUARANTINE, total=dataset.counts["products"], ids=dataset.ids)
        self.preprocessor = preprocessor
        self.kinds, self.own, self.reads = stage.kinds, stage.own, context.data.reads
        self.seed, self.strength = context.seed, context.data.augment
        self.augmented = stage.encoder.augmented_inputs()

    def __getitem__(self, plan: BatchPlan) -> QuestionBatch:
        samples = self.reader.read(plan.item_ids)
        asked = [
            self.asked(self.kinds[task], sample, plan.step)
            for sample, task in zip(samples, plan.task.tolist(), strict=True)
        ]
        try:
            content = self._content(asked)
        except UnreadableImage:
            asked = [one for one, sample in zip(asked, samples, strict=True) if self._readable(one, sample.id)]
            if not asked:
                raise TooManyUnreadable(
                    f"step {plan.step}: none of its products can be read; see {self.quarantine.path}"
                ) from None
            content = self._content(asked)
        generator = torch.Generator().manual_seed(plan.seed)
        kinds = torch.tensor([KINDS.index(question.kind) for _, question in asked])
        return QuestionBatch(augmented(content, generator, self.strength, self.augmented), kinds)

    def asked(self, kind: QuestionKind, sample: Sample, step: int) -> tuple[Content, Question]:
        """A question of a kind, and what it is asked about; a function of seed, step and product alone."""
        rng = _draws(self.seed, _WORDING, step, sample.id)
        question = ask(kind, sample.row, rng, self.own)
        read = _reads(kind, sample.row, sample.image is not None, self.reads, rng.random())
        return compose(sample.row, sample.image, read), question

    def _content(self, asked: Sequence[tuple[Content, Question]]) -> ContentBatch:
        questions = [question for _, question in asked]
        return self.preprocessor.ask(
            [content for content, _ in asked], [q.text for q in questions], [q.answer for q in questions]
        )

    def _readable(self, asked: tuple[Content, Question], item_id: int) -> bool:
        try:
            self._content([asked])
        except UnreadableImage as error:
            self.quarantine.record("products", item_id, str(error))
            return False
        return True


class Exams(TorchDataset[ExamBatch]):
    """Batches of the exam, of which every process takes its share and as many batches as any other.

    Args:
        stage: after `GenerativePretraining.prepare`.
        encoder: spells the answers.
        parts: the questions, batch by batch.
        rank: of this process.
        world_size: number of processes.
    """

    def __init__(
        self,
        stage: GenerativePretraining,
        encoder: GenerativeEncoder,
        parts: Sequence[Sequence[tuple[int, Question]]],
        rank: int,
        world_size: int,
    ) -> None:
        self.questions = Questions(stage, encoder.questions)
        self.encoder = encoder
        self.parts = parts
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, number: int) -> ExamBatch:
        if number >= len(self.parts):
            raise IndexError(number)
        part = list(self.parts[number])
        mine = part[self.rank :: self.world_size] or part[:1]
        ids: NDArray[np.int64] = np.array([item_id for item_id, _ in mine])
        questions, samples = [question for _, question in mine], self.questions.reader.read(ids)
        contents = [self._content(question, sample) for question, sample in zip(questions, samples, strict=True)]
        texts, answers = [q.text for q in questions], [q.answer for q in questions]
        preprocessor = self.questions.preprocessor
        return ExamBatch(
            content=preprocessor.ask(contents, texts, answers),
            kind=torch.tensor([KINDS.index(question.kind) for question in questions]),
            counts=torch.tensor([self.rank < len(part)] * len(mine)),
            asked=preprocessor.ask(contents, texts),
            answers=self.encoder.spelled(answers),
            decoded=any(question.kind == "attribute" for _, question in part),
        )

    def _content(self, question: Question, sample: Sample) -> Content:
        """The image alone where there is one, and where it can be read."""
        if sample.image is not None:
            content = compose(sample.row, sample.image, Modalities(image=True, text=None))
            try:
                self.questions.preprocessor.ask([content], [question.text])
                return content
            except UnreadableImage as error:
                self.questions.quarantine.record("products", sample.id, str(error))
        return compose(sample.row, None, Modalities(image=False, text="title"))
