"""A run's encoder as a folder of its own, laid out as models on the Hugging Face hub are, and the way back.

    model.safetensors   the weights
    config.json         the encoder's class and arguments, what it reads, and the versions it was exported with
    tokenizer.json      what the encoder's preprocessing consists of, under the names that it has in the run
    text/, image/, ...  configuration and tokenizer of a part that had them from elsewhere, such as the hub
    recipe.yaml         what it was trained with
    README.md           the model card, see `moonlib.exports.model_card`; yours to edit
    moonlib.sha256      checksums of all but the model card, see `moonlib.artifacts.checksums`

Nothing in the folder points out of it: neither the run nor its data nor a network is needed to open it.
"""

from __future__ import annotations

import filecmp
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from torch import nn

import moonlib
from moonlib.artifacts.checksums import SUMS, seal
from moonlib.artifacts.directories import write_json, write_text
from moonlib.artifacts.layout import (
    CODEBOOKS,
    CODES,
    IDENTITY,
    INITIAL_WEIGHTS,
    RECIPE,
    is_read,
)
from moonlib.config.recipe import spelled
from moonlib.data.content import Content, Side
from moonlib.encoders.exportable import Exportable
from moonlib.encoders.weights import save_weights
from moonlib.exports.exported import CONFIG, FORMAT, HERE, PROGRAM, WEIGHTS, Export, replaced
from moonlib.exports.model_card import model_card
from moonlib.exports.program import FORMAT as PROGRAM_FORMAT
from moonlib.exports.program import Kind, program_config, require, write_program
from moonlib.exports.program_card import program_use
from moonlib.runs.errors import RunError
from moonlib.runs.run import Run
from moonlib.system.disk import rename, writing
from moonlib.system.remote import is_url, local_copy, refuse_occupied, upload, without_credentials
from moonlib.system.versions import versions_of

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder

OURS = (CONFIG, WEIGHTS, "README.md", RECIPE, CODES, CODEBOOKS)

CACHES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE")
"""Variables that tell where models from the hub are kept, besides HF_HOME."""


def opened(place: str | Path) -> Run | Export:
    """Open a run directory or an export.

    Raises:
        RunError: it is neither.
    """
    directory, place = local_copy(place, is_read), without_credentials(str(place))
    if (directory / CONFIG).is_file():
        return Export(directory)
    if directory.is_dir() and not (directory / RECIPE).is_file():
        raise RunError(
            f"{place} is neither a run directory, it has no {RECIPE}, nor an export, it has no {CONFIG}; give what "
            "`moonlib fit` or `moonlib export` printed"
        )
    return Run(directory)


def load(place: str | Path) -> Encoder:
    """The trained encoder of a run or of an export of one, ready to use.

    Args:
        place: a run directory, or what `moonlib export` wrote; that needs neither the run nor its data nor a network.
            Or the URL of one.

    Returns:
        The encoder in eval mode; `encoder.preprocessor` makes its input.

    Raises:
        RunError: it is neither; see also `Run.encoder` and `moonlib.exports.folder.Export.encoder`.

    Example:
        >>> from moonlib.data.content import Content
        >>> encoder = load("runs/iter2")  # doctest: +SKIP
        >>> encoder(encoder.preprocessor([Content(image=None, text="red mug")], "query")).shape  # doctest: +SKIP
        torch.Size([1, 128])
    """
    return opened(place).encoder()


