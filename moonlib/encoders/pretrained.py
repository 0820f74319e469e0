"""Pretrained models of transformers, from a local folder or the Hugging Face hub: configuration, weights, tokenizer.

No code from the hub is run, and weights are read from safetensors only. Where there is no network, what this machine
has downloaded before is used, and what it has not is an error at once rather than after many attempts.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from moonlib.artifacts.layout import EXPORT_WEIGHTS

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

CONFIG = "config.json"
WEIGHTS = (EXPORT_WEIGHTS, f"{EXPORT_WEIGHTS}.index.json")
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
IMAGE_PROCESSORS = ("preprocessor_config.json", "processor_config.json")

OUT_OF_REACH = "the hub cannot be reached, and this machine has not downloaded the model before"

PATIENCE = 5.0
"""Seconds after which a hub that does not answer counts as out of reach."""


class UnusableCheckpoint(ValueError):
    """A pretrained model that is missing, damaged, or of another kind.

    Args:
        problem: what is wrong, and what to do.
        key: of the recipe that names the model, as far as it is known, outermost first.
    """

    def __init__(self, problem: str, key: tuple[str, ...] = ("model",)) -> None:
        super().__init__(f"{'.'.join(key)}: {problem}")
        self.problem = problem
        self.key = key

    def within(self, argument: str) -> UnusableCheckpoint:
        """The same of a component that is given as ``argument``."""
        return UnusableCheckpoint(self.problem, (argument, "init_args", *self.key))


@contextmanager
def keys_within(argument: str) -> Iterator[None]:
    """Let an `UnusableCheckpoint` of a component say the argument under which a recipe has the component."""
    try:
        yield
    except UnusableCheckpoint as error:
        raise error.within(argument) from error


def offline() -> bool:
    """Whether the hub is out of reach: by HF_HUB_OFFLINE, or because it does not answer."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or not _answers(constants.ENDPOINT)


@cache
def _answers(endpoint: str) -> bool:
    from huggingface_hub import get_session

    try:
        get_session().head(endpoint, timeout=PATIENCE)
    except Exception:  # of the HTTP library, which differs between versions of the hub's
        return False
    return True


@contextmanager
def asking_the_hub(needed: bool = True) -> Iterator[None]:
    """Keep libraries that ask the hub by themselves from waiting where it is out of reach: as by HF_HUB_OFFLINE.

    Args:
        needed: whether they will ask at all; otherwise nothing is done.
    """
    if not needed:
        yield
        return
    import huggingface_hub.utils
    from huggingface_hub import constants

    before, now = constants.HF_HUB_OFFLINE, offline()
    # Older versions decide when they make a session.
    renew = getattr(huggingface_hub.utils, "reset_sessions", lambda: None) if before != now else lambda: None
    constants.HF_HUB_OFFLINE = now
    renew()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        renew()


def options(model: str) -> dict[str, Any]:
    """Arguments of every ``from_pretrained`` of transformers for a model, so that it is quick without a network.

    Raises:
        UnusableCheckpoint: ``model`` is written like a path, and no folder is there.
    """
    local = Path(model).is_dir()
    if not local and not re.fullmatch(r"([\w-][\w.-]*/)?[\w-][\w.-]*", model):
        raise UnusableCheckpoint(f"there is no folder '{model}'; expected a folder or a name on the hub (owner/name)")
    return {"trust_remote_code": False, "local_files_only": local or offline()}


def read_config(model: str, key: dict[str, Any]) -> PretrainedConfig:
    """The configuration of a model.

    Args:
        model: a folder, or a name on the hub.
        key: what `options` returned for it.

    Raises:
        UnusableCheckpoint: there is none.
    """
    import moonlib.compat  # noqa: F401
    from transformers import AutoConfig

    require_file(model, (CONFIG,), "a configuration")
    with reading(model, key), quiet():
        return AutoConfig.from_pretrained(model, **key)


