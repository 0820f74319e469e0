"""The files of the page: what they are sent with, and that they load nothing from elsewhere and run nothing inline."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="pip install 'moonlib-embedding[serve]'")

import moonlib.serving.page.routes as routes

FOLDER = Path(routes.__file__).parent
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in {".html", ".js", ".css", ".svg"})


@pytest.fixture(scope="module")
def client() -> Any:
    testclient = pytest.importorskip("fastapi.testclient")
    from fastapi import FastAPI

    app = FastAPI()
    app.include_router(routes.page_routes())
    return testclient.TestClient(app)


def test_every_file_is_served_with_its_type_and_a_strict_policy(client: Any) -> None:
    types = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in FILES:
        answer = client.get("/" if path.name == "index.html" else f"/page/{path.name}")
        assert answer.content == path.read_bytes()
        assert answer.headers["content-type"].startswith(types[path.suffix])
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "*" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_file_that_the_browser_has_is_not_sent_again(client: Any) -> None:
    tag = client.get("/").headers["etag"]
    again = client.get("/", headers={"if-none-match": tag})
    assert again.status_code == 304 and again.content == b""
    assert client.get("/", headers={"if-none-match": '"another"'}).status_code == 200


@pytest.mark.parametrize("name", ["routes.py", "__init__.py", "..%2froutes.py", "%2e%2e/batcher.py", "nothing.js"])
def test_nothing_else_of_the_folder_is_served(client: Any, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_loads_nothing_from_elsewhere_and_runs_nothing_inline(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"\w+://[^\s\"')]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(
        r"url\(|@import|innerHTML|outerHTML|insertAdjacent|\beval\b|new Function|document\.write", text
    )
    if path.suffix == ".html":
        assert re.findall(r"<script[^>]*>([^<]*)</script>", text) == ["", ""]
        assert not re.search(r"<style|\sstyle=|\son\w+=", text)


def test_the_wheel_holds_every_file() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel").WheelBuilder(str(Path(__file__).parents[3]))
    held = {each.distribution_path for each in wheel.recurse_included_files()}
    assert {f"moonlib/serving/page/{path.name}" for path in FILES} <= held
