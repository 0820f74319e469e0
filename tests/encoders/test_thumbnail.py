from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import torch
from PIL import Image

from moonlib.data.content import Content
from moonlib.encoders.thumbnail import Thumbnail


def encode(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_thumbnail_sees_where_the_colours_are_and_not_how_bright_the_picture_is(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32, 0] = 200
    brighter = picture + 20
    encoder = Thumbnail(size=8)
    encoder.setup(pl.DataFrame(), tmp_path)
    contents = [Content(encode(p), None) for p in (picture, brighter, picture[:, ::-1].copy())] + [Content(None, "mug")]
    output = encoder(encoder.preprocessor(contents, "product"))
    assert output.shape == (4, encoder.dim) == (4, 192)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(output[0], output[1], dim=0) > 0.999
    assert cosine(output[0], output[2], dim=0) < 0.5
    assert not output[3].any()
