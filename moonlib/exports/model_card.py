"""The model card of an exported encoder: what it is, how to use it, what it was measured to be worth, its limits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

import moonlib
from moonlib.artifacts.costs import read_costs
from moonlib.artifacts.layout import PREPROCESSING, stage_of
from moonlib.artifacts.reading import numbers
from moonlib.config.typing import class_path
from moonlib.metrics.undefined import is_of_validation, sentences
from moonlib.runs.results import beside, legend_of_run
from moonlib.runs.run import Run, RunError
from moonlib.sources.marketplace.source import Marketplace
from moonlib.system.terminal import visible
from moonlib.system.versions import DISTRIBUTION

if TYPE_CHECKING:
    from moonlib.encoders.encoder import Encoder

SIMULATED = class_path(Marketplace)

CITATION = """\
@misc{moon2025,
  title  = {MOON Embedding: Multimodal Representation Learning for E-commerce Search Advertising},
  year   = {2025},
  eprint = {2511.11305},
  archivePrefix = {arXiv}
}"""


def model_card(
    run: Run,
    encoder: Encoder,
    described: Mapping[str, Any],
    recipe: str,
    license: str,
    use: str | None = None,
    library: str = "moonlib",
) -> str:
    """Write the card.

    Args:
        run: where the encoder comes from; numbers are those of its results.json and costs.json, and no others.
        encoder: as it is exported.
        described: what config.json says.
        recipe: what recipe.yaml says.
        license: identifier of the weights' licence.
        use: the section that says how to use what is exported; by default that of a folder that moonlib opens.
        library: that opens it, as the hub calls it.

    Returns:
        Markdown with the front matter that the Hugging Face hub reads. What users wrote is escaped.

    Raises:
        RunError, Unreadable: results.json, legend.json or costs.json can't be read.
    """
    sections = [
        _front_matter(encoder, license, library),
        f"# {plain(run.name)}",
        _about(run, encoder, described),
        "## Use",
        use or _use(encoder, described),
        "## Results",
        *_results(run),
        "## Training",
        *_training(run, described, recipe),
        "## Data",
        _data(run),
        "## Cost",
        _cost(run),
        "## Limits",
        _limits(run, described),
        "## Licence",
        _licence(license, described, run),
        "## Citation",
        "The system whose steps this encoder was trained by is described in",
        f"```bibtex\n{CITATION}\n```",
        "This is an independent implementation; that paper's authors had no part in it, and its results are not this "
        "encoder's.",
    ]
    return visible("\n\n".join(sections)) + "\n"


def plain(text: object) -> str:
    r"""Escape text for one line of Markdown, a table's cell included: it is shown as it is.

    Example:
        >>> print(plain("a|b <i>_c_"))
        a\|b \<i\>\_c\_
    """
    # Only what means something in Markdown, so that the source can be read too; an underscore within a word does not.
    return re.sub(r"[\\`*\[\]{}<>#|~!&$^]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", " ".join(str(text).split()))


def fenced(text: str, language: str) -> str:
    """A block of code, whatever it holds."""
    longest = max((len(ticks) for ticks in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns but the first are numbers; cells are escaped already."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _front_matter(encoder: Encoder, license: str, library: str) -> str:
    reads = [name for name, width in (("image", encoder.image_dim), ("text", encoder.text_dim)) if width]
    values = {
        "license": license,
        "library_name": library,
        "pipeline_tag": "feature-extraction",
        "tags": ["moonlib", "product-representation", "e-commerce", *reads],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}---"


def _about(run: Run, encoder: Encoder, described: Mapping[str, Any]) -> str:
    count = sum(parameter.numel() for parameter in encoder.parameters())
    seen = [name for name, width in (("image", encoder.image_dim), ("text", encoder.text_dim)) if width]
    lines = [
        f"An encoder of products and of what shoppers search for: {' and '.join(seen)} → one vector of {encoder.dim} "
        f"dimensions. It is the `{type(encoder).__name__}` of a run of "
        f"[moonlib](https://pypi.org/project/{DISTRIBUTION}/) {moonlib.__version__}, "
        f"with {count:,} parameters. In the run it read `{described['reads']['product']}` of "
        f"products and `{described['reads']['query']}` of queries."
    ]
    if dims := _matryoshka(run):
        kept = ", ".join(map(str, dims))
        lines.append(
            f"It was trained with Matryoshka dimensions: the first {kept} are representations in their own right "
            f"(`vectors[:, :{dims[0]}]`, or `moonlib embed --dim {dims[0]}`)."
        )
    else:
        lines.append("It was not trained with Matryoshka dimensions: keep all of a vector.")
    return "\n\n".join(lines)


def _matryoshka(run: Run) -> list[int]:
    """Numbers of leading dimensions that the last training stage trained, the narrowest first."""
    if not run.trained_by:
        return []
    module = run.config["stages"][run.trained_by[-1]].get("module") or {}
    given = (module.get("init_args") or {}).get("matryoshka")
    return sorted(int(dim) for dim in given) if isinstance(given, Mapping) else []


def _use(encoder: Encoder, described: Mapping[str, Any]) -> str:
    if encoder.text_dim:
        rows, prepare, contents = 2, "", 'Content(image=None, text="red mug"), Content(image=None, text="红色马克杯")'
        more = "`image` takes the bytes of a JPEG, PNG or WebP file." if encoder.image_dim else ""
    else:
        rows, prepare = (
            1,
            (
                "import io\n\nfrom PIL import Image\n\nfile = io.BytesIO()\n"
                'Image.new("RGB", (64, 64), "red").save(file, "PNG")  # in place of a photo\n'
            ),
        )
        contents, more = "Content(image=file.getvalue(), text=None)", ""
    code = f"""{prepare}import moonlib
