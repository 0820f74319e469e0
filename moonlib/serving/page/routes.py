"""The page at ``/``: its files as routes, with headers that let it load nothing from elsewhere."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request, Response

HEADERS = {
    # Scripts, styles and answers from this server only, none of them inline; pictures also from the browser's memory.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",  # the address holds what was searched
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",  # asked again each time, and answered with 304: files of two versions never mix
}
"""What every file of the page is sent with."""

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}


def page_routes() -> APIRouter:
    """The routes ``/`` and ``/page/{name}``; the files are read once, when this is called."""
    folder = Path(__file__).parent
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in _TYPES}
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, content in contents.items()}
    router = APIRouter(include_in_schema=False)

    def answer(request: Request, name: str) -> Response:
        if name not in contents:
            return Response(f"The page has no file {name!r}.", status_code=404, media_type="text/plain")
        headers = {**HEADERS, "etag": tags[name]}
        if request.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(contents[name], media_type=f"{_TYPES[Path(name).suffix]}; charset=utf-8", headers=headers)

    @router.api_route("/", methods=["GET", "HEAD"])
    async def index(request: Request) -> Response:
        return answer(request, "index.html")

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def file(request: Request, name: str) -> Response:
        return answer(request, name)

    return router
