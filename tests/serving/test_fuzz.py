"""Requests that nobody would send: none is answered with the server's failure, and memory stays flat."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from moonlib.encoders.encoder import Encoder
from moonlib.serving.app import create_app
from moonlib.serving.scoring import Scorer
from moonlib.serving.service import Service
from moonlib.serving.settings import ServeSettings

from .conftest import TOKEN, StandInWriter, make_center_of, picture

OPERATIONS = [
    *(("POST", "/v1/search"), ("POST", "/v1/lookup"), ("POST", "/v1/products"), ("DELETE", "/v1/products")),
    *(("GET", "/v1/products/{item}/picture"), ("GET", "/v1/about"), ("GET", "/metrics"), ("GET", "/ready")),
]
FINE = {503, 504}


def quick(examples: int) -> Any:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


LIMITS = ServeSettings(
    timeout_ms=20_000,
    k=20,
    max_bytes=200_000,
    max_pixels=100_000,
    # A test client and schemathesis have an event loop each, and what is refreshed belongs to one.
    refresh_ms=1e9,
    canary_seconds=0,
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[TestClient]:
    center = make_center_of(tmp_path_factory.mktemp("fuzzed") / "center", encoder)
    service = Service(center, settings=LIMITS, open_encoder=lambda _: encoder, writer=StandInWriter(center, encoder))
    with TestClient(create_app(service, TOKEN), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def scoring(center_application: Path) -> Iterator[TestClient]:
    center = center_application.parent / "center"
    service = Service(center, settings=LIMITS)
    scorer = Scorer.open(center_application, center=center, encoders=service.encoders)
    with TestClient(create_app(service, TOKEN, scorer), raise_server_exceptions=False) as client:
        yield client


def goes_on(app: Any) -> Any:
    """The application without its end, which schemathesis would bring about after each request."""

    async def without_end(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            return await app(scope, receive, send)
        for step in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{step}.complete"})

    return without_end


def of_the_document(client: TestClient, method: str, path: str, examples: int) -> None:
    """Send what the OpenAPI document allows, and what it does not, and compare each answer with it."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", goes_on(client.app))
    checks = [not_a_server_error, response_schema_conformance, status_code_conformance]

    @quick(examples)
    @given(case=schema[path][method].as_strategy())
    def ask(case: Any) -> None:
        answer = case.call(headers={"authorization": f"Bearer {TOKEN}"}, timeout=600)
        if answer.status_code not in FINE:
            case.validate_response(answer, checks=checks)

    ask()


PICTURES = [picture(1), picture(2, "PNG"), picture(3, "GIF"), picture(4, "WEBP"), picture(5, mode="CMYK")]


@st.composite
def broken_pictures(draw: st.DrawFn) -> bytes:
    """A picture with some bytes of it changed, cut off or doubled."""
    data = bytearray(draw(st.sampled_from(PICTURES)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(data) - 1))
        data[at] = draw(st.integers(0, 255))
    start, end = sorted(draw(st.tuples(st.integers(0, len(data)), st.integers(0, len(data)))))
    return bytes(draw(st.sampled_from([data, data[:end], data[start:], data[:end] + data[start:]])))


numbers = st.integers() | st.floats() | st.text(max_size=5)
filters = st.recursive(
    st.none() | st.booleans() | numbers,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["price", "title", "in_stock", "gte", "lt", "category", ""]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def of_bytes(client: TestClient, examples: int) -> None:
    """Send forms of broken pictures, odd filters and crops, and bodies that are none."""
    import json

    @quick(examples)
    @given(
        image=st.none() | broken_pictures() | st.binary(max_size=200),
        text=st.none() | st.text(max_size=50),
        k=st.none() | st.integers(-3, 30) | st.text(max_size=3),
        where=st.none() | filters.map(json.dumps) | st.text(max_size=20),
        crop=st.none()
        | st.text(max_size=12)
        | st.lists(st.floats(-1, 2), max_size=5).map(lambda v: ",".join(map(str, v))),
        like=st.none() | st.integers(-5, 50) | st.text(max_size=5),
    )
    def search(image: bytes | None, **fields: Any) -> None:
        files = None if image is None else {"image": ("photo.jpg", image)}
        data = {
            name: str(value).encode(errors="replace").decode() for name, value in fields.items() if value is not None
        }
        answer = client.post("/v1/search", data=data, files=files)
        assert answer.status_code in {200, 400, 413, 422, 429} | FINE, (answer.text, image, data)
        assert answer.headers["x-request-id"]

    @quick(max(5, examples // 5))
    @given(
        body=st.binary(max_size=300),
        kind=st.sampled_from(["application/json", "multipart/form-data; boundary=b", "multipart/form-data", "a", ""]),
        path=st.sampled_from(["/v1/search", "/v1/lookup", "/v1/products"]),
    )
    def raw(body: bytes, kind: str, path: str) -> None:
        headers = {"content-type": kind, "authorization": f"Bearer {TOKEN}"}
        answer = client.post(path, content=body, headers=headers)
        assert answer.status_code < 500 or answer.status_code in FINE, (answer.text, body, kind)

    search()
    raw()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_what_the_document_allows_is_answered_as_it_says(fuzzed: TestClient, method: str, path: str) -> None:
    of_the_document(fuzzed, method, path, 15)


def test_what_the_document_allows_of_scoring_is_answered_as_it_says(scoring: TestClient) -> None:
    of_the_document(scoring, "POST", "/v1/score", 30)


def test_no_body_makes_the_server_fail(fuzzed: TestClient) -> None:
    of_bytes(fuzzed, 150)


@pytest.mark.slow
def test_ten_thousand_requests_and_memory_stays_flat(fuzzed: TestClient, scoring: TestClient) -> None:
    def resident() -> int:
        gc.collect()
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    of_bytes(fuzzed, 2_000)
    for method, path in OPERATIONS:
        of_the_document(fuzzed, method, path, 50)
    of_the_document(scoring, "POST", "/v1/score", 300)
    before = resident()
    of_bytes(fuzzed, 5_500)
    for method, path in OPERATIONS:
        of_the_document(fuzzed, method, path, 100)
    of_the_document(scoring, "POST", "/v1/score", 500)
    assert resident() <= 1.05 * before
