"""The HTTP interface: what is asked, what is answered, and what is refused."""

from __future__ import annotations

import io
import json
import logging
import struct
import zlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image

from moonlib.data.content import Content
from moonlib.encoders.encoder import Encoder
from moonlib.serving.service import Service
from moonlib.serving.settings import ServeSettings

from .conftest import PRODUCTS, TOKEN, picture, title

AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}
NAME = "aaaaaaaaaaaa-16-float32@000000"


def searched(client: TestClient, **given: Any) -> Any:
    files = {"image": ("photo.jpg", given.pop("image"))} if "image" in given else None
    return client.post("/v1/search", data=given, files=files)


def refused(answer: Any, status: int, field: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "snapshot", "request_id"}
    assert body["error"]["field"] == field
    assert body["request_id"] == answer.headers["x-request-id"]
    return dict(body["error"])


def test_a_photo_finds_what_the_encoder_puts_nearest(client: TestClient, encoder: Encoder, service: Service) -> None:
    answer = searched(client, image=picture(7), k=5)
    assert answer.status_code == 200
    body = answer.json()
    with torch.inference_mode():
        vector = encoder(encoder.preprocessor([Content(picture(7), None)], "query")).numpy()
    expected = service.served().view.search(vector, 5)
    assert [hit["item_id"] for hit in body["hits"]] == expected.ids[0]
    np.testing.assert_allclose([hit["score"] for hit in body["hits"]], expected.scores[0], atol=1e-5)
    first = body["hits"][0]
    number = first["item_id"]
    assert first["row"] == {"title": title(number), "price": float(number), "in_stock": number % 2 == 0}
    assert client.get(first["picture"]).content == picture(number)
    assert body["snapshot"] == answer.headers["moonlib-snapshot"] == NAME
    assert body["took_ms"] > 0


def test_text_and_photo_together_and_each_alone(client: TestClient) -> None:
    found = [
        [hit["item_id"] for hit in searched(client, k=PRODUCTS // 2, **given).json()["hits"]]
        for given in ({"text": title(3)}, {"image": picture(3)}, {"text": title(3), "image": picture(3)})
    ]
    assert found[2][0] == 3
    assert found[0] != found[1] != found[2]


def test_more_like_this_leaves_the_product_itself_out(client: TestClient, service: Service) -> None:
    hits = searched(client, like="5", k=4).json()["hits"]
    view = service.served().view
    expected = [id for id in view.search(view.lookup([5]), 5).ids[0] if id != 5][:4]
    assert [hit["item_id"] for hit in hits] == expected
    refused(searched(client, like="999"), 422, "like")
    refused(searched(client, like="../etc"), 422, "like")
    refused(searched(client, like="5", text="mug"), 422, "like")


def test_the_crop_is_what_counts(client: TestClient) -> None:
    pixels = Image.new("RGB", (100, 50))
    for number, left in ((4, 0), (9, 50)):
        pixels.paste(Image.open(io.BytesIO(picture(number))).resize((50, 50)), (left, 0))
    file = io.BytesIO()
    pixels.save(file, "PNG")

    def first(data: bytes, **more: Any) -> list[int]:
        return [hit["item_id"] for hit in searched(client, image=data, k=3, **more).json()["hits"]]

    def half(number: int) -> bytes:
        alone = io.BytesIO()
        Image.open(io.BytesIO(picture(number))).resize((50, 50)).save(alone, "PNG")
        return alone.getvalue()

    assert first(file.getvalue(), crop="0,0,0.5,1") == first(half(4))
    assert first(file.getvalue(), crop="0.5,0,1,1") == first(half(9))
    for wrong in ("0,0,1", "0.5,0,0.5,1", "-1,0,1,1", "0,0,nan,1", "a,b,c,d"):
        refused(searched(client, image=file.getvalue(), crop=wrong), 422, "crop")
    refused(searched(client, text="mug", crop="0,0,1,1"), 422, "crop")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, None),
        ({"text": "   "}, None),
        ({"text": "mug", "k": "0"}, "k"),
        ({"text": "mug", "k": "21"}, "k"),
        ({"text": "mug", "k": "ten"}, "k"),
        ({"text": "m" * 201}, "text"),
        ({"text": "mug", "alias": "../live"}, "alias"),
        ({"text": "mug", "where": "{"}, "where"),
        ({"text": "mug", "where": "[" * 50_000}, "where"),
        ({"text": "mug", "where": "[1]"}, "where"),
        ({"image": b""}, "image"),
    ],
)
def test_a_wrong_field_is_named(client: TestClient, given: dict[str, Any], field: str | None) -> None:
    refused(searched(client, **given), 422, field)


