"""The generated parts of the documentation, and the hooks through which mkdocs asks for them.

A page asks for a part with a line of its own::

    <!-- generated: components -->

Tables come from signatures, schemas, the registry and the command line's parser; the figure from the marketplace. A
name that no part has stops the build.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import re
import tempfile
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import moonlib.compat  # noqa: F401
import pyarrow as pa
import yaml
from lightning import Trainer

from moonlib.cli import app
from moonlib.config.merge import shipped
from moonlib.config.recipe import Header
from moonlib.data.contact_sheet import contact_sheet
from moonlib.data.dataset import Dataset
from moonlib.data.ids import FAMILIES, LISTS
from moonlib.data.image_lists import IMAGES
from moonlib.data.tables import SCHEMAS, known_columns
from moonlib.registry import registry
from moonlib.registry.signature import parameters
from moonlib.sources.marketplace import feed, market
from moonlib.sources.marketplace.latents import BLOCKS
from moonlib.sources.marketplace.market import TOLD
from moonlib.sources.marketplace.source import Marketplace
from moonlib.sources.marketplace.world import SIZES, VERSION

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

FIGURE = "figures/marketplace.png"

_SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples|Source):", re.MULTILINE)
_REQUIRED = "**required**"

COLUMNS = {
    "item_id": "the SKU",
    "spu_id": "the product that SKUs are variants of; one SPU's SKUs are never negatives of each other",
    "category": "path from the department to the leaf, `Home/Kitchen/Mug`",
    "listed_at": "when it went on sale; from then on a search can find it",
    "title": "as the merchant wrote it",
    "attributes": 'text by name; as JSON in CSV, `{"colour": "red"}`',
    "price": "any currency, one for the whole table",
    "merchant_id": "who sells it",
    "region": "where it is sold, or where the search came from",
    "image": "name of a picture, relative to `--images`, or the picture itself; see [Pictures](#pictures)",
    "images": "all pictures, the main one first; see [Several pictures](#several-pictures-of-one-product)",
    "box": "the main subject, `[x0, y0, x1, y1]` in fractions of width and height",
    "query_id": "the query; the same photo or text may lead to several searches",
    "text": "what was typed; a query has a text, an image, or both",
    "user_id": "the shopper",
    "search_id": "one result page",
    "action": "`click`, `cart` or `order`; one row each",
    "ts": "when",
    "position": "place on the page, 0 is the top",
    "clicked": "whether it was clicked",
    "item_ids": "what the user had done as of then, newest last; items need not be in `products`",
    "propensity": "chance of having been shown there, where that is known",
    "bid": "what the merchant offered for a click",
    "relevance": "a judge's grade of item for query, from 0 up; most rows may lack one",
}
"""Content of each column of the tables."""


def top_level_keys() -> str:
    """The keys of a recipe outside its components."""
    texts = argument_texts(Header)
    parts = {
        "extends": ("file or shipped recipe", "", "the recipe that this one changes"),
        "changes": ("mapping of text to text", "`{}`", texts["changes"]),
        "seed": ("`int`", "`0`", texts["seed"]),
        "data": ("one of [sources](components.md#sources)", _REQUIRED, "where the five tables come from"),
        "encoder": (
            "one of [encoders](components.md#encoders), or `{from: RUN}`",
            "`null`",
            "trained by the stages; declared once, or [that of a run or an export](every-week.md#warm-start)",
        ),
        "trainer": ("mapping", "`{}`", "the [trainer](#trainer) of all stages; a stage's own keys go over it"),
        "loggers": ("list", "`[csv, tensorboard]`", "what trainings are logged to, see [Loggers](#loggers)"),
        "stages": ("mapping of names to stages", _REQUIRED, "what runs, in order"),
        "scale": ("see [scaling studies](scaling.md)", "`null`", "the points of a study; a run takes no notice of it"),
    }
    return table(("key", "type", "default", "what it says"), [(f"`{key}`", *row) for key, row in parts.items()])


def stages() -> str:
    """Every stage: what it does, the arguments of its module, the keys of its data section."""
    parts = []
    for component in registry.components("stages"):
        cls = registry.get(component.kind, component.name)
        parts += [f"### `{component.name}`", description(cls)]
        parts += ["`module.init_args`:", arguments_table(cls), "`data`:", arguments_table(cls.data_type)]  # type: ignore[attr-defined]
    return "\n\n".join(parts)


def trainer_keys() -> str:
    """The names and defaults of Lightning's Trainer arguments."""
    return ", ".join(f"`{name}`" for name in inspect.signature(Trainer).parameters)


def recipes() -> str:
    """The recipes in the wheel."""
    rows = []
    for name, path in shipped().items():
        about = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").split(".yaml", 1)[-1].strip()
        rows.append((f"`{name}`", about))
    return table(("name", "what it is"), rows)


