"""The HTTP interface of a service."""

# No `from __future__ import annotations`: FastAPI reads annotations that name limits of this very service.
import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException

import moonlib
from moonlib.serving.answers import (
    About,
    AliasAnswer,
    DeleteRequest,
    ErrorAnswer,
    Health,
    Limits,
    LookupRequest,
    ProductsRequest,
    SearchAnswer,
    Written,
)
from moonlib.serving.errors import Refused
from moonlib.serving.gate import Gate, error_body
from moonlib.serving.page.routes import page_routes
from moonlib.serving.search_form import SearchForm
from moonlib.serving.service import Service, item_id

if TYPE_CHECKING:
    from moonlib.inference.upserting import Upserted
    from moonlib.serving.scoring import Scorer

_REASONS = {
    400: "not a request of this kind",
    401: "the token is missing or wrong",
    403: "this server takes no products, as it was started without a token",
    404: "there is no such thing",
    408: "the request came too slowly",
    413: "the request is too large",
    415: "the body is no form",
    422: "a field is wrong; `error.field` names it",
    429: "too many queries are in progress; try again",
    503: "not now; try again",
    504: "it took too long",
}

_OVERHEAD = 64_000
"""Bytes of a search's request besides its picture."""


def create_app(service: Service, token: str | None = None, scorer: "Scorer | None" = None) -> FastAPI:
    """Make the application that serves a service.

    Args:
        service: what answers.
        token: that requests which write must bear; without one, all are refused.
        scorer: a click model for ``POST /v1/score``; None for no such endpoint.

    Returns:
        An ASGI application; its OpenAPI document is at ``/openapi.json``.
    """
    settings = service.settings

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(work) for work in (service.keep_fresh(), service.send_canaries())]
        yield
        service.draining = True
        for task in tasks:
            task.cancel()
        service.close()

    app = FastAPI(
        title="moonlib",
        description="Searches products by picture and words, and looks up their representations.",
        version=moonlib.__version__,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    largest = {"": settings.max_bytes, "POST /v1/search": settings.max_bytes + _OVERHEAD}
    largest["POST /v1/products"] = settings.max_products_bytes
    app.add_middleware(Gate, metrics=service.metrics, max_bytes=largest, receive_seconds=settings.receive_seconds)
    _add_error_handlers(app)

    bearer = HTTPBearer(auto_error=False, description="the token of --token-file or MOONLIB_TOKEN")

    async def writing(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if token is None:
            raise Refused(
                403, "read_only", "this server takes no products: start it with --token-file or MOONLIB_TOKEN"
            )
        shown = "" if given is None else given.credentials
        if not secrets.compare_digest(shown.encode(errors="replace"), token.encode()):
            raise Refused(401, "unauthorized", "give the token: authorization: Bearer TOKEN")

    form = SearchForm(settings)

    @app.post(
        "/v1/search",
        response_model=SearchAnswer,
        response_description="products, the nearest first",
        responses=_errors(400, 408, 413, 415, 422, 429, 503, 504),
        openapi_extra={"requestBody": form.openapi()},
    )
    async def search(request: Request) -> Response:
        """Find the products nearest to a picture, a text or both, or to another product."""
        wanted = await form.read(request)
        served = service.served(wanted.alias)
        _begin(request, served.view.name)
        if settings.log_queries:
            has_image = wanted.image is not None
            request.state.logged = {"text": wanted.text, "where": wanted.written_where, "has_image": has_image}
        hits = await service.search(served, wanted.k, wanted.image, wanted.text, wanted.crop, wanted.where, wanted.like)
        ids: list[Any] = [*hits.ids]
        found = enumerate(zip(ids, hits.scores, hits.rows, hits.pictured, strict=True), 1)
        named = served.alias if wanted.alias else None
        answer = {
            "snapshot": served.view.name,
            "alias": served.alias,
            "took_ms": round((time.perf_counter() - request.state.started) * 1000, 2),
            "hits": [
                {
                    "rank": rank,
                    "score": score,
                    "item_id": item,
                    "row": row,
                    "picture": _picture(item, named) if pictured else None,
                }
                for rank, (item, score, row, pictured) in found
            ],
        }
        return Response(to_json(answer), media_type="application/json")

    @app.post(
        "/v1/lookup",
        response_class=Response,
        responses={
            200: {
                "description": "item_id and vector (null where there is no such product), one row per id in order",
                "content": {"application/vnd.apache.arrow.stream": {"schema": {"type": "string", "format": "binary"}}},
            },
            **_errors(400, 408, 413, 422, 503),
        },
    )
    async def lookup(request: Request, wanted: LookupRequest) -> Response:
        """Look up products' vectors, as an Arrow IPC stream."""
        served = service.served(wanted.alias)
        _begin(request, served.view.name)
        return Response(await service.lookup(served, wanted.ids), media_type="application/vnd.apache.arrow.stream")

    schemas = {
        "application/json": {"schema": ProductsRequest.model_json_schema()},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["products"],
                "properties": {
                    "products": {"type": "string", "description": "the rows, as JSON; `image` names a file"},
                    "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
                },
            }
        },
    }

    @app.post(
        "/v1/products",
        status_code=202,
        response_model=Written,
        response_description="the products are on disk",
        responses=_errors(400, 401, 403, 408, 413, 422, 503),
        dependencies=[Depends(writing)],
        openapi_extra={"requestBody": {"required": True, "content": schemas}},
    )
    async def add_products(request: Request) -> Written:
        """Add products, or replace them by their id; answered once they are on disk."""
        _begin(request, service.served().view.name)
        return await _written(request, service, service.write(await _rows(request)))

    @app.delete(
        "/v1/products",
        status_code=202,
        response_model=Written,
        response_description="the deletion is on disk",
        responses=_errors(400, 401, 403, 408, 413, 422, 503),
        dependencies=[Depends(writing)],
    )
    async def delete_products(request: Request, gone: DeleteRequest) -> Written:
        """Delete products; answered once that is on disk."""
        _begin(request, service.served().view.name)
        if len(gone.ids) > settings.max_ids:
            raise Refused(422, "too_many", f"ids: at most {settings.max_ids:,} at once", "ids")
        return await _written(request, service, service.delete(gone.ids))

    @app.get(
        "/v1/products/{item:path}/picture",  # an id of text may hold slashes
        response_class=Response,
        responses={
            200: {
                "description": "a small JPEG",
                "content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}},
            },
            **_errors(404, 422, 503),
        },
    )
    async def picture(
        request: Request, item: Annotated[str, Path(max_length=512)], alias: str | None = None
    ) -> Response:
        """Send a product's small picture."""
        served = service.served(alias)
        _begin(request, served.view.name)
        found = await asyncio.to_thread(served.view.picture, item_id(served, item, "item"))
        if found is None:
            raise Refused(404, "no_picture", "there is no picture of such a product", "item")
        return Response(found, media_type="image/jpeg", headers={"cache-control": "max-age=60"})

    @app.get("/v1/about", response_model=About, response_description="what is served", responses=_errors(503))
    async def about(request: Request) -> About:
        """Tell what is served, and the limits of a query."""
        served = service.served()
        _begin(request, served.view.name)
        space = served.view.space
        return About(
            snapshot=served.view.name,
            name="moonlib",
            version=moonlib.__version__,
            alias=service.default,
            aliases=[
                AliasAnswer(
                    name=each.alias, snapshot=each.view.name, sequence=each.view.sequence, products=len(each.view)
                )
                for each in service.aliases.values()
            ],
            products=len(served.view),
            sequence=served.view.sequence,
            encoder=space.fingerprint,
            dim=space.dim,
            dtype=space.dtype,
            reads=served.reads,
            columns={name: space.columns[name] for name in served.view.filled},
            limits=Limits(
                k=settings.k,
                max_bytes=settings.max_bytes,
                max_pixels=settings.max_pixels,
                max_text=settings.max_text,
                max_ids=settings.max_ids,
            ),
        )

    @app.get("/live", response_model=Health, response_description="the process is alive", responses=_errors(503))
    async def live() -> Health:
        """Tell that the process is alive."""
        return Health(status="alive")

    @app.get("/ready", response_model=Health, response_description="queries are answered", responses=_errors(503))
    async def ready(request: Request) -> Health:
        """Tell whether queries are answered; not any more once the server is about to end."""
        if service.draining:
            raise Refused(503, "draining", "the server is about to end")
        _begin(request, name := service.served().view.name)
        return Health(status="ready", snapshot=name)

    @app.get(
        "/metrics",
        response_class=Response,
        responses={200: {"description": "for Prometheus", "content": {"text/plain": {}}}, **_errors(503)},
    )
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    if scorer is not None:
        from moonlib.serving.score_router import score_router  # with torch

        app.include_router(score_router(service, scorer))
    app.include_router(page_routes())
    return app


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer, "description": _REASONS[status]} for status in statuses}