def read_weights(cls: Any, model: str, key: dict[str, Any], unused: Collection[str] = ()) -> nn.Module:
    """Read a model, float32.

    Args:
        cls: class of transformers to read it with.
        model: a folder, or a name on the hub.
        key: what `options` returned for it.
        unused: beginnings of the names of weights that the file need not have.

    Raises:
        UnusableCheckpoint: the weights are missing, damaged, incomplete, or would have to be unpickled.
    """
    require_file(model, WEIGHTS, "safetensors weights (others are never loaded)")
    with reading(model, key), quiet():
        body, told = cls.from_pretrained(model, use_safetensors=True, output_loading_info=True, **key)
    names = sorted(name.removeprefix(f"{body.base_model_prefix}.") for name in told["missing_keys"])
    missing = [name for name in names if not name.startswith(tuple(unused))]
    if missing:
        which = f"'{missing[0]}'" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
        raise UnusableCheckpoint(
            f"the weights of '{model}' lack {which}, which {type(body).__name__} needs: they are incomplete, or of "
            "another kind of model"
        )
    # Half-precision checkpoints come in half precision; training wants float32 weights.
    weights: nn.Module = body.float()
    return weights


def read_tokenizer(model: str, key: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer of a model.

    Raises:
        UnusableCheckpoint: there is none, or it needs a package that is not installed.
    """
    import moonlib.compat  # noqa: F401
    from transformers import AutoTokenizer

    try:
        with reading(model, key), quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model, **key)
    except UnusableCheckpoint:
        require_file(model, TOKENIZERS, "a tokenizer")
        raise
    # Some classes make an empty vocabulary where they find no file of one.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        require_file(model, TOKENIZERS, "a tokenizer")
        raise UnusableCheckpoint(f"the tokenizer of '{model}' has no vocabulary")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_image_processor(model: str, key: dict[str, Any]) -> Any:
    """The image processor of a model.

    Raises:
        UnusableCheckpoint: there is none, or it needs a package that is not installed.
    """
    import moonlib.compat  # noqa: F401
    from transformers import AutoImageProcessor

    require_file(model, IMAGE_PROCESSORS, "an image processor")
    with reading(model, key), quiet():
        return AutoImageProcessor.from_pretrained(model, **key)


def require_file(model: str, names: Collection[str], what: str) -> None:
    """Refuse a local folder that has none of the files ``names``; on the hub, transformers looks for them.

    Raises:
        UnusableCheckpoint: naming the file, the folder, and what else is there.
    """
    folder = Path(model)
    if not folder.is_dir() or any((folder / name).is_file() for name in names):
        return
    there = sorted(path.name for path in folder.iterdir())
    first, *others = names
    choice = f"{first} (or {', '.join(others)})" if others else first
    held = f"it holds {', '.join(there[:6])}{', …' * (len(there) > 6)}" if there else "it is empty"
    raise UnusableCheckpoint(f"'{folder}' has no {choice}, so it is without {what}; {held}")


@contextmanager
def reading(model: str, key: dict[str, Any]) -> Iterator[None]:
    """Tell an error of transformers in one line: the model, what is wrong, and what to do."""
    try:
        yield
    except UnusableCheckpoint:
        raise
    except Exception as error:  # safetensors, json, tokenizers, the hub and transformers each raise their own
        raise UnusableCheckpoint(f"transformers cannot load '{model}': {_reason(model, key, error)}") from error


def _reason(model: str, key: dict[str, Any], error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    text = " ".join(lines)
    package = next((name for name in ("sentencepiece", "protobuf", "tiktoken") if name in text.lower()), None)
    if isinstance(error, ImportError) or (package and "install" in text):
        return f"its tokenizer or image processor needs a package: pip install {package or 'transformers[vision]'}"
    if Path(model).is_dir():
        if type(error).__name__ == "SafetensorError":
            files = ", ".join(sorted(path.name for path in Path(model).glob("*.safetensors")))
            return f"weights in this folder ({files}) are damaged: {lines[0]}; copy them again"
        return f"{lines[0]} (a local folder; weights must be safetensors)"
    if key["local_files_only"]:
        return f"{OUT_OF_REACH}; give the path of a local folder, or run `hf download {model}` where there is a network"
    return f"{lines[0]} (give the path of a local folder if there is no network; weights must be safetensors)"


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to itself what transformers tells of weights that are not used."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    # The library's own threads must not be started in a forked worker, where they could hang.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        yield
    finally:
        logging.set_verbosity(before)


def used_parameters(output: Tensor) -> set[int]:
    """Ids of the parameters that an output was computed from.

    Others would have no gradient, for which DistributedDataParallel waits in vain.
    """
    seen, waiting, found = set(), [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.add(id(node.variable))
        waiting += [before for before, _ in node.next_functions]
    return found