def export(run: str | Path, out: str | Path, *, license: str = "unknown", to: Kind | None = None) -> str | Path:
    """Write a run's encoder to a folder of its own that `moonlib.load` opens without the run, its data or a network.

    With ``to``, write a program instead that runs without moonlib, see `moonlib.exports.program`; dual encoders only.

    Before the folder takes its name, a process of its own opens it, without a network and without what models from the
    hub this machine has kept, and must represent a few contents to the same bits as the run's encoder. The same run
    gives the same bytes. Codes that a stage ``quantise`` made of its products travel with the folder.

    Args:
        run: a run directory, finished at least up to its representations.
        out: the folder. If it holds the same already, nothing is done. Or a URL at which nothing is yet: the folder is
            written here first, and ``config.json`` goes last, so that no reader takes a half for an export.
        license: of the weights, for the model card: an identifier of the Hugging Face hub, such as ``apache-2.0``.
        to: ``"onnx"`` for a model that onnxruntime runs, ``"torch"`` for a program of `torch.export`; both take the
            pixels and token ids that the encoder does, with a flag per row for each modality.

    Returns:
        ``out``.

    Raises:
        RunError: see `Run.encoder`; or the encoder can't be opened from the folder alone; or no program can be made of
            it, or the program's vectors differ from the encoder's by more than 1e-4.
        FileExistsError: ``out`` holds something else, which is never overwritten.

    Example: ``export("runs/iter3", "shipped", license="apache-2.0")``
    """
    if is_url(out):
        url = str(out)
        refuse_occupied(url)
        with tempfile.TemporaryDirectory(prefix="moonlib-export-") as scratch:
            folder = Path(scratch) / url.rstrip("/").rpartition("/")[2]
            export(run, folder, license=license, to=to)
            upload(folder, url, last=(SUMS, CONFIG))
        return url
    source, out = Run(run), Path(out)
    target = out.resolve()
    if to is None:
        _refuse_others(out, source)
    else:
        require(to)
        if _occupied(out):
            raise FileExistsError(f"{out} is there already; choose another place")
    encoder = source.encoder()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch, writing(out):
        folder = Path(scratch) / target.name
        folder.mkdir()
        if to is not None:
            _write_program(source, encoder, to, folder, license, Path(scratch) / "parts")
            rename(folder, target)
            return out
        _write(source, encoder, folder, license)
        expected = represented(encoder)
        del encoder  # the other process holds one too
        _try(source, folder, expected, Path(scratch))
        if _occupied(target):
            _require_same(out, folder)
        else:
            rename(folder, target)
    return out


def _occupied(out: Path) -> bool:
    return out.exists() and (not out.is_dir() or any(out.iterdir()))


def _refuse_others(out: Path, source: Run) -> None:
    """Refuse a place that holds anything but an export of the same encoder, before any work is done."""
    if not _occupied(out):
        return
    try:
        found = Export(out).fingerprint
    except (RunError, OSError) as error:
        problem = "is there already, and can't be opened as an export"
        raise FileExistsError(f"{out} {problem} ({error}); choose another place") from error
    if found != source.fingerprint:
        raise FileExistsError(f"{out} holds the export of another encoder, {found}; choose another place")


def _require_same(out: Path, folder: Path) -> None:
    files = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    _, differ, lost = filecmp.cmpfiles(folder, out, files, shallow=False)
    if differ or lost:
        raise FileExistsError(
            f"{out} holds an export of this encoder that differs in {', '.join(sorted([*differ, *lost]))}; it is left "
            "as it is: remove it, or choose another place"
        )


def _write(source: Run, encoder: Encoder, folder: Path, license: str) -> None:
    preprocessing = source.layout.preprocessing
    for path in sorted(preprocessing.iterdir()):
        if path.name in (IDENTITY, INITIAL_WEIGHTS, SUMS) or path.name.startswith("."):
            continue
        if path.name in OURS:
            raise RunError(f"{path}: an export has a {path.name} of its own; the encoder must name this file otherwise")
        if path.is_dir():
            shutil.copytree(path, folder / path.name)
        else:
            shutil.copyfile(path, folder / path.name)
    if (weights := source.weights) is not None:
        shutil.copyfile(weights, folder / WEIGHTS)
    else:
        save_weights(encoder, folder / WEIGHTS)
    if (coded := source.coded) is not None:
        for name in (CODES, CODEBOOKS):
            shutil.copyfile(coded / name, folder / name)
    config = _detached(source.config["encoder"], encoder, folder / "encoder", folder)
    for key, value in _strings(config):
        if Path(value).is_absolute() and Path(value).exists():
            raise RunError(
                f"{source.directory}: the encoder's {key} is {value}, a place of this machine that an export cannot "
                "bring along; its class needs a method save_architecture, see moonlib.encoders.Exportable"
            )
    sides: tuple[Side, Side] = ("product", "query")
    described = {
        "moonlib_export": 1 if source.views == "main" else FORMAT,
        "moonlib_version": moonlib.__version__,
        "fingerprint": source.fingerprint,
        "encoder": spelled(config),
        "dim": encoder.dim,
        "reads": {side: str(source.modalities(side)) for side in sides},
        "batch_size": source.batch_size,
        **({} if source.views == "main" else {"views": source.views}),
        "versions": _versions(encoder),
    }
    if source.text_ids:
        described["text_ids"] = source.text_ids
    write_json(folder / CONFIG, described)
    recipe = yaml.safe_dump(source.config, sort_keys=False, allow_unicode=True, width=120)
    write_text(folder / RECIPE, recipe)
    write_text(folder / "README.md", model_card(source, encoder, described, recipe, license))
    seal(folder, [path for path in folder.rglob("*") if path != folder / "README.md"])  # which is for people to edit