def bomb() -> bytes:
    """A PNG of 50,000 x 50,000 pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def jpeg_bomb() -> bytes:
    """A JPEG whose header says 50,000 x 50,000 pixels."""
    data = bytearray(picture(1))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 50_000, 50_000)
    return bytes(data)


BAD_IMAGES = {
    "truncated jpeg": picture(1)[: len(picture(1)) // 2],
    "header alone": picture(1)[:20],
    "truncated png": picture(1, "PNG")[:-100],
    "png bomb": bomb(),
    "jpeg bomb": jpeg_bomb(),
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="file:///etc/passwd"/></svg>',
    "html named .jpg": b"<!doctype html><html><script>alert(1)</script></html>",
    "a tiff": picture(1, "TIFF"),
    "riff that is no webp": b"RIFF" + bytes(100),
    "zeros": bytes(1000),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_refused_and_named(client: TestClient, name: str) -> None:
    answer = searched(client, image=BAD_IMAGES[name], text="mug")
    if name == "truncated jpeg" and answer.status_code == 200:
        pytest.fail("half a picture was taken for a whole one")
    error = refused(answer, 422, "image")
    assert "object at 0x" not in error["message"]
    assert answer.headers["moonlib-snapshot"] == NAME


def test_odd_pictures_are_read_as_people_see_them(client: TestClient) -> None:
    def ids(data: bytes) -> list[int]:
        answer = searched(client, image=data, k=3)
        assert answer.status_code == 200, answer.text
        return [hit["item_id"] for hit in answer.json()["hits"]]

    upright = picture(11, quality=95)
    turned = Image.open(io.BytesIO(upright)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held so that it has to be turned clockwise
    file = io.BytesIO()
    turned.save(file, "JPEG", quality=95, exif=exif)
    assert ids(file.getvalue()) == ids(upright)
    assert ids(picture(11, "GIF"))
    assert ids(picture(11, "WEBP"))
    assert ids(picture(11, mode="CMYK"))
    assert ids(picture(11, "PNG", mode="RGBA")) == ids(picture(11, "PNG"))


def test_what_is_too_large_is_not_read(client: TestClient) -> None:
    assert refused(searched(client, image=bytes(1_500_000)), 413)["code"] == "too_large"

    def unending() -> Any:  # chunked: it says no length
        yield b'--b\r\ncontent-disposition: form-data; name="image"; filename="a"\r\n\r\n'
        for _ in range(100):
            yield bytes(100_000)

    kind = {"content-type": "multipart/form-data; boundary=b"}
    refused(client.post("/v1/search", content=unending(), headers=kind), 413)
    ids = b'{"ids": [' + b"1," * 5_000_000 + b"1]}"
    refused(client.post("/v1/lookup", content=ids, headers={"content-type": "application/json"}), 413)


def test_lookup(client: TestClient, service: Service) -> None:
    answer = client.post("/v1/lookup", json={"ids": [3, 999, 3, -5]})
    assert answer.headers["content-type"] == "application/vnd.apache.arrow.stream"
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table.schema.metadata[b"moonlib-snapshot"].decode() == answer.headers["moonlib-snapshot"] == NAME
    assert table["item_id"].to_pylist() == [3, 999, 3, -5]
    vectors = table["vector"].to_pylist()
    assert vectors[1] is None and vectors[3] is None
    np.testing.assert_array_equal(vectors[0], service.served().view.lookup([3])[0])
    assert pa.ipc.open_stream(client.post("/v1/lookup", json={"ids": []}).content).read_all().num_rows == 0


@pytest.mark.parametrize(
    "body",
    [
        *('{"ids": ["3"]}', '{"ids": [3, "x"]}', '{"ids": [true]}', '{"ids": [1.5]}', '{"ids": [9223372036854775808]}'),
        *('{"ids": 3}', "[]", "{", "", '{"ids": [1], "more": 1}', '{"ids": ["\\ud800"]}', '{"ids": [null]}'),
        *('{"ids": [' + "9" * 5000 + "]}", "[" * 100_000, '{"ids": ["../../etc/passwd"]}'),
    ],
    ids=range(15),
)
def test_a_wrong_lookup_is_refused(client: TestClient, body: str) -> None:
    answer = client.post("/v1/lookup", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "item", ["..%2f..%2fetc%2fpasswd", "%00", "1e3", "9" * 30, "-", "1 ", "٣", "%ff%fe", "a" * 600]
)
def test_tricks_in_paths_are_no_ids(client: TestClient, item: str) -> None:
    answer = client.get(f"/v1/products/{item}/picture")
    assert answer.status_code in (404, 422)
    assert answer.json()["error"]["message"]


def test_an_id_may_hold_slashes(client: TestClient) -> None:
    refused(client.get("/v1/products/a%2Fb/picture"), 422, "item")  # and not 404: it is text where ids are numbers


def test_products_are_written_with_the_token_alone(client: TestClient) -> None:
    rows = {"products": [{"item_id": 100, "title": "blue jug", "price": 3.5}]}
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}, {"authorization": "Bearer é"}):
        encoded = {name: value.encode() for name, value in headers.items()}
        assert refused(client.post("/v1/products", json=rows, headers=encoded), 401)["code"] == "unauthorized"
        refused(client.request("DELETE", "/v1/products", json={"ids": [1]}, headers=encoded), 401)
    answer = client.post("/v1/products", json=rows, headers=AUTHORIZED)
    assert answer.status_code == 202, answer.text
    assert answer.json()["sequence"] == client.get("/v1/about").json()["sequence"] == PRODUCTS + 1
    assert searched(client, text="blue jug", k=1).json()["hits"][0]["item_id"] == 100
    gone = client.request("DELETE", "/v1/products", json={"ids": [100]}, headers=AUTHORIZED)
    assert gone.status_code == 202 and gone.json()["deleted"] == 1
    assert searched(client, text="blue jug", k=1).json()["hits"][0]["item_id"] != 100


def test_products_come_with_pictures(client: TestClient) -> None:
    rows = [{"item_id": 200, "title": "vase", "image": "vase.jpg"}, {"item_id": 201, "title": "bowl"}]
    files = [("images", ("vase.jpg", picture(77)))]
    answer = client.post("/v1/products", data={"products": json.dumps(rows)}, files=files, headers=AUTHORIZED)
    assert answer.status_code == 202, answer.text
    assert client.get("/v1/products/200/picture").content == picture(77)
    refused(client.get("/v1/products/201/picture"), 404, "item")
    for place in ("../../etc/passwd", "/etc/passwd", "http://127.0.0.1/a.jpg", 7):
        wrong = [{"item_id": 202, "image": place}]
        refused(client.post("/v1/products", json={"products": wrong}, headers=AUTHORIZED), 422, "products.0.image")
    refused(client.post("/v1/products", json={"products": []}, headers=AUTHORIZED), 422, "products")
    refused(client.post("/v1/products", json={"products": [{"item_id": "x"}]}, headers=AUTHORIZED), 422, "products")
    refused(client.post("/v1/products", content=b"\xff", headers=AUTHORIZED), 422, "products")
    row = {"products": json.dumps([{"item_id": 203, "title": "cup"}])}
    for form, sent, field in (
        (row, "images", "images"),  # which no row names
        (row, "image", "image"),
        ({"rows": "[]"}, "images", "rows"),
        ({}, "images", "products"),
    ):
        file = [(sent, ("cup.jpg", picture(1)))]
        refused(client.post("/v1/products", data=form, files=file, headers=AUTHORIZED), 422, field)
    assert client.get("/v1/about").json()["products"] == PRODUCTS + 2


def test_a_product_without_a_picture_says_so(client: TestClient) -> None:
    rows = {"products": [{"item_id": 300, "title": "mug number 3"}, {"item_id": 4, "title": "mug number 3"}]}
    assert client.post("/v1/products", json=rows, headers=AUTHORIZED).status_code == 202
    hits = {hit["item_id"]: hit for hit in searched(client, text="mug number 3", k=20).json()["hits"]}
    assert hits[300]["picture"] is None
    for item, hit in hits.items():
        answer = client.get(f"/v1/products/{item}/picture")
        assert (answer.status_code == 200) == (hit["picture"] is not None), item


def test_nothing_of_a_search_is_passed_over_in_silence(client: TestClient) -> None:
    error = refused(searched(client, text="mug", wher='{"price": 3}'), 422, "wher")
    assert "where" in error["message"]
    refused(searched(client, text=["mug", "jug"]), 422, "text")
    refused(client.post("/v1/search?k=3", data={"text": "mug"}), 422, "k")
    refused(client.post("/v1/search", json={"text": "mug"}), 415)
    document = client.get("/openapi.json").json()
    form = document["paths"]["/v1/search"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    fields = form["properties"]
    for name in fields:
        if name not in ("image", "k"):
            assert "unknown_field" not in searched(client, **{name: "0"}).text


def test_messages_are_for_people(client: TestClient) -> None:
    json_kind = {"content-type": "application/json"}
    for body, headers, field, said in (
        ('{"ids": [1}', json_kind, None, "JSON"),
        ('{"ids": [1]}', {}, None, "application/json"),
        ("", json_kind, None, "JSON object"),
        ('{"ids": [1.5]}', json_kind, "ids.0", "integer"),
    ):
        answer = client.post("/v1/lookup", content=body, headers=headers)
        assert said in refused(answer, 422, field)["message"]
    assert "file" in refused(client.post("/v1/search", data={"image": "photo"}), 422, "image")["message"]
    assert "pixels" in refused(searched(client, image=bomb()), 422, "image")["message"]
    wrong = client.post("/v1/products", json={"products": [{"item_id": "x"}]}, headers=AUTHORIZED)
    assert wrong.json()["error"]["message"].count("products: ") == 1
    for body, said in (([{"item_id": 1}], '{"products": ['), ({"products": []}, "products: there are none")):
        answer = client.post("/v1/products", json=body, headers=AUTHORIZED)
        assert said in refused(answer, 422, "products")["message"]
    filtered = searched(client, text="mug", where='{"prize": 1}')
    assert refused(filtered, 422, "where")["message"].startswith("where: unknown column 'prize'")


def test_a_server_without_a_token_takes_no_products(service: Service) -> None:
    from moonlib.serving.app import create_app

    with TestClient(create_app(service)) as client:
        error = refused(client.post("/v1/products", json={"products": [{"item_id": 1}]}, headers=AUTHORIZED), 403)
        assert "--token-file" in error["message"]


def test_about_says_what_a_query_may_hold(client: TestClient, settings: ServeSettings) -> None:
    about = client.get("/v1/about").json()
    assert about["reads"] == ["image", "text"]
    assert about["columns"] == {"title": "text", "price": "float", "in_stock": "boolean"}
    assert about["limits"]["k"] == settings.k
    assert about["aliases"] == [{"name": "live", "snapshot": NAME, "sequence": PRODUCTS, "products": PRODUCTS}]


def test_metrics_tell_where_time_goes(client: TestClient) -> None:
    for _ in range(3):
        searched(client, image=picture(1))
    searched(client, image=b"no picture")
    text = client.get("/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines['moonlib_requests_total{route="/v1/search",status="200"}'] == "3.0"
    assert lines['moonlib_requests_total{route="/v1/search",status="422"}'] == "1.0"
    for stage in ("prepare", "queue", "encode", "search"):
        assert lines[f'moonlib_stage_seconds_count{{stage="{stage}"}}'] == "3.0"
    assert lines["moonlib_batch_size_count"] == "3.0"
    assert lines['moonlib_products{alias="live"}'] == str(float(PRODUCTS))


def test_an_unknown_path_and_a_wrong_method_have_the_same_shape(client: TestClient) -> None:
    refused(client.get("/v2/search"), 404)
    refused(client.get("/v1/search"), 405)


def test_a_bug_is_answered_500_and_tells_nothing(client: TestClient, service: Service, caplog: Any) -> None:
    def broken(*_: Any) -> Any:
        raise KeyError("the secret")

    service.lookup = broken  # type: ignore[method-assign]
    with caplog.at_level(logging.CRITICAL):
        answer = client.post("/v1/lookup", json={"ids": [1]})
    refused(answer, 500)
    assert "secret" not in answer.text


def test_logs_name_the_request_and_no_query(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "moonlib.serving.access"):
        answer = client.post("/v1/search", data={"text": "sealed words"}, headers={"x-request-id": "abc-1"})
        other = client.post("/v1/search", data={"text": "sealed words"}, headers={"x-request-id": "a b\t{}"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert other.headers["x-request-id"] != "a b\t{}"
    noted = [record.fields for record in caplog.records if record.name == "moonlib.serving.access"]  # type: ignore[attr-defined]
    assert [each["status"] for each in noted] == [200, 200]
    assert noted[0]["request_id"] == "abc-1" and noted[0]["snapshot"] == NAME and noted[0]["ms"] > 0
    assert "sealed" not in str(noted)


def test_the_openapi_document_says_what_each_answer_is(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, response in operation["responses"].items():
                assert response.get("content"), f"{method} {path} {status}"
                if status >= "400":
                    schema = response["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorAnswer"}, f"{method} {path} {status}"
