"""The base class of encoders that also answer questions: generative multimodal language models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor

from moonlib.data.content import Content
from moonlib.encoders.encoder import ContentBatch, Encoder

Objective = Literal["representation", "generation"]


class QuestionPreprocessor(Protocol):
    """Turns contents and what is asked of them into tensors inside a loader worker; picklable and free of weights."""

    def ask(
        self, contents: Sequence[Content], questions: Sequence[str], answers: Sequence[str] | None = None
    ) -> ContentBatch:
        """Preprocess a batch of questions.

        Args:
            contents: B contents, what each question is about; any modality may be ``None``.
            questions: B questions.
            answers: B answers to learn from; without them the sequences end where an answer begins.

        Returns:
            Named tensors with first dimension B.
        """
        ...


class GenerativeEncoder(Encoder):
    """An encoder whose model can also be asked questions and trained on the answers.

    Attributes:
        questions: preprocesses questions, available after `Encoder.setup`.
    """

    questions: QuestionPreprocessor

    @abstractmethod
    def learn(self, objective: Objective) -> None:
        """Choose what has gradients: parameters that an objective makes no use of have none.

        After `Encoder.setup` it is ``"representation"``.
        """

    @abstractmethod
    def answer_losses(self, batch: ContentBatch) -> tuple[Tensor, Tensor]:
        """Score the answers of a batch, token by token, each from what stands before it.

        Args:
            batch: B questions with answers, as `QuestionPreprocessor.ask` returned them.

        Returns:
            Sum of the negative log-likelihoods of a row's answer tokens in nats, float32 [B], and their number, int64
            [B].
        """

    @abstractmethod
    def answer(self, batch: ContentBatch, max_tokens: int) -> list[str]:
        """Answer by greedy decoding.

        Args:
            batch: B questions without answers, as `QuestionPreprocessor.ask` returned them.
            max_tokens: an answer is cut off after so many. Exactly so many passes are made, whatever the answers, so
                that processes which share a model stay in step.

        Returns:
            B texts.
        """

    @abstractmethod
    def spelled(self, answers: Sequence[str]) -> list[str]:
        """Write answers as `answer` would if it got them right: after tokens and back.

        Args:
            answers: B texts.

        Returns:
            B texts.
        """
