"""A generative multimodal language model of transformers as the encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import moonlib.compat  # noqa: F401
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from moonlib.data.content import View
from moonlib.data.reads import NOTHING, Reads
from moonlib.encoders.encoder import ContentBatch
from moonlib.encoders.generative import GenerativeEncoder, Objective
from moonlib.encoders.learning_rates import LearningRates
from moonlib.encoders.mllm.attention import Pooling, attention_mask, pack, pool
from moonlib.encoders.mllm.families import Family, family_of
from moonlib.encoders.mllm.lora import LoRA, add_lora
from moonlib.encoders.mllm.presets import PRESETS
from moonlib.encoders.mllm.processor import IMAGE, SPECIAL, Layout, MLLMProcessor
from moonlib.encoders.pretrained import (
    WEIGHTS,
    UnusableCheckpoint,
    options,
    read_config,
    read_tokenizer,
    reading,
    require_file,
)
from moonlib.encoders.tokenizer import CATALOGUE_READS, load_or_fit_tokenizer
from moonlib.system.versions import DISTRIBUTION

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig

PACKED = 512
"""Tokens of a packed sequence: long enough that little of it is padding, short enough that its mask is small."""


class MLLM(GenerativeEncoder):
    """A vision-language model: image tokens and text in one sequence, the last layer's states pooled.

    Attention is made bidirectional to encode and stays causal to answer questions, on the same weights. The model is
    one of transformers' Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Idefics3 and SmolVLM: from the hub or a folder (``model``), or
    an architecture trained from scratch (``config``), whose tokenizer is fitted on the catalogue. No code from the hub
    is run, and only safetensors weights are read.

    A row without image and text is all zeros.

    Args:
        model: a hub id or the path of a folder; null for a model from scratch.
        config: of a model from scratch: the name of a preset of `moonlib.encoders.mllm.presets`, or what transformers'
            ``AutoConfig.for_model`` takes, ``model_type`` included. Vocabulary and special tokens are filled in. Not
            read where ``model`` is given.
        pretrained: read the weights of ``model``; otherwise only its architecture and tokenizer are taken.
        dim: width of the representation.
        attention: what a token sees when content is encoded: everything (``bidirectional``) or what stands before it.
        pooling: ``mean`` over the tokens of a row, or the ``last`` one, which is the mark of the end.
        image_tokens: budget of an image.
        max_length: budget of a text, in tokens.
        resize: ``square`` squashes an image; ``aspect`` keeps its proportions, as nearly as whole tokens allow.
        packed: lay rows one behind another rather than padding each to the longest; the result is the same, and faster
            where lengths differ much.
        vocab_size: upper limit of the vocabulary of a model from scratch.
        lora: train low-rank adapters and the projection, and nothing else; null for full training.
        checkpointing: recompute activations in backward, for less memory.
        learning_rates: pattern → factor. A parameter in whose name the pattern is found (a regular expression; the
            first one counts) is trained at the stage's learning rate times the factor; at 0 it is frozen.
        crop: what the model sees of an image: all of it (``[full]``) or the box around its main subject (``[box]``; all
            of it where there is no box).

    Raises:
        ValueError: the model is of an unsupported type or cannot be loaded, a preset is unknown, a pattern is not a
            regular expression or matches nothing, a budget is not positive, or ``crop`` is not one view.

    Source: MOON (arXiv 2511.11305), Stage 2: attention made bidirectional, mean pooling over the last layer. The mark
    of the end, the projection and the budgets are our choice.

    Example:
        >>> encoder = MLLM(config="smolvlm_small", learning_rates={"vision_model": 0.1})
    """

    def __init__(
        self,
        model: str | None = None,
        config: str | dict[str, Any] = "qwen2_vl_small",
        pretrained: bool = True,
        dim: int = 128,
        attention: Literal["bidirectional", "causal"] = "bidirectional",
        pooling: Pooling = "mean",
        image_tokens: int = 16,
        max_length: int = 40,
        resize: Literal["square", "aspect"] = "square",
        packed: bool = False,
        vocab_size: int = 4096,
        lora: LoRA | None = None,
        checkpointing: bool = False,
        learning_rates: dict[str, float] = {},  # noqa: B006  (a recipe's default is read, never written)
        crop: Sequence[View] = ("full",),
    ) -> None:
        super().__init__()
        if list(crop) not in (["full"], ["box"]):
            raise ValueError(
                f"crop is {list(crop)}; the model reads one picture of a product: expected [full] or [box]"
            )
        if image_tokens < 1 or max_length < 1:
            raise ValueError(f"image_tokens and max_length must be at least 1, got {image_tokens} and {max_length}")
        if model is None and isinstance(config, str) and config not in PRESETS:
            raise ValueError(f"no preset '{config}'; there are {', '.join(PRESETS)}, or give a mapping with model_type")
        self.model = model
        self.config = config
        self.pretrained = pretrained
        self.dim = dim
        self.attention = attention
        self.pooling: Pooling = pooling
        self.image_tokens = image_tokens
        self.max_length = max_length
        self.resize = resize
        self.packed = packed
        self.vocab_size = vocab_size
        self.lora = lora
        self.checkpointing = checkpointing
        self.learning_rates = LearningRates(learning_rates)
        self.crop = tuple(crop)

    family: Family
    questions: MLLMProcessor
    mean: Tensor
    std: Tensor

    def reads(self) -> Reads:
        """The texts of the catalogue, unless the tokenizer is a published one."""
        return CATALOGUE_READS if self.model is None else NOTHING

    def setup(self, products: pl.DataFrame, directory: Path) -> None:
        """Load the tokenizer, or fit it on ``products``; make or read the weights.

        Raises:
            ValueError: transformers is older than its layouts that are read here.
        """
        if int((version := metadata.version("transformers")).split(".")[0]) < 5:
            raise ValueError(
                f"mllm needs transformers 5, and {version} is installed: pip install '{DISTRIBUTION}[mllm]'"
            )
        if self.model is None:
            tokenizer = load_or_fit_tokenizer(products, directory, self.vocab_size)
            tokenizer.add_special_tokens(list(SPECIAL))
            config = _new_config(self.config, tokenizer)
        else:
            tokenizer, config = _read_config(self.model)
        self.family = family = family_of(config)
        # Weights that are read come in eval mode, where dropout would stay off: the mode is the encoder's.
        self.body = _body(config, self.model if self.pretrained else None).train(self.training)
        self.body.config.use_cache = False
        family.prepare(self.body)
        if self.checkpointing:
            newer = getattr(self.body, "activation_checkpointing_enable", None)
            (newer or self.body.gradient_checkpointing_enable)({"use_reentrant": False})
        width = int(config.text_config.hidden_size)
        self.projection = nn.Linear(width, self.dim)
        self.image_dim, self.text_dim = family.vision_width, width
        for name, values in (("mean", family.mean), ("std", family.std)):
            self.register_buffer(name, 255 * torch.tensor(values).view(3, 1, 1), persistent=False)
        self.preprocessor = self.questions = MLLMProcessor(
            tokenizer=tokenizer,
            layout=Layout.of(tokenizer, config.model_type, family.image_token, fitted=self.model is None),
            unit=family.unit,
            image_tokens=self.image_tokens,
            max_length=self.max_length,
            square=self.resize == "square" or family.square,
            largest=family.largest,
            view=self.crop[0],
        )
        if self.lora is not None:
            add_lora(self.body, self.lora)
        self._trainable = self.learning_rates.trainable(self)
        self.learn("representation")

    def save_architecture(self, directory: Path) -> dict[str, Any]:
        """Write ``config.json`` and the tokenizer of a ``model``; see `Encoder.save_architecture`."""
        if self.model is None:
            return {}
        from transformers import PreTrainedTokenizerFast

        self.body.config.save_pretrained(directory)
        PreTrainedTokenizerFast(tokenizer_object=self.questions.tokenizer).save_pretrained(directory)
        return {"model": str(directory), "pretrained": False}

    def learning_rate_factor(self, name: str) -> float:
        """The factor on the stage's learning rate of the parameter of this name."""
        return self.learning_rates.factor(name)

    def is_published(self, name: str) -> bool:
        """Whether the weight of this name was read with the model: all but the projection and adapters of low rank."""
        return self.model is not None and self.pretrained and name.startswith("body.") and ".lora_" not in name

    def learn(self, objective: Objective) -> None:
        # What the other objective alone makes use of: the head that names tokens, unless it is the embedding too.
        head = self.body.get_output_embeddings().weight
        tied = head is self.body.get_input_embeddings().weight
        idle = (
            {id(p) for p in self.projection.parameters()}
            if objective == "generation"
            else {id(head)} - {tied * id(head)}
        )
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self._trainable[name] and id(parameter) not in idle)

    def forward(self, batch: ContentBatch) -> Tensor:
        """Return float32 or wider [B, dim]; see `Encoder.forward`."""
        mask = batch["token_mask"]
        states = self.states(batch, causal=self.attention == "causal")
        vectors = self.projection(pool(states, mask, self.pooling)) * mask.any(dim=1, keepdim=True)
        return vectors.to(torch.promote_types(vectors.dtype, torch.float32))

    def states(self, batch: ContentBatch, causal: bool) -> Tensor:
        """The last layer's outputs, after the final normalisation.

        Args:
            batch: B rows as the preprocessor laid them out.
            causal: a token sees what stands before it only.

        Returns:
            float [B, T, H]; what stands where there is no token has no meaning.
        """
        tokens, mask, sizes = batch["tokens"], batch["token_mask"], batch["image_size"]
        positions = self.family.positions((tokens == self.family.image_token) & mask, sizes)
        vision, idle = self._vision(batch["image"], sizes)
        if not self.packed:
            segments = torch.where(mask, 0, -1)
            states = self._run(tokens, positions, segments, causal, vision)
        else:
            places, segments = pack(mask, PACKED)
            flat = self._run(
                _laid(tokens, mask, places, segments.shape), _laid(positions, mask, places, segments.shape),
                segments, causal, vision,
            ).flatten(0, 1)  # fmt: skip
            rows = mask.flatten().nonzero()[:, 0]
            states = flat.new_zeros(mask.numel(), flat.shape[1]).index_copy(0, rows, flat[places])
            states = states.view(*mask.shape, -1)
        return states if idle is None else states + idle

    def _run(
        self, tokens: Tensor, positions: Tensor, segments: Tensor, causal: bool, vision: Mapping[str, Tensor]
    ) -> Tensor:
        return self.body.base_model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=attention_mask(segments, causal),
            use_cache=False,
            **vision,
        ).last_hidden_state

    def _vision(self, images: Tensor, sizes: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Encode the images that there are; zeros where there is none.

        The zero comes out of the vision tower: where ranks see different modalities, DistributedDataParallel would
        otherwise wait for gradients that never come, and optimizers would differ between "no gradient" and "a gradient
        of zero".
        """
        rows = (sizes[:, 0] > 0).nonzero()[:, 0]
        if len(rows):
            return self.family.vision_inputs(self._normalised(images[rows]), sizes[rows]), None
        if not torch.is_grad_enabled():
            return {}, None
        blank = torch.full((1, 2), self.family.largest or self.family.unit, device=images.device)
        side = int(blank[0, 0])
        inputs = self.family.vision_inputs(self._normalised(images.new_zeros(1, 3, side, side)), blank)
        features = self.body.base_model.get_image_features(**inputs, return_dict=True)
        # Lists of one tensor per image; Qwen3-VL's tower hands over some of its inner layers too.
        layers = [features.pooler_output, *(getattr(features, "deepstack_features", None) or ())]
        return {}, 0.0 * torch.stack([torch.cat(list(layer)).sum() for layer in layers]).sum()

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def answer_losses(self, batch: ContentBatch) -> tuple[Tensor, Tensor]:
        states, answer = self.states(batch, causal=True), batch["answer"][:, 1:]
        logits = self.body.get_output_embeddings()(states[:, :-1][answer])
        losses = F.cross_entropy(logits.float(), batch["tokens"][:, 1:][answer], reduction="none")
        rows = answer.nonzero()[:, 0]
        return losses.new_zeros(len(answer)).index_add(0, rows, losses), answer.sum(dim=1)

    @torch.no_grad()
    def answer(self, batch: ContentBatch, max_tokens: int) -> list[str]:
        batch, rows = dict(batch), torch.arange(len(batch["tokens"]), device=batch["tokens"].device)
        for name, value in (("tokens", self.questions.layout.pad), ("token_mask", 0)):
            batch[name] = F.pad(batch[name], (0, max_tokens), value=value)
        start = batch["token_mask"].sum(dim=1)
        for length in range(max_tokens):
            states = self.states(batch, causal=True)[rows, start + length - 1]
            batch["tokens"][rows, start + length] = self.body.get_output_embeddings()(states).argmax(dim=1)
            batch["token_mask"][rows, start + length] = True
        written = batch["tokens"].gather(1, start[:, None] + torch.arange(max_tokens, device=start.device))
        return self._decoded(written.tolist())

    def spelled(self, answers: Sequence[str]) -> list[str]:
        return self._decoded(self.questions.answer_tokens(answers))

    def _decoded(self, rows: Sequence[Sequence[int]]) -> list[str]:
        end = self.questions.layout.end
        tokens = [list(row[: list(row).index(end)] if end in row else row) for row in rows]
        return [text.strip() for text in self.questions.tokenizer.decode_batch(tokens, skip_special_tokens=False)]


def _laid(values: Tensor, mask: Tensor, places: Tensor, shape: torch.Size) -> Tensor:
    """Move what belongs to tokens, [..., B, T], to their places in packed sequences, [..., N, L]; zeros elsewhere."""
    lead = values.shape[:-2]
    packed = values.new_zeros(*lead, shape.numel())
    packed[..., places] = values[..., mask]
    return packed.view(*lead, *shape)


def _new_config(config: str | Mapping[str, Any], tokenizer: Tokenizer) -> PretrainedConfig:
    """Make the configuration of a model whose vocabulary is the tokenizer's."""
    from transformers import AutoConfig

    values = dict(PRESETS[config] if isinstance(config, str) else config)
    if "model_type" not in values:
        raise ValueError("config: a mapping needs model_type, such as qwen2_vl")
    vocab_size = tokenizer.get_vocab_size()
    marks = {"pad_token_id": None, "bos_token_id": None, "eos_token_id": None}
    text = {**values.get("text_config", {}), "vocab_size": vocab_size, **marks}
    try:
        made = AutoConfig.for_model(
            values.pop("model_type"),
            **{**values, "text_config": text, **marks, "image_token_id": tokenizer.token_to_id(IMAGE)},
        )
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"config: transformers cannot make it: {str(error).strip()}") from error
    made.tie_word_embeddings = bool(values.get("tie_word_embeddings", True))
    made.text_config.tie_word_embeddings = made.tie_word_embeddings
    return made


def _read_config(model: str) -> tuple[Tokenizer, PretrainedConfig]:
    place = options(model)
    config = read_config(model, place)
    family_of(config)  # before anything large is read
    tokenizer = read_tokenizer(model, place)
    if not getattr(tokenizer, "is_fast", False):
        raise UnusableCheckpoint(f"'{model}' has no fast tokenizer (tokenizer.json), which mllm needs")
    return tokenizer.backend_tokenizer, config


def _body(config: PretrainedConfig, model: str | None) -> Any:
    """Make the model with random weights, or read those of ``model``; float32 either way."""
    from transformers import AutoModelForImageTextToText

    if model is None:
        return AutoModelForImageTextToText.from_config(
            config, attn_implementation="sdpa", trust_remote_code=False
        ).float()
    place = options(model)
    require_file(model, WEIGHTS, "safetensors weights (others are never loaded)")
    with reading(model, place):
        return AutoModelForImageTextToText.from_pretrained(
            model, use_safetensors=True, attn_implementation="sdpa", dtype=torch.float32, **place
        )