def _begin(request: Request, snapshot: str) -> None:
    """Note what a request is answered from, for its answer's header."""
    request.scope["state"]["snapshot"] = snapshot


def _add_error_handlers(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        headers = {"retry-after": "1"} if error.status in (429, 503) else {}
        if error.status == 401:
            headers["www-authenticate"] = "Bearer"
        if error.status in (408, 413):  # the rest of the request is not read
            headers["connection"] = "close"
        body = error_body(error, request.scope["state"])
        return Response(body, error.status, headers=headers, media_type="application/json")

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return await refused(request, _invalid(error.errors()[0]))

    async def of_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        cause = error.__cause__
        if isinstance(cause, Refused):  # raised while FastAPI read the body
            return await refused(request, cause)
        answer = await refused(request, Refused(error.status_code, "http", str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, of_http)


def _invalid(error: dict[str, Any]) -> Refused:
    """The refusal of what pydantic found wrong."""
    if error["type"] == "json_invalid":
        problem = f"the body is no JSON: {error['ctx']['error']}, at character {error['loc'][-1]}"
        return Refused(422, "invalid", problem)
    place = [str(part) for part in error["loc"][1:]]
    field, problem = ".".join(part for part in place if part not in _ID_KINDS), str(error["msg"])
    if not field:
        return Refused(422, "invalid", "expected a JSON object, with content-type: application/json")
    if len(set(place) & _ID_KINDS):
        problem = "expected an id: an integer of 64 bits, or a text of 1 to 512 characters"
    return Refused(422, "invalid", f"{field}: {problem}", field)


_ID_KINDS = {"constrained-int", "constrained-str"}
"""Names that pydantic gives to the two kinds of `moonlib.serving.answers.ItemId`."""


def _picture(item: int | str, alias: str | None) -> str:
    path = f"/v1/products/{quote(str(item), safe='')}/picture"
    return path if alias is None else f"{path}?alias={quote(alias, safe='')}"


_ROWS = TypeAdapter(list[dict[str, Any]])


async def _rows(request: Request) -> list[dict[str, Any]]:
    """The rows of a request to add products, pictures in place of their files' names.

    Raises:
        Refused: they are no rows, or name a picture that was not sent.
    """
    pictures: dict[str, bytes] = {}
    try:
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            async with request.form(max_files=10_000, max_fields=1, max_part_size=32_000_000) as form:
                if unknown := [name for name in form if name not in ("images", "products")]:
                    raise Refused(
                        422, "unknown_field", f"{unknown[0]}: expected the fields products and images", unknown[0]
                    )
                if "products" not in form:
                    raise Refused(422, "bad_rows", "products: the form has no such field", "products")
                given = form.get("products")
                words: str | bytes | None = given if isinstance(given, str | None) else await given.read()
                for file in form.getlist("images"):
                    if isinstance(file, str) or not file.filename:
                        raise Refused(422, "bad_rows", "images: expected files with names", "images")
                    if file.filename in pictures:
                        raise Refused(422, "bad_rows", f"images: {file.filename!r} is sent twice", "images")
                    pictures[file.filename] = await file.read()
            rows = _ROWS.validate_json(words or "")
        else:
            rows = ProductsRequest.model_validate_json(await request.body()).products
    except ValidationError as error:
        first = error.errors()[0]
        place = list(map(str, first["loc"]))
        place = place if place[:1] == ["products"] else ["products", *place]
        problem = str(first["msg"])
        if first["type"] == "model_type":
            problem = 'expected a JSON object, {"products": [{"item_id": 17, ...}, ...]}'
        elif first["type"] == "too_short":
            problem = "there are none"
        raise Refused(422, "bad_rows", f"{'.'.join(place)}: {problem}", "products") from None
    if not rows:
        raise Refused(422, "bad_rows", "products: there are none", "products")
    unused = set(pictures)
    for number, row in enumerate(rows):
        for name in {"image", "images"} & row.keys():
            given_names = row[name] if isinstance(row[name], list) else [row[name]]
            found = []
            for each in given_names:
                if each is not None and (not isinstance(each, str) or each not in pictures):
                    field = f"products.{number}.{name}"
                    raise Refused(422, "no_picture", f"{field}: send a file of this name among `images`", field)
                found.append(None if each is None else pictures[each])
                unused.discard(each)
            row[name] = found if isinstance(row[name], list) else found[0]
    if unused:
        raise Refused(422, "bad_rows", f"images: no row names {min(unused)!r}", "images")
    return rows


async def _written(request: Request, service: Service, writing: "Awaitable[Upserted]") -> Written:
    done = await writing
    _begin(request, name := service.served().view.name)  # the alias may have moved meanwhile
    return Written(
        snapshot=name,
        sequence=done.sequence,
        encoded=done.encoded,
        unchanged=done.unchanged,
        changed_columns_only=done.changed_columns_only,
        deleted=done.deleted,
        quarantined={str(item): why for item, why in done.quarantined.items()},
    )