def components() -> str:
    """One table per kind: name, summary, arguments, distribution."""
    parts = []
    for kind, path in registry.KINDS.items():
        parts += [f"## {kind}", f"Base class `{registry.base_class(kind)}`. {_about_kind(path)}".strip()]
        rows = [_component_row(component) for component in registry.components(kind)]
        heading = ("name", "what it is", "arguments", "distribution")
        parts.append(table(heading, rows) if rows else "None is installed.")
    return "\n\n".join(parts)


def commands() -> str:
    """The help of every verb, as the command line prints it."""
    return "\n\n".join(f"## {parser.prog}\n\n```text\n{_help(parser)}\n```" for parser in _leaves(app.parser()))


def tables() -> str:
    """The columns of the tables."""
    parts = []
    for name, schema in SCHEMAS.items():
        rows = [
            (f"`{field.name}`", f"`{_type(field)}`", "" if field.nullable else "yes", COLUMNS[field.name])
            for field in schema
        ]
        if IMAGES in known_columns(name):
            rows.append((f"`{IMAGES}`", "`list<string>`", "", COLUMNS[IMAGES]))
        parts += [f"### {name}", table(("column", "type", "required", "what it holds"), rows)]
    return "\n\n".join(parts)


def _type(field: pa.Field) -> str:
    """Type of a column in a table of the user's."""
    if field.name in FAMILIES:
        return "list of int64 or text" if field.name in LISTS else "int64 or text"
    return str(field.type)


def sizes() -> str:
    """How large the marketplaces are."""
    rows = [
        (
            f"`{name}`",
            *(f"{number:,}" for number in (s.spus, s.categories, s.users, s.searches_per_day)),
            f"{s.picture} px",
        )
        for name, s in SIZES.items()
    ]
    return table(("size", "products (SPUs)", "categories", "shoppers", "searches a day", "pictures"), rows)


def latents() -> str:
    """The blocks of a product's latent vector, and who can know them."""
    seen, told = {"proportions", "marks", "ornament"}, {"brand", "composition", "function"}
    rows = [
        (
            block,
            f"{share:.2f}",
            "seen only" if block in seen else "told only" if block in told else "seen and told",
            "" if block in seen else "nearly always" if block == "category" else f"{TOLD[block]:.0%}",
        )
        for block, share in BLOCKS.items()
    ]
    return table(("block", "share of the cosine", "where it shows", "named by a query's text"), rows)


def click_model() -> str:
    """The lines of the simulation that compute the probability of a click, of a search and of the feed."""
    match = _lines(market.Market.appeal, "match =", "liking =")
    hidden = _lines(market.Market.__init__, "self.hidden =")
    liked = _lines(market.Market.wish, "brand =", "return ").replace("return ", "wish = ")
    price = _lines(market.Market.price, "return ").replace("return ", "price = ")
    asked = _lines(market.Market.appeal, "wish =").partition(" + self.wish")[0].replace("wish =", "wish +=")
    browsed = _lines(feed._appeal, "wish =").partition(" + market.wish")[0].replace("wish =", "wish +=")
    bias = _lines(market, "BIAS =").replace("BIAS", "bias")
    p_click = _lines(market.Appeal.p_click, "return ").replace("return ", "p_click = ")
    clicked = _lines(market.react, "clicked =")
    lines = [match, hidden, price, liked, f"{asked}  # searches", f"{browsed}  # the feed", bias, p_click, clicked]
    return "```text\n" + "\n".join(lines).replace("self.", "").replace("price(user, item)", "price") + "\n```"


def _lines(of: Any, first: str, last: str | None = None) -> str:
    """The lines of a function's or a module's source from one that starts so to one that starts so, or that alone."""
    lines = inspect.getsource(of).splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith(first))
    stop = next(i for i, line in enumerate(lines[start:], start) if line.strip().startswith(last or first))
    return dedent("\n".join(lines[start : stop + 1]))


def marketplace_version() -> str:
    """The version of the simulation."""
    return f"This page describes version **{VERSION}** of the simulation."


