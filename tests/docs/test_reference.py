"""Generated tables against what a user meets: entry points, constructors, error messages, schemas, the help."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from importlib.metadata import EntryPoint, distribution
from pathlib import Path

import pytest

from moonlib.cli import main
from moonlib.config.recipe import load
from moonlib.data.image_lists import IMAGES
from moonlib.data.tables import SCHEMAS, known_columns
from moonlib.docs import reference
from moonlib.registry import registry
from moonlib.registry.signature import parameters
from moonlib.system.versions import DISTRIBUTION

ROOT = Path(__file__).parents[2]
OWN = sorted(point for point in distribution(DISTRIBUTION).entry_points if point.group.startswith("moonlib."))


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"no heading '{heading}'"
    return found[1]


@pytest.fixture(scope="module")
def components() -> str:
    return reference.components()


@pytest.mark.parametrize("point", OWN, ids=lambda point: f"{point.group}/{point.name}")
def test_every_component_of_moonlib_has_its_row_with_all_arguments(point: EntryPoint, components: str) -> None:
    rows = section(components, point.group.removeprefix("moonlib.")).splitlines()
    (row,) = [row for row in rows if row.startswith(f"| `{point.name}` |")]
    assert f" {DISTRIBUTION} 0." in row
    cls = point.load()
    summary = (inspect.getdoc(cls) or "").split("\n")[0].split("``")[0]
    assert summary and summary.replace("|", "\\|") in row
    for name in parameters(cls):
        assert re.search(rf"`{name}(: [^`]*)?`", row), name


def test_every_kind_has_a_heading(components: str) -> None:
    assert re.findall(r"^## (.*)$", components, re.MULTILINE) == list(registry.KINDS)


def test_a_broken_component_breaks_only_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = registry.Component("losses", "broken", "no_such_module:Loss", "moonlib-broken 0.3")
    listed = registry.components

    def with_broken(*kinds: str) -> list[registry.Component]:
        return [*listed(*kinds), *([broken] if not kinds or "losses" in kinds else [])]

    monkeypatch.setattr(registry, "components", with_broken)
    rows = section(reference.components(), "losses").splitlines()
    assert any("`broken`" in row and "No module named" in row and "moonlib-broken 0.3" in row for row in rows)
    assert any("`info_nce`" in row for row in rows)


STAGES = [point for point in OWN if point.group == "moonlib.stages"]


@pytest.mark.parametrize("point", STAGES, ids=lambda point: point.name)
def test_every_key_of_a_stage_is_explained(point: EntryPoint) -> None:
    text = section(reference.stages(), f"`{point.name}`")
    module, data = text.split("\n`data`:\n")
    cls = point.load()
    for part, names in ((module, parameters(cls)), (data, [field.name for field in fields(cls.data_type)])):
        rows = {row.split(" | ")[0].removeprefix("| "): row for row in part.splitlines() if row.startswith("| `")}
        assert list(rows) == [f"`{name}`" for name in names]
        for name, row in rows.items():
            assert len(row.split(" | ")[-1].strip(" |")) > 5, f"{name} is not explained"


def test_defaults_and_types_are_those_of_the_signature() -> None:
    text = reference.stages()
    assert "| `learning_rate` | `float` | `0.003` | of Adam. |" in section(text, "`application`")
    posttraining = section(text, "`posttraining`")
    assert "| `loss` | one of [losses](components.md#losses), or `null` | **required** |" in posttraining
    assert "| `negatives` | list of [negatives](components.md#negatives) | **required** |" in posttraining
    assert "| `tasks` | mapping of `str` to `float` | **required** |" in posttraining
    assert "| `actions` | list of `click`, `cart`, `order` | `[click, cart, order]` |" in posttraining


def test_top_level_keys_are_those_that_a_recipe_takes(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="unknown key; known: ") as refused:
        load("iter1", ["--zzzzzz", "1"])
    known = str(refused.value).split("known: ")[1].split(", ")
    rows = re.findall(r"^\| `(\w+)`", reference.top_level_keys(), re.MULTILINE)
    assert sorted(rows) == sorted([*known, "extends"])


def test_every_trainer_argument_is_named() -> None:
    from lightning import Trainer

    named = re.findall(r"`(\w+)`", reference.trainer_keys())
    assert named == inspect.getfullargspec(inspect.unwrap(Trainer.__init__)).kwonlyargs


def test_every_column_is_described_and_no_other() -> None:
    text = reference.tables()
    for name, schema in SCHEMAS.items():
        rows = [row for row in section(text, name).splitlines() if row.startswith("| `")]
        more = [[column, "list<string>"] for column in known_columns(name) if column not in schema.names]
        ids = {f.name: "int64 or text" for f in schema if f.name.endswith("_id")} | {
            "item_ids": "list of int64 or text"
        }
        types = [[f.name, ids.get(f.name, str(f.type))] for f in schema]
        assert [re.findall(r"`(.*?)`", row)[:2] for row in rows] == types + more
        assert ["| yes |" in row for row in rows] == [not f.nullable for f in schema] + [False for _ in more]
    assert set(reference.COLUMNS) == {name for schema in SCHEMAS.values() for name in schema.names} | {IMAGES}


def test_every_verb_and_its_options_are_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")

    def help_of(*words: str) -> str:
        with pytest.raises(SystemExit, match=r"^0$"):
            main([*words, "--help"])
        return capsys.readouterr().out

    text = reference.commands()
    verbs = re.findall(r"^    (\w+) ", help_of().split("verbs:")[1].split("examples:")[0], re.MULTILINE)
    assert "fit" in verbs and "data" in verbs
    for verb in verbs:
        shown = help_of(verb)
        if "\nverbs:" in shown:
            for name in re.findall(r"^    (\w+) ", shown.split("\nverbs:")[1], re.MULTILINE):
                assert f"## moonlib {verb} {name}\n" in text
        else:
            part = section(text, f"moonlib {verb}")
            assert all(option in part for option in re.findall(r"(?<!\S)--[a-z-]+", shown))


def test_the_readme_quotes_only_what_the_results_say() -> None:
    results, readme = (
        (ROOT / path).read_text(encoding="utf-8") for path in ("moonlib/docs/pages/results.md", "README.md")
    )
    tables = re.findall(r"(?:^\|.*\|\n)+", readme[: readme.index("## How it flows")], re.MULTILINE)
    header, _, *of_one_run = tables[0].splitlines()
    ladder = tables[1].splitlines()[2:]
    assert len(of_one_run) == 5 and len(ladder) == 7
    columns = [cell.strip().replace("iter3", "this run") for cell in header.strip("|").split("|")][1:]
    for row in of_one_run:
        name, *figures = (cell.strip(" `") for cell in row.strip("|").split("|"))
        task, metric = name.removesuffix("@new").split("/")
        printed = results[results.index(f"iter3-small-21: {task} on test days") :]
        names = re.split(r" {2,}", printed.splitlines()[1].strip())[1:]
        printed = printed[printed.index(f"\n    {metric} ") :]
        line = (printed[printed.index("\n      @new ") :] if name.endswith("@new") else printed).splitlines()[1]
        said = dict(zip(names, line.split()[1:], strict=True))
        quoted = {column: figure for column, figure in zip(columns, figures, strict=True) if figure}
        assert len(quoted) >= 5
        for column, figure in quoted.items():
            assert said[column] == (f"0{figure}" if figure[0] == "." else figure), (name, column)
    assert all(row in results for row in ladder)


def test_the_click_model_is_the_code_s() -> None:
    shown = reference.click_model()
    for term in ("match =", "liking =", "hidden =", "bias =", "p_click =", "clicked ="):
        assert term in shown
    assert "rng.random" in shown.splitlines()[-2] and "sigmoid(-1.5 + wish + bias)" in shown.splitlines()[-3]