def _write_program(source: Run, encoder: Encoder, to: Kind, folder: Path, license: str, parts: Path) -> None:
    program = write_program(encoder, to, folder, str(source.directory))
    sides: tuple[Side, Side] = ("product", "query")
    described = {
        PROGRAM: PROGRAM_FORMAT,
        "moonlib_version": moonlib.__version__,
        "fingerprint": source.fingerprint,
        "encoder": spelled(_detached(source.config["encoder"], encoder, parts / "encoder", parts)),
        "dim": encoder.dim,
        "reads": {side: str(source.modalities(side)) for side in sides},
        "versions": _versions(encoder),
        **program_config(program, to, encoder),
    }
    use = program_use(described, encoder)
    # Only the model card says where weights came from: nothing here is constructed again.
    write_json(folder / CONFIG, {key: value for key, value in described.items() if key != "encoder"})
    recipe = yaml.safe_dump(source.config, sort_keys=False, allow_unicode=True, width=120)
    write_text(folder / RECIPE, recipe)
    library = {"onnx": "onnx", "torch": "pytorch"}[to]
    write_text(folder / "README.md", model_card(source, encoder, described, recipe, license, use, library))
    seal(folder, [path for path in folder.rglob("*") if path != folder / "README.md"])


def _detached(config: Mapping[str, Any], module: nn.Module, place: Path, folder: Path) -> dict[str, Any]:
    """A component's configuration, with arguments that read from the folder what was read from elsewhere.

    Parts are those that the component names, see `moonlib.encoders.exportable.Exportable`.

    Args:
        config: of the component.
        module: the component.
        place: where it may write.
        folder: the export.
    """
    arguments = dict(config.get("init_args") or {})
    if isinstance(module, Exportable):
        for name, part in module.exported_parts().items():
            value = arguments.get(name)
            if isinstance(value, Mapping) and "class_path" in value:
                below = folder / name if place == folder / "encoder" else place / name
                arguments[name] = _detached(value, part, below, folder)
        changed: dict[str, Any] = replaced(module.save_architecture(place), str(folder), HERE)
        arguments |= changed
    return {"class_path": config["class_path"]} | ({"init_args": arguments} if arguments else {})


def _strings(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The strings of a JSON value, by the path of their key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, (Mapping, list)):
        for name, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _strings(item, f"{key}.{name}" if key else str(name))


def _versions(encoder: Encoder) -> dict[str, str]:
    """Versions of the distributions that the encoder's modules come from."""
    return versions_of({"torch"} | {type(module).__module__.partition(".")[0] for module in encoder.modules()})


def represented(encoder: Encoder) -> NDArray[np.float32]:
    """Represent a few contents that are the same everywhere, float32 [8, dim]."""
    ramp = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(ramp).save(file, "PNG")
    image = file.getvalue()
    contents = [
        Content(image, "red cotton mug, 350 ml"),
        Content(image, "红色棉布 mug", (0.1, 0.2, 0.7, 0.9)),
        Content(None, "a"),
        Content(image, None),
    ]
    sides: tuple[Side, Side] = ("product", "query")
    with torch.inference_mode():
        vectors = [encoder(encoder.preprocessor(contents, side)).float().numpy() for side in sides]
    return np.concatenate(vectors)


def _try(source: Run, folder: Path, expected: NDArray[np.float32], scratch: Path) -> None:
    """Open the folder in a process that has no network and none of the models that this machine has kept."""
    nothing = str(scratch / "nothing")
    environment = {key: value for key, value in os.environ.items() if key not in CACHES}
    environment |= {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        **{"HF_HUB_OFFLINE": "1", "HF_HOME": nothing, "TORCH_HOME": nothing, "XDG_CACHE_HOME": nothing},
    }
    code = "import sys; from moonlib.exports.folder import _open_and_represent; _open_and_represent(*sys.argv[1:])"
    found = scratch / "vectors.npy"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(found), str(torch.get_num_threads())],
        cwd=scratch,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1].replace(f"{folder}: ", "")
        raise RunError(
            f"{source.directory}: the encoder cannot be opened from an export alone, without a network ({said}); what "
            "its class reads from elsewhere its method save_architecture must write, see moonlib.encoders.Exportable"
        )
    vectors = np.load(found)
    if vectors.shape != expected.shape or vectors.tobytes() != expected.tobytes():
        raise RunError(
            f"{source.directory}: opened from an export, the encoder represents otherwise than it does in the run; "
            "what it does must follow from its arguments, its preprocessing and its weights"
        )


def _open_and_represent(folder: str, file: str, threads: str) -> None:
    """Run in the process of `_try`; sums differ in their last bits between numbers of threads."""
    torch.set_num_threads(int(threads))
    np.save(file, represented(Export(folder).encoder()))
