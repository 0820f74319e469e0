from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from moonlib.data.content import Content
from moonlib.data.images import UnreadableImage
from moonlib.encoders.mllm.encoder import MLLM
from moonlib.encoders.mllm.processor import MLLMProcessor, fitted_size
from moonlib.testing import example_jpeg, example_products
from moonlib.testing.mllm import example_mllm_config

pytest.importorskip("transformers", minversion="5", reason="pip install 'moonlib-embedding[mllm]'")


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> MLLMProcessor:
    encoder = MLLM(config=example_mllm_config(), vocab_size=300, max_length=6, image_tokens=6, resize="aspect")
    encoder.setup(example_products(), tmp_path_factory.mktemp("processor"))
    return encoder.preprocessor


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 40), st.integers(1, 300))
@example(4, 1, 2, 1)  # half a unit wide: it gets a whole one, which leaves no second one for its height
def test_an_image_keeps_to_its_budget_and_its_proportions(height: int, width: int, unit: int, most: int) -> None:
    rows, columns = (side / unit for side in fitted_size(height, width, unit, most))
    assert rows == int(rows) >= 1 and columns == int(columns) >= 1 and rows * columns <= most
    if rows * columns > 1 and min(rows, columns) > 1:
        assert (rows - 1) / (columns + 1) <= height / width <= (rows + 1) / (columns - 1)
    if max(1, round(height / unit)) * max(1, round(width / unit)) <= most:
        assert abs(rows * unit - height) <= max(unit / 2, unit - height)


def test_images_of_many_sizes_share_a_batch(processor: MLLMProcessor) -> None:
    image = Image.new("RGB", (96, 32), (250, 10, 20))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    batch = processor([Content(buffer.getvalue(), None), Content(example_jpeg(0, 32, 48), None)], "product")
    assert batch["image_size"].tolist() == [[16, 64], [48, 32]], "3 : 1 in 6 tokens of 16 pixels"
    assert batch["image"].shape == (2, 3, 48, 64)
    assert batch["image"][0, :, :16].float().mean(dim=(1, 2)).tolist() == [250, 10, 20]
    assert not batch["image"][0, :, 16:].any() and not batch["image"][1, :, :, 32:].any()
    assert (batch["tokens"] == processor.layout.image).sum(dim=1).tolist() == [4, 6]


def test_what_is_learnt_of_a_question_is_its_answer(processor: MLLMProcessor) -> None:
    contents = [Content(example_jpeg(0), "red mug"), Content(None, None), Content(None, "红色 马克杯")]
    answers = ["red", "a " * 20, "红"]
    asked = processor.ask(contents, ["colour?"] * 3)
    batch = processor.ask(contents, ["colour?"] * 3, answers)
    assert "answer" not in asked
    for row, answer in enumerate(processor.answer_tokens(answers)):
        length = int(asked["token_mask"][row].sum())
        tokens, mask = batch["tokens"][row], batch["token_mask"][row]
        assert torch.equal(tokens[:length], asked["tokens"][row, :length])
        assert tuple(tokens[length : int(mask.sum())].tolist()) == answer
        assert torch.equal(batch["answer"][row], mask & (torch.arange(len(tokens)) >= length))
    ends = [answer[-1] == processor.layout.end for answer in processor.answer_tokens(answers)]
    assert ends == [True, False, True], "an answer that is cut off does not end there"


def test_a_broken_image_is_unreadable(processor: MLLMProcessor) -> None:
    with pytest.raises(UnreadableImage):
        processor([Content(b"no image", "a title")], "product")


def test_augmentation_keeps_to_the_image(processor: MLLMProcessor, tmp_path: Path) -> None:
    from moonlib.batches.loading import augmented

    contents = [Content(example_jpeg(0, 96, 32), None), Content(example_jpeg(1, 32, 48), None), Content(None, "x")]
    batch = processor(contents, "product")
    varied = augmented(batch, torch.Generator().manual_seed(0), 1.0)["image"]
    assert not torch.equal(varied, batch["image"])
    for row, (height, width) in enumerate(batch["image_size"].tolist()):
        outside = torch.ones(varied.shape[2:], dtype=torch.bool)
        outside[:height, :width] = False
        assert not varied[row][:, outside].any()
        assert not height or varied[row][:, ~outside].float().mean() > 40, "no padding is drawn in"


def test_the_subject_alone_is_seen(tmp_path: Path) -> None:
    image = Image.new("RGB", (40, 40), (255, 255, 255))
    image.paste((200, 10, 20), (20, 0, 40, 20))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    boxed = Content(buffer.getvalue(), "red", (0.5, 0, 1, 0.5))
    seen = {}
    for view in ("full", "box"):
        encoder = MLLM(config=example_mllm_config(), vocab_size=300, crop=[view])
        encoder.setup(example_products(), tmp_path)
        rows = encoder.preprocessor([boxed, Content(boxed.image, "red")], "query")["image"].float()
        seen[view] = rows.flatten(2).std(dim=2).amax(dim=1)
        asked = encoder.questions.ask([boxed], ["what is it?"])["image"].float()
        assert torch.equal(asked[0], rows[0])
    # A single colour fills the crop; without a box, and without the crop, the white around it is seen too.
    assert seen["box"][0] == 0 and seen["box"][1] > 50 and (seen["full"] > 50).all()


@pytest.mark.parametrize("crop", [[], ["full", "box"], ["face"]])
def test_one_picture_is_read(crop: list[str]) -> None:
    with pytest.raises(ValueError, match=r"the model reads one picture of a product: expected \[full\] or \[box\]"):
        MLLM(config=example_mllm_config(), crop=crop)  # type: ignore[arg-type]
