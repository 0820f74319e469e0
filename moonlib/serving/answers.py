"""Requests and answers, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

ItemId = (
    Annotated[int, Field(strict=True, ge=-(2**63), lt=2**63)]
    | Annotated[str, Field(strict=True, min_length=1, max_length=512)]
)
"""As the shop has it."""


class Error(BaseModel):
    """The reason for a refusal."""

    code: str = Field(description="a word for programs", examples=["unreadable_image"])
    message: str = Field(description="for people")
    field: str | None = Field(description="the field of the request that is wrong, if it is one", examples=["image"])


class ErrorAnswer(BaseModel):
    """The answer to a request that is refused."""

    error: Error
    snapshot: str | None = Field(
        description="space@snapshot; null where the request was refused before it was looked up"
    )
    request_id: str | None = Field(description="also in the header x-request-id, and in the server's log")


class Answer(BaseModel):
    """An answer, and what it is from."""

    snapshot: str = Field(description="space@snapshot; also in the header moonlib-snapshot")


class Hit(BaseModel):
    """A product that was found."""

    rank: int = Field(description="1 for the nearest")
    score: float = Field(description="cosine of query and product")
    item_id: ItemId
    row: dict[str, Any] = Field(description="the columns that the center keeps")
    picture: str | None = Field(description="path of the product's picture; null where it has none")


class SearchAnswer(Answer):
    """Products nearest to a query."""

    alias: str
    took_ms: float = Field(description="milliseconds from the request's head to this answer")
    hits: list[Hit]


class LookupRequest(BaseModel):
    """Products whose vectors are wanted."""

    model_config = ConfigDict(extra="forbid")

    ids: list[ItemId]
    alias: str | None = None


class DeleteRequest(BaseModel):
    """Products that are gone."""

    model_config = ConfigDict(extra="forbid")

    ids: list[ItemId]


class ProductsRequest(BaseModel):
    """Products to add, or to replace by their id."""

    model_config = ConfigDict(extra="forbid")

    products: list[dict[str, Any]] = Field(
        min_length=1,
        examples=[[{"item_id": 17, "title": "red mug", "price": 9.5}]],
        description="rows: item_id, what the encoder reads, and columns that the center keeps",
    )


class Written(Answer):
    """Outcome of a write; it is on disk, and searchable within a moment."""

    sequence: int = Field(description="of the last row written; GET /v1/about tells what can be found")
    encoded: int = Field(description="products that the encoder had to read")
    unchanged: int
    changed_columns_only: int
    deleted: int
    quarantined: dict[str, str] = Field(
        description="why a picture could not be read, by the product's id; it is represented without it"
    )


class AliasAnswer(BaseModel):
    """An alias that is served."""

    name: str
    snapshot: str
    sequence: int
    products: int


class Limits(BaseModel):
    """Limits of a query."""

    k: int
    max_bytes: int
    max_pixels: int
    max_text: int
    max_ids: int


class About(Answer):
    """A description of the server and of what it serves."""

    name: str
    version: str
    alias: str = Field(description="that is served where a request names none")
    aliases: list[AliasAnswer]
    products: int
    sequence: int
    encoder: str = Field(description="the encoder's fingerprint")
    dim: int
    dtype: str
    reads: list[str] = Field(description="what a query may hold")
    columns: dict[str, str] = Field(
        description="columns to filter by, with their types: those kept in which some product has a value"
    )
    limits: Limits


class Health(BaseModel):
    """Whether the server is alive, or ready."""

    status: str
    snapshot: str | None = None