PARTS: dict[str, Callable[[], str]] = {
    "top-level-keys": top_level_keys,
    "stages": stages,
    "trainer-keys": trainer_keys,
    "recipes": recipes,
    "components": components,
    "commands": commands,
    "tables": tables,
    "sizes": sizes,
    "latents": latents,
    "click-model": click_model,
    "marketplace-version": marketplace_version,
}
"""Tables that a page can ask for."""


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the generated parts where a page asks for them (a hook of mkdocs)."""

    def part(found: re.Match[str]) -> str:
        name = found[1]
        if name not in PARTS:
            raise ValueError(f"{page.file.src_uri}: no generated part '{name}'; known: {', '.join(PARTS)}")
        return PARTS[name]()

    return re.sub(r"^<!-- generated: (.*) -->$", part, markdown, flags=re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Draw the figure of products and query photos (a hook of mkdocs)."""
    from mkdocs.structure.files import File

    cache = Path(config.config_file_path).parent / config.extra["data"]
    dataset = Dataset(Marketplace("tiny").prepare(cache.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        figure = contact_sheet(dataset, Path(folder) / "figure.png", rows=6, seed=1).read_bytes()
    files.append(File.generated(config, FIGURE, content=figure))
    return files


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A Markdown table; cells may not break lines.

    Example:
        >>> print(table(("a", "b"), [("1", "x | y")]))
        | a | b |
        |---|---|
        | 1 | x \| y |
    """
    lines = [heading, *rows]
    text = ["| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "|" + "---|" * len(heading), *text[1:]])


def arguments_table(cls: type) -> str:
    """The constructor's arguments: name, type, default and what the docstring says."""
    texts = argument_texts(cls)
    rows = [
        (
            f"`{name}`",
            type_text(annotation),
            _REQUIRED if default is inspect.Parameter.empty else f"`{yaml_text(default)}`",
            texts.get(name, ""),
        )
        for name, annotation, default in arguments(cls)
    ]
    return table(("key", "type", "default", "what it says"), rows) if rows else "No arguments."


def arguments(cls: type) -> list[tuple[str, Any, Any]]:
    """Name, annotation and default (or `inspect.Parameter.empty`) of a constructor's arguments.

    Example:
        >>> from moonlib.adapters.similarity import Similarity
        >>> arguments(Similarity)
        [('length', <class 'int'>, 20)]
    """
    factories = {
        field.name: field.default_factory()
        for field in (dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ())
        if field.default_factory is not dataclasses.MISSING
    }
    return [
        (parameter.name, parameter.annotation, factories.get(parameter.name, parameter.default))
        for parameter in parameters(cls).values()
    ]


def argument_texts(cls: type) -> dict[str, str]:
    """Read the description of each argument from the Args section; of arguments passed on, from the class they go to.

    Example:
        >>> argument_texts(Header)["seed"]
        'everything random in the run follows from it.'
    """
    texts: dict[str, str] = {}
    for owner in reversed([each for each in cls.__mro__ if "__init__" in vars(each) and each.__doc__]):
        section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", inspect.getdoc(owner) or "", re.MULTILINE)
        entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section[1] if section else "", re.MULTILINE)
        texts |= {name: " ".join(_markdown(text).split()) for name, text in entries}
    return texts


def description(cls: type) -> str:
    """A docstring up to its first section, as Markdown."""
    return _markdown(_SECTION.split(inspect.getdoc(cls) or "")[0].strip())


def type_text(annotation: Any) -> str:
    """A type as a recipe's author would say it.

    Example:
        >>> type_text(list[int] | None)
        'list of `int`, or `null`'
    """
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return ", or ".join(type_text(member) for member in members)
    if origin is typing.Literal:
        return ", ".join(f"`{yaml_text(member)}`" for member in members)
    if origin in (list, tuple, Sequence):
        return f"list of {type_text(members[0]).removeprefix('one of ')}"
    if origin in (dict, Mapping):
        return f"mapping of {type_text(members[0])} to {type_text(members[1])}"
    if annotation in (None, type(None)):
        return "`null`"
    if annotation is Path:
        return "path"
    kind = registry.kind_of(annotation) if inspect.isclass(annotation) else None
    if kind:
        return f"one of [{kind}](components.md#{kind})"
    return f"`{annotation.__name__}`" if inspect.isclass(annotation) else f"`{annotation}`"


def yaml_text(value: Any) -> str:
    """A value on one line, as a recipe would give it.

    Example:
        >>> [yaml_text(value) for value in (None, True, (1, 10), "mean")]
        ['null', 'true', '[1, 10]', 'mean']
    """
    if isinstance(value, tuple):
        value = list(value)
    if isinstance(value, Path):
        value = str(value)
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _markdown(text: str) -> str:
    """The markup of our docstrings as Markdown."""
    return text.replace("``", "`")


def _about_kind(path: str) -> str:
    module, _, name = path.partition(":")
    return (
        description(getattr(importlib.import_module(module), name)).split("\n\n")[0]
        if module.startswith("moonlib")
        else ""
    )


def _component_row(component: registry.Component) -> tuple[str, str, str, str]:
    try:
        cls = registry.get(component.kind, component.name)
    except registry.RegistryError as error:  # a broken plugin breaks only its own row
        return f"`{component.name}`", f"broken: {error}", "", component.distribution
    given = [
        f"`{name}`" if default is inspect.Parameter.empty else f"`{name}: {yaml_text(default)}`"
        for name, _, default in arguments(cls)
    ]
    return f"`{component.name}`", description(cls).split("\n\n")[0], ", ".join(given), component.distribution


def _leaves(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of the verbs, in the order of the help."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for verb in group.choices.values():
            yield from _leaves(verb)


def _help(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=100)  # not this terminal's width
    return parser.format_help().strip()
