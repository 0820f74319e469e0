"""A stand-in for the server: the page's own routes, and answers as the real interface gives them."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

COLOURS = {"red": (190, 50, 50), "green": (60, 140, 80), "blue": (50, 80, 170), "grey": (120, 120, 125)}
THINGS = {"boots": "Shoes/Boots", "sandals": "Shoes/Sandals", "lamp": "Home/Lamps"}
LARGE = 2**53 + 1
"""An id that a double can't hold."""


def products() -> list[dict[str, Any]]:
    rows = [
        {
            "title": f"{colour} {thing}",
            "category": THINGS[thing],
            "price": 10.0 + 5 * i,
            "in_stock": i % 3 != 2,
            "merchant_id": i,
        }
        for i, (colour, thing) in enumerate((colour, thing) for thing in THINGS for colour in COLOURS)
    ]
    return [{"item_id": LARGE + i, **row} for i, row in enumerate(rows)]


class StandIn:
    """The interface of the page over a dozen products, which remembers what it was asked.

    ``fails`` makes it answer the next searches with a status and an error; those for the words ``holds`` wait until
    that is empty, and ``held`` counts those that have waited.
    """

    def __init__(self) -> None:
        self.products = products()
        self.asked: list[dict[str, Any]] = []
        self.reset()

    def reset(self) -> None:
        self.asked.clear()
        self.fails: tuple[int, dict[str, Any]] | None = None
        self.holds = ""
        self.held = 0
        self.empty = False
        self.about: dict[str, Any] = {
            "alias": "v1",
            "aliases": [{"name": "v2", "snapshot": "new@000002"}, {"name": "v1", "snapshot": "old@000007"}],
            "snapshot": "old@000007",
            "products": len(self.products),
            "reads": ["image", "text"],
            "columns": {
                "title": "text",
                "category": "text",
                "price": "float",
                "in_stock": "boolean",
                "merchant_id": "integer",
            },
            "limits": {"k": 200, "max_bytes": 100_000, "max_pixels": 4_000_000},
            "version": "0",
        }

    def app(self) -> Any:
        from fastapi import FastAPI, Response
        from fastapi.responses import JSONResponse
        from PIL import Image

        from moonlib.serving.page.routes import page_routes

        app = FastAPI()
        app.include_router(page_routes())

        @app.get("/v1/about")
        async def about() -> Any:
            return self.about

        async def search(request: Any) -> Any:
            form = await request.form()
            asked = {name: value for name, value in form.items() if isinstance(value, str)}
            if "image" in form:
                asked["image"] = await form["image"].read()
            self.asked.append(asked)
            if self.holds and asked.get("text") == self.holds:
                while self.holds:
                    await asyncio.sleep(0.02)
                self.held += 1
            if self.fails:
                status, error = self.fails
                return JSONResponse({"error": error, "request_id": "9f3c"}, status, headers={"retry-after": "2"})
            rows = (
                []
                if self.empty
                else [row for row in self.products if self.passes(row, json.loads(asked.get("where", "{}")))]
            )
            words = asked.get("text", "").split()
            words += [row["title"] for row in self.products if str(row["item_id"]) == asked.get("like")]
            words = [word for each in words for word in each.split()]
            rows = [row for row in rows if str(row["item_id"]) != asked.get("like")]
            order = sorted(rows, key=lambda row: -sum(word in row["title"] for word in words))
            if asked.get("alias") == "v2":  # the first two change places, and the sixth is not found
                order = [order[1], order[0], *order[2:5], *order[6:]]
            hits = [
                {
                    "rank": rank,
                    "item_id": row["item_id"],
                    "score": round(0.95 - 0.05 * rank, 3),
                    "row": {name: value for name, value in row.items() if name != "item_id"},
                    "picture": None if "lamp" in row["title"] else f"/v1/products/{row['item_id']}/picture",
                }
                for rank, row in enumerate(order[: int(asked["k"])], start=1)
            ]
            snapshot = "new@000002" if asked.get("alias") == "v2" else "old@000007"
            return JSONResponse({"snapshot": snapshot, "alias": asked.get("alias", "v1"), "hits": hits})

        async def picture(request: Any) -> Any:
            row = self.products[int(request.path_params["item"]) - LARGE]
            content = io.BytesIO()
            Image.new("RGB", (64, 64), COLOURS[row["title"].split()[0]]).save(content, "jpeg")
            return Response(content.getvalue(), media_type="image/jpeg")

        app.add_route("/v1/search", search, methods=["POST"])
        app.add_route("/v1/products/{item}/picture", picture)
        return app

    @staticmethod
    def passes(row: dict[str, Any], where: dict[str, Any]) -> bool:
        for name, wanted in where.items():
            value = row[name]
            if isinstance(wanted, dict):
                good = wanted.get("gte", value) <= value <= wanted.get("lte", value)
            elif isinstance(wanted, list):
                good = value in wanted
            else:
                good = value == wanted or (name == "category" and value.startswith(f"{wanted}/"))
            if not good:
                return False
        return True


@pytest.fixture(scope="package")
def stand_in() -> Iterator[tuple[StandIn, str]]:
    uvicorn = pytest.importorskip("uvicorn", reason="pip install 'moonlib-embedding[serve]'")
    stand_in = StandIn()
    server = uvicorn.Server(uvicorn.Config(stand_in.app(), host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield stand_in, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def until(tab: Any, condition: Callable[[], bool]) -> None:
    """Wait for a condition: `wait_for_function` evaluates a text in the page, which the page's policy forbids."""
    for _ in range(1500):
        if condition():
            return
        tab.wait_for_timeout(20)
    raise AssertionError("what was waited for did not come")
