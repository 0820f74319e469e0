"""The form of a search: its fields, and how they are read from a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.datastructures import UploadFile

from moonlib.center.where import BadFilter, Where
from moonlib.config.merge import hint
from moonlib.data.content import Box
from moonlib.serving.errors import Refused
from moonlib.serving.settings import ServeSettings

_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


@dataclass(frozen=True)
class Search:
    """A request to search: for a picture, a text or both, or for another product.

    Attributes:
        k: products wanted.
        image: an encoded picture.
        text: without space around it.
        crop: the part of the picture that counts.
        where: filters on kept columns, and as they were written.
        like: id of a product.
        alias: what to search, where one is named.
    """

    k: int
    image: bytes | None = None
    text: str | None = None
    crop: Box | None = None
    where: Where | None = None
    written_where: str | None = None
    like: str | None = None
    alias: str | None = None


class SearchForm:
    """Reads the forms of searches.

    FastAPI could read the fields one by one, too; this takes a third of the time, which counts at a thousand requests a
    second.

    Args:
        settings: limits.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self._max_bytes = settings.max_bytes
        fields: dict[str, Any] = {
            "text": (str | None, Field(None, max_length=settings.max_text)),
            "k": (int, Field(min(10, settings.k), ge=1, le=settings.k)),
            "where": (str | None, Field(None, description='filters as JSON: {"price": {"lt": 50}}')),
            "alias": (str | None, Field(None, max_length=200)),
            "crop": (
                str | None,
                Field(None, description="the part of the picture that counts: x0,y0,x1,y1 in 0..1", max_length=200),
            ),
            "like": (
                str | None,
                Field(None, description="id of a product to find others like", max_length=512),
            ),
        }
        self._model: type[BaseModel] = create_model("SearchForm", __config__=ConfigDict(extra="forbid"), **fields)
        self._names = ("image", *fields)

    def openapi(self) -> dict[str, Any]:
        """The body of a request, for an OpenAPI document."""
        schema = self._model.model_json_schema()
        image = {"type": "string", "format": "binary", "description": "a JPEG, PNG, WebP or GIF"}
        schema["properties"] = {"image": image, **schema["properties"]}
        return {"required": True, "content": {_FORMS[0]: {"schema": schema}}}

    async def read(self, request: Request) -> Search:
        """Read a request.

        Nothing is passed over in silence, such as a filter whose field is misspelt.

        Raises:
            Refused: naming the field that is wrong.
            RequestValidationError: a field is not what the form says.
            HTTPException: the body is no form.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in ("", *_FORMS):
            raise Refused(415, "no_form", f"send a form (multipart/form-data, as curl -F does), not {kind}")
        for name in request.query_params:
            raise Refused(422, "unknown_field", f"{name}: give it as a field of the form, not in the address", name)
        async with request.form() as form:
            given: dict[str, Any] = {}
            for name, value in form.multi_items():
                if name not in self._names:
                    raise Refused(
                        422, "unknown_field", f"{name}: there is no such field; {hint(name, self._names)}", name
                    )
                if name in given:
                    raise Refused(422, "given_twice", f"{name}: is given twice", name)
                given[name] = value
            image = await self._image(given.pop("image", None))
        try:
            # A page sends fields that nobody has filled in as empty ones.
            fields: Any = self._model.model_validate({name: value for name, value in given.items() if value != ""})
        except ValidationError as error:
            errors = error.errors(include_url=False)
            raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in errors]) from None
        text = (fields.text or "").strip() or None
        if fields.like is not None and (image is not None or text is not None):
            raise Refused(422, "two_queries", "like: give it alone, without image and text", "like")
        if image is None and text is None and fields.like is None:
            raise Refused(422, "empty_query", "nothing to search for: give an image, a text or both, or like")
        if fields.crop is not None and image is None:
            raise Refused(422, "bad_crop", "crop: there is no image to crop", "crop")
        crop = None if fields.crop is None else _box(fields.crop)
        where = None if fields.where is None or not fields.where.strip() else _filters(fields.where)
        return Search(fields.k, image, text, crop, where, fields.where, fields.like, fields.alias)

    async def _image(self, file: UploadFile | str | None) -> bytes | None:
        if isinstance(file, str) and file:
            raise Refused(422, "invalid", "image: expected a file, as curl -F image=@photo.jpg sends it", "image")
        if not isinstance(file, UploadFile) or not (file.filename or file.size):
            return None
        data = await file.read()
        if len(data) > self._max_bytes:
            raise Refused(413, "too_large", f"image: larger than {self._max_bytes:,} bytes", "image")
        return data


def _box(words: str) -> Box:
    try:
        x0, y0, x1, y1 = (float(word) for word in words.split(","))
        if 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1:
            return x0, y0, x1, y1
    except ValueError:
        pass
    raise Refused(422, "bad_crop", "crop: expected x0,y0,x1,y1 with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1", "crop")


def _filters(words: str) -> Where | None:
    try:
        found = Where.from_json(words)
    except (ValueError, RecursionError) as error:
        known = isinstance(error, BadFilter)
        raise Refused(422, "bad_filter", f"where: {error if known else 'expected JSON'}", "where") from None
    return found if found.conditions else None
