"""An open_clip model by its name, and its weights, which are never an arbitrary pickle."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401  (before torchvision, which open_clip imports)

from moonlib.encoders.pretrained import OUT_OF_REACH, UnusableCheckpoint, asking_the_hub, offline
from moonlib.system.versions import DISTRIBUTION

HUB = "hf-hub:"
PUBLISHED = (HUB, "local-dir:")
"""What the name of a model begins with that comes with its weights, transform and tokenizer."""


def library() -> Any:
    """The package open_clip.

    Raises:
        ValueError: it is not installed; the message names the extra that brings it.
    """
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ValueError(f"openclip needs {error.name}: pip install '{DISTRIBUTION}[openclip]'") from None
    return open_clip


def known_name(model: str) -> str:
    """The name by which open_clip knows a model; a JSON file of an architecture is made known to it first.

    Args:
        model: as in ``open_clip.list_models()``, a path that ends in ``.json``, or one of `PUBLISHED`.

    Raises:
        UnusableCheckpoint: there is no such model (with close matches), the file is not a model's configuration, or the
            configuration wants code from the hub to be run.
    """
    open_clip = library()
    if model.endswith(".json"):
        _add(Path(model))
        name = Path(model).stem
    elif model.startswith(PUBLISHED) or model in open_clip.list_models():
        name = model
    else:
        # As differently as people write it: vit-b/32, ViT_B_32.
        plain = {known.lower(): known for known in open_clip.list_models()}
        close = get_close_matches(model.lower().replace("/", "-").replace("_", "-"), plain, n=3)
        names = ", ".join(plain[known] for known in close)
        hint = f"did you mean {names}?" if names else "open_clip.list_models() lists the names"
        raise UnusableCheckpoint(f"open_clip {open_clip.__version__} has no model '{model}'; {hint}")
    if (configuration(name)["text_cfg"].get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise UnusableCheckpoint(
            f"'{model}' wants code from the hub to be run for its tokenizer; moonlib does not do that"
        )
    return name


def configuration(name: str) -> dict[str, Any]:
    """The architecture of a model that `known_name` returned: ``embed_dim``, ``vision_cfg``, ``text_cfg``."""
    try:
        with asking_the_hub(name.startswith(HUB)):
            found: dict[str, Any] = library().get_model_config(name)
        if not {"embed_dim", "vision_cfg", "text_cfg"} <= found.keys():
            raise ValueError("its configuration lacks embed_dim, vision_cfg or text_cfg")
    except (OSError, ValueError) as error:
        raise UnusableCheckpoint(f"open_clip cannot read '{name}': {_first_line(error)}") from None
    return found


def has_weights(model: str, pretrained: str | None) -> bool:
    """Whether a model comes with weights that others trained."""
    return pretrained is not None or model.startswith(PUBLISHED)


def build(model: str, pretrained: str | None) -> Any:
    """Make a model with ``visual`` and ``text``, its two halves.

    Args:
        model: see `known_name`.
        pretrained: a tag of the model, a file of weights, or ``hf-hub:owner/name``; ``None`` for random weights, drawn
            from torch's global generator. A published model comes with its own.

    Returns:
        An ``open_clip.CustomTextCLIP`` or ``CoCa``, float32, on the CPU.

    Raises:
        UnusableCheckpoint: the weights cannot be had, are of another architecture, or would have to be unpickled.
    """
    open_clip = library()
    name = known_name(model)
    published = model.startswith(PUBLISHED)
    if published and pretrained is not None:
        raise UnusableCheckpoint(
            f"'{model}' comes with its weights; leave out pretrained ('{pretrained}')", ("pretrained",)
        )
    hub = pretrained is not None and pretrained.startswith(HUB)
    if not (pretrained is None or hub or open_clip.is_pretrained_cfg(name, pretrained)):
        _require_file(name, pretrained)
    asked = hub or model.startswith(HUB) or (pretrained is not None and not Path(pretrained).exists())
    try:
        with asking_the_hub(asked), _hushed():
            weights, preprocess = _from_hub(pretrained.removeprefix(HUB)) if pretrained and hub else (pretrained, {})
            return open_clip.create_model(
                name,
                weights,
                force_preprocess_cfg=preprocess,
                force_custom_text=True,  # the text half as a module of its own, whatever the architecture
                pretrained_text=False,  # otherwise "random" would mean somebody's weights for models that have a base
                require_pretrained=published or pretrained is not None,
                weights_only=True,
            )
    except Exception as error:  # what reads a stranger's file raises almost anything, AssertionError and KeyError too
        which = f"'{model}'" if pretrained is None else f"'{pretrained}' as weights of '{model}'"
        reason = OUT_OF_REACH if asked and offline() else _first_line(error)
        raise UnusableCheckpoint(
            f"open_clip cannot load {which}: {reason} (weights must be safetensors or hold tensors only)",
            ("model",) if pretrained is None else ("pretrained",),
        ) from error


def tokenizer(model: str) -> Any:
    """The tokenizer of a model, texts → int64 [B, context length]; see `known_name`.

    Raises:
        UnusableCheckpoint: it cannot be had, for instance because it lies on the hub and there is no network.
    """
    name = known_name(model)
    published = configuration(name)["text_cfg"].get("hf_tokenizer_name")
    asked = model.startswith(HUB) or (published is not None and not Path(published).is_dir())
    try:
        with asking_the_hub(asked), _hushed():
            return library().get_tokenizer(name)
    except Exception as error:  # see above
        reason = OUT_OF_REACH if asked and offline() else _first_line(error)
        raise UnusableCheckpoint(f"open_clip cannot get the tokenizer of '{model}': {reason}") from error


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep open_clip's own log to itself: it writes to the root logger, and gives that one a handler if it has none."""
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    root.addFilter(_nothing)
    try:
        yield
    finally:
        root.removeFilter(_nothing)
        root.removeHandler(handler)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def _add(path: Path) -> None:
    """Tell open_clip of the architecture in a JSON file."""
    try:
        keys = set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UnusableCheckpoint(f"{path} is not the configuration of a model: {error}") from None
    if missing := {"embed_dim", "vision_cfg", "text_cfg"} - keys:
        raise UnusableCheckpoint(f"{path} is not the configuration of a model: it lacks {', '.join(sorted(missing))}")
    open_clip = library()
    if (Path(open_clip.__file__).parent / "model_configs" / path.name).exists():
        raise UnusableCheckpoint(f"{path}: open_clip has a model '{path.stem}'; give the file another name")
    open_clip.add_model_config(path)


def _from_hub(repository: str) -> tuple[str, dict[str, Any]]:
    """The file of weights that a repository of the hub publishes, and how its images are prepared."""
    from open_clip.pretrained import download_pretrained_from_hf

    described = json.loads(
        Path(download_pretrained_from_hf(repository, filename="open_clip_config.json")).read_text(encoding="utf-8")
    )
    return download_pretrained_from_hf(repository), described.get("preprocess_cfg", {})


def _require_file(name: str, pretrained: str) -> None:
    if not Path(pretrained).is_file():
        tags = library().list_pretrained_tags_by_model(name)
        close = get_close_matches(pretrained, tags, n=3) or tags
        hint = f"its tags: {', '.join(close)}" if close else "it has no tags"
        raise UnusableCheckpoint(f"'{pretrained}' is neither a file nor a tag of '{name}'; {hint}", ("pretrained",))


def _first_line(error: BaseException) -> str:
    """The line of an error that says most: of a state dict's, the first name that does not fit."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[1] if lines[0].startswith("Error(s) in loading state_dict") and len(lines) > 1 else lines[0]
