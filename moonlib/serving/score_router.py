"""``POST /v1/score``: click probabilities of candidates."""

# No `from __future__ import annotations`: FastAPI reads the annotations of what is defined in a function.
import asyncio
import base64
import binascii
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import to_json

from moonlib.data.images import UnreadableImage
from moonlib.serving.answers import ErrorAnswer, ItemId
from moonlib.serving.errors import Refused
from moonlib.serving.pictures import check_picture
from moonlib.serving.score_request import BadRequest
from moonlib.serving.scoring import OtherSnapshot, Scorer
from moonlib.serving.service import Service

CANDIDATES = 10_000
"""Most of a request."""
EVENTS = 100_000
"""Most of a history."""

_ERRORS = {
    400: "not a request of this kind",
    408: "the request came too slowly",
    409: "the candidates come from another snapshot than the click model's vectors",
    413: "the request is too large",
    422: "a field is wrong; `error.field` names it",
    429: "too many requests are in progress; try again",
    503: "not now; try again",
    504: "it took too long",
}


class Candidate(BaseModel):
    """A product that could be shown; other keys are columns of products, which go over those of the run's data."""

    model_config = ConfigDict(extra="allow")

    item_id: ItemId
    impression: dict[str, Any] = Field(
        default_factory=dict, description="columns of the impression", examples=[{"position": 1}]
    )


class Event(BaseModel):
    """Something that the user did."""

    model_config = ConfigDict(extra="forbid")

    item_id: ItemId
    ts: AwareDatetime
    search_id: ItemId | None = Field(default=None, description="what one search led to of an item counts once")
    query_id: ItemId | None = None
    query: str | None = Field(default=None, description="the query's text, in place of its id")
    action: str | None = Field(default=None, description="not read by the model")


class User(BaseModel):
    """Who asks; other keys are columns of users."""

    model_config = ConfigDict(extra="allow")

    user_id: ItemId | None = None


class AskedQuery(BaseModel):
    """The present query; other keys are columns of queries."""

    model_config = ConfigDict(extra="allow")

    query_id: ItemId | None = Field(default=None, description="a query of the run's data")
    text: str | None = None
    image: str | None = Field(default=None, description="a picture, in base64")


class ScoreBody(BaseModel):
    """Who looks, what they did, what they ask for, and what could be shown."""

    model_config = ConfigDict(extra="forbid")

    candidates: list[Candidate] = Field(max_length=CANDIDATES)
    user: User | None = None
    query: AskedQuery | None = Field(default=None, description="none for a page without a query")
    history: list[Event] | None = Field(default=None, max_length=EVENTS)
    ts: AwareDatetime | None = Field(default=None, description="now by default; only events before it count")
    search_id: ItemId | None = Field(default=None, description="the present search, whose own events don't count")
    snapshot: str | None = Field(default=None, description="of the candidates; 409 if the model's is another")


class ScoreAnswer(BaseModel):
    """Click probabilities."""

    model: str = Field(description="the run of the click model")
    snapshot: str | None = Field(description="space@snapshot that the model was trained on; null without a center")
    probabilities: list[float] = Field(description="of a click of each candidate, in their order")
    missing: dict[str, int] = Field(
        description="what the model reads and was neither given nor known, and of how many rows",
        examples=[{"users.age": 1, "products.vector": 2}],
    )


def score_router(service: Service, scorer: Scorer) -> APIRouter:
    """Make the router of ``POST /v1/score``.

    Args:
        service: for its limits and metrics.
        scorer: a finished application.

    Returns:
        A router to include in an application.
    """
    router = APIRouter()
    settings = service.settings
    working = ThreadPoolExecutor(1, "score")
    in_progress = 0

    def scored(request: dict[str, Any], deadline: float) -> ScoreAnswer:
        if time.monotonic() > deadline:
            raise TimeoutError
        started = time.perf_counter()
        found = scorer.score(request)
        service.metrics.stage("score", time.perf_counter() - started)
        return ScoreAnswer(
            model=scorer.run.name,
            snapshot=found.snapshot,
            probabilities=found.probabilities.tolist(),
            missing=found.missing,
        )

    responses: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorAnswer, "description": reason} for status, reason in _ERRORS.items()
    }

    @router.post("/v1/score", response_model=ScoreAnswer, responses=responses)
    async def score(request: Request, body: ScoreBody) -> Response:
        """Predict clicks on candidates, with a finished application."""
        nonlocal in_progress
        request.scope["state"]["snapshot"] = scorer.snapshot or service.served().view.name
        if in_progress >= settings.queue:
            raise Refused(429, "queue_full", f"{in_progress} requests are in progress; try again in a moment")
        asked = body.model_dump(exclude_none=True)
        if body.query is not None:
            asked["query"] = _query(asked["query"], settings.max_text, settings.max_pixels)
        in_progress += 1
        try:
            seconds = settings.timeout_ms / 1000
            work = asyncio.get_running_loop().run_in_executor(working, scored, asked, time.monotonic() + seconds)
            async with asyncio.timeout(seconds):
                answer = await work
        except TimeoutError:
            raise Refused(504, "timeout", f"no answer within {settings.timeout_ms:g} ms") from None
        except BadRequest as error:
            raise Refused(422, "bad_request", str(error), error.field) from None
        except OtherSnapshot as error:
            raise Refused(409, "other_snapshot", str(error), "snapshot") from None
        finally:
            in_progress -= 1
        return Response(to_json(answer), media_type="application/json")

    return router


def _query(query: dict[str, Any], max_text: int, max_pixels: int) -> dict[str, Any]:
    """Decode and check the picture of a query, and check its text."""
    if len(query.get("text", "")) > max_text:
        raise Refused(422, "too_long", f"query.text: longer than {max_text:,} characters", "query.text")
    if "image" not in query:
        return query
    try:
        image = base64.b64decode(query["image"], validate=True)
        check_picture(image, max_pixels)
    except (binascii.Error, ValueError) as error:
        problem = str(error) if isinstance(error, UnreadableImage) else "is not base64"
        raise Refused(422, "unreadable_image", f"query.image: {problem}", "query.image") from None
    return {**query, "image": image}