import torch
from moonlib.data.content import Content

encoder = moonlib.load(".")  # this folder; nothing is downloaded
contents = [{contents}]
with torch.inference_mode():
    vectors = encoder(encoder.preprocessor(contents, "query"))  # float32 [{rows}, {encoder.dim}]
cosines = torch.nn.functional.normalize(vectors) @ torch.nn.functional.normalize(vectors).T"""
    versions = " ".join(f"{name}=={version}" for name, version in described["versions"].items())
    return "\n\n".join(
        [
            "Vectors are not normalised: divide by their length to compare cosines; a row of zeros says that nothing "
            f"could be represented. {more}".strip(),
            fenced(code, "python"),
            "A whole catalogue:",
            fenced("moonlib embed . --products products.parquet --images photos --out vectors", "sh"),
            f"Exported with {plain(versions)}.",
        ]
    )


def _results(run: Run) -> list[str]:
    """A table per task: a row per metric and segment, a column for the run and for each reference that has it."""
    file = run.layout.results
    if not file.exists():
        return ["The run has no results."]
    results = numbers(run.results, file)
    legend = legend_of_run(run.directory, run.config["stages"])
    tasks: dict[str, list[str]] = {}
    for text, key in legend.own(results).items():
        tasks.setdefault(key.task or key.name, []).append(text)
    if not tasks:
        return ["The run has no results.", *_undefined(run)]
    parts = [
        "On test days, beside the same measurement of baselines and, where the data is simulated, of upper bounds. "
        "`@new` is of products listed after the end of training, `@32d` of the first 32 dimensions, and so on."
    ]
    for _, keys in sorted(tasks.items(), key=lambda task: (not task[0].endswith("_search"), task[0])):
        columns = {"": "this encoder"} | {
            prefix: title
            for prefix, title in legend.baselines_first.items()
            if any(beside(key, prefix) in results for key in keys)
        }
        rows = [[plain(key), *(_number(results.get(beside(key, prefix))) for prefix in columns)] for key in keys]
        parts.append(table(["metric", *map(plain, columns.values())], rows))
        parts += [plain(f"{sentence}.") for sentence in legend.chosen(legend.key(keys[0]).task, columns)]
    return parts + _undefined(run)


def _undefined(run: Run) -> list[str]:
    """Which metrics of test days the run's data does not define."""
    found = {key: why for key, why in run.undefined.items() if not is_of_validation(key)}
    return ["\n".join(f"- {plain(sentence)}" for sentence in sentences(found))] if found else []


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _training(run: Run, described: Mapping[str, Any], recipe: str) -> list[str]:
    stages = ", ".join(plain(name) for name in run.trained_by) or "none: these are its first weights"
    parts = [f"Stages that trained it: {stages}."]
    if source := run.config["encoder"].get("from"):
        parts.append(f"It started from the encoder of {plain(source)}.")
    if origins := _origins(run.config["encoder"], described["encoder"]):
        parts.append(
            f"Parts of it started from elsewhere: {'; '.join(map(plain, origins))}. Their weights are in here."
        )
    changes = run.config.get("changes") or {}
    parts += ["\n".join(f"- {plain(name)}: {plain(text)}" for name, text in changes.items())] if changes else []
    parts.append(
        "The recipe, merged with all that it extends; `moonlib fit --config recipe.yaml` runs it where its data is:"
    )
    parts.append(fenced(recipe, "yaml"))
    return parts


