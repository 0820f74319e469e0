"""The site builds strictly without a network, reads without one, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from moonlib.docs import reference

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "moonlib/docs"

Once = Callable[[str, Callable[[Path], Path]], Path]

NO_NETWORK = """
import socket
def refuse(*_):
    raise RuntimeError("the build reached for the network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
"""


class Links(HTMLParser):
    """The anchors of a page, what it links to, and what it loads."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value for name, value in attrs if value}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "link", "iframe", "source"):
            self.loaded += [given[name] for name in ("src", "href") if name in given]


@pytest.fixture(scope="session")
def site(data_cache: Path, once: Once) -> Path:
    return once("site", lambda folder: build(folder, data_cache))


def build(folder: Path, data_cache: Path) -> Path:
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    built = folder / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", DOCS / "mkdocs.yml", "-d", built]
    env = {**os.environ, "MOONLIB_DOCS_DATA": str(data_cache), "PYTHONPATH": str(folder)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Links]:
    return {page: Links(page) for page in site.rglob("*.html")}


def test_every_page_is_built_and_nothing_of_the_markup_is_left(site: Path, pages: dict[Path, Links]) -> None:
    assert {page.name for page in pages} >= {path.with_suffix(".html").name for path in (DOCS / "pages").glob("*.md")}
    for page in pages:
        assert "<!-- generated" not in page.read_text(encoding="utf-8"), page


def test_no_page_loads_anything_from_elsewhere(pages: dict[Path, Links]) -> None:
    for page, links in pages.items():
        foreign = [target for target in links.loaded if urlsplit(target).netloc]
        assert not foreign, f"{page.name}: {foreign}"


def test_every_internal_link_leads_to_a_file_and_an_anchor(site: Path, pages: dict[Path, Links]) -> None:
    for page, links in pages.items():
        if page.name == "404.html":  # its links start from the server's root
            continue
        for target in links.links + links.loaded:
            url = urlsplit(target)
            if url.scheme or url.netloc:
                continue
            path = (page.parent / unquote(url.path)).resolve() if url.path else page
            path = path / "index.html" if path.is_dir() else path
            assert path.is_file(), f"{page.name}: {target}"
            if url.fragment and path.suffix == ".html":
                assert unquote(url.fragment) in pages[path].anchors | {"__top"}, f"{page.name}: {target}"


def test_the_figure_shows_products_and_queries(site: Path) -> None:
    with Image.open(site / reference.FIGURE) as figure:
        assert figure.width > 500 < figure.height
        assert len(figure.convert("RGB").getcolors(2**24) or []) > 1000


def test_the_site_lies_in_an_ignored_folder() -> None:
    text = (DOCS / "mkdocs.yml").read_text(encoding="utf-8")
    folder = re.search(r"^site_dir: (.*)$", text, re.MULTILINE)
    assert folder and (DOCS / folder[1]).resolve() == ROOT / "build/docs"
    assert "build/" in (ROOT / ".gitignore").read_text(encoding="utf-8").split()


def test_an_unknown_part_stops_the_build() -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    with pytest.raises(ValueError, match=r"page\.md: no generated part 'componets'; known: .*components"):
        reference.on_page_markdown("<!-- generated: componets -->", page=page, config=None, files=None)  # type: ignore[arg-type]


def test_the_makefile_builds_this_site_strictly() -> None:
    plan = subprocess.run(["make", "--dry-run", "docs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "mkdocs build --strict" in plan and "moonlib/docs/mkdocs.yml" in plan


def test_every_part_is_asked_for_by_a_page() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "pages").glob("*.md"))
    assert set(re.findall(r"<!-- generated: (.*) -->", pages)) == set(reference.PARTS)