def _origins(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Arguments of an encoder's parts that an export had to change, as the recipe has them."""
    old, new = before.get("init_args") or {}, after.get("init_args") or {}
    changed = {key: old[key] for key in old if not isinstance(old[key], Mapping) and old[key] != new.get(key)}
    found = [f"{before['class_path'].rpartition('.')[2]} {json.dumps(changed, ensure_ascii=False)}"] if changed else []
    for key, value in old.items():
        if isinstance(value, Mapping) and "class_path" in value:
            found += _origins(value, new[key])
    return found


def _data(run: Run) -> str:
    source = run.config["data"]
    about = f"{source['class_path']} {json.dumps(source.get('init_args') or {}, ensure_ascii=False)}"
    lines = [f"- source: {plain(about)}"]
    try:
        dataset = run.dataset()
    except RunError:
        hashes = sorted({str(identity["dataset"]) for identity in run.identities() if identity.get("dataset")})
        lines += [f"- SHA-256: `{hash}`" for hash in hashes]
        lines.append("- It is not where the run left it any more, so its size and its days are not given here.")
    else:
        counts = ", ".join(f"{count:,} {table}" for table, count in dataset.counts.items())
        ends = {key.removesuffix("_until"): moment for key, moment in dataset.splits.to_json().items()}
        lines += [
            f"- {plain(dataset.name)} {plain(dataset.version)}, SHA-256 `{dataset.hash}`",
            f"- {counts}",
            f"- parts, and when each ends: {', '.join(f'{key} {moment}' for key, moment in ends.items())}",
        ]
    return "\n".join(lines)


def _cost(run: Run) -> str:
    try:
        costs = read_costs(run.layout.costs)
    except FileNotFoundError:
        return "Not noted."
    rows = []
    for name, cost in costs.items():
        if stage_of(name) in (PREPROCESSING, *run.trained_by):
            seconds = (cost.get("first_run") or cost).get("seconds")
            if not cost.get("reused") or "first_run" in cost:
                rows.append([plain(name), "" if seconds is None else f"{seconds:.1f}"])
    if not rows:
        return "Not noted."
    return (
        f"Wall-clock time of what made the encoder, on the machine that ran it.\n\n{table(['stage', 'seconds'], rows)}"
    )


def _limits(run: Run, described: Mapping[str, Any]) -> str:
    lines = []
    if run.config["data"]["class_path"] == SIMULATED:
        lines.append(
            "It was trained and measured on a simulation: products, photos, titles and shoppers are generated. The "
            "numbers compare encoders with each other and say nothing of a real shop. Of words and pictures from "
            "outside the simulation, training showed it none."
        )
    else:
        lines.append(
            "The numbers are of the data named above and of no other. Products, words and photos unlike those there "
            "may be represented badly; measure it on your own before use: `moonlib evaluate` of the run does that."
        )
    lines.append(
        "It learnt from the products and shoppers of the training days; a bias in what they were shown is in it too. "
        "Nothing here measures one."
    )
    lines.append(
        "Vectors of different encoders do not compare: after another run or another seed, embed everything anew. The "
        f"fingerprint of this one is `{described['fingerprint']}`."
    )
    lines.append(
        "Vectors are the run's own to the last bit with the versions above, on the same kind of machine; others may "
        "round otherwise."
    )
    return "\n".join(f"- {line}" for line in lines)


def _licence(license: str, described: Mapping[str, Any], run: Run) -> str:
    if license == "unknown":
        told = "None has been stated: ask whoever gave you this folder (`moonlib export --license` states one)."
    else:
        told = f"{plain(license)}, as stated by whoever exported it."
    if _origins(run.config["encoder"], described["encoder"]):
        told += " The licences of the weights that training started from apply too."
    return told
