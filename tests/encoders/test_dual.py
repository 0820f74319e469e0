from __future__ import annotations

import io
import pickle

import moonlib.compat  # noqa: F401  (before lightning)
import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from moonlib.config import recipe
from moonlib.data.content import Content
from moonlib.data.images import UnreadableImage
from moonlib.encoders.convnet import ConvNet
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.transformer import Transformer
from moonlib.fusion.concat import Concat
from moonlib.fusion.gated import Gated
from moonlib.fusion.sum import Sum
from moonlib.optimizers.adamw import AdamWFactory
from moonlib.optimizers.optimizer_factory import OptimizerContext, trained_parameters
from moonlib.testing import check_encoder, example_contents, example_jpeg, example_products


def image_tower():
    return ConvNet(image_size=16, width=8)


def text_tower():
    return Transformer(vocab_size=300, width=16, depth=1, heads=2, max_length=12)


def ready(tmp_path, seed=0, **arguments):
    torch.manual_seed(seed)
    encoder = DualEncoder(**{"fusion": Sum(), "image": image_tower(), "text": text_tower(), "dim": 8} | arguments)
    encoder.setup(example_products(), tmp_path)
    return encoder


@pytest.mark.parametrize("fusion", [Sum, Gated, Concat])
def test_keeps_the_promises_of_an_encoder(fusion):
    check_encoder(lambda: DualEncoder(fusion(), image_tower(), text_tower(), dim=8))


def test_one_tower_is_enough():
    check_encoder(lambda: DualEncoder(Sum(), image=image_tower(), dim=8))
    check_encoder(lambda: DualEncoder(Sum(), text=text_tower(), dim=8))


def test_no_tower_is_refused():
    with pytest.raises(ValueError, match="needs an image tower or a text tower"):
        DualEncoder(Sum())


def test_widths_are_known_after_setup(tmp_path):
    encoder = ready(tmp_path)
    assert (encoder.image_dim, encoder.text_dim, encoder.dim) == (128, 16, 8)
    alone = ready(tmp_path, image=None)
    assert (alone.image_dim, alone.text_dim) == (0, 16)


def test_preprocessor_returns_what_the_towers_read(tmp_path):
    contents = example_contents()
    batch = ready(tmp_path).preprocessor(contents, "product")
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "image": torch.uint8,
        "has_image": torch.bool,
        "text": torch.int64,
        "text_mask": torch.bool,
    }
    assert batch["has_image"].tolist() == [True, True, False, False, True]
    assert batch["text_mask"].any(1).tolist() == [True, False, True, False, True]
    assert not batch["image"][2:4].any()
    assert ready(tmp_path, text=None).preprocessor(contents, "query").keys() == {"image", "has_image"}
    assert ready(tmp_path, image=None).preprocessor(contents, "query").keys() == {"text", "text_mask"}


def test_preprocessor_carries_no_weights(tmp_path):
    assert b"torch" not in pickle.dumps(ready(tmp_path).preprocessor)


class Batches(Dataset):
    def __init__(self, preprocessor):
        self.preprocessor = preprocessor

    def __len__(self):
        return 2

    def __getitem__(self, number):
        contents = example_contents() if number == 0 else [Content(None, "mug")] * 3
        return self.preprocessor(contents, "product")


def test_a_loader_worker_makes_the_same_batches(tmp_path):
    batches = Batches(ready(tmp_path).preprocessor)
    for made, loaded in zip(batches, DataLoader(batches, batch_size=None, num_workers=1), strict=False):
        assert made.keys() == loaded.keys()
        assert all(torch.equal(made[name], loaded[name]) for name in made)
        assert loaded["image"].is_contiguous()
        loaded["image"].fill_(7)  # the memory is the main process's own by now


def test_an_unreadable_image_surfaces(tmp_path):
    with pytest.raises(UnreadableImage):
        ready(tmp_path).preprocessor([Content(b"no image", "mug")], "product")


def test_rows_without_an_image_are_not_run_through_the_image_tower(tmp_path):
    encoder = ready(tmp_path)
    seen = []
    encoder.image.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    encoder(encoder.preprocessor(example_contents(), "product"))
    assert seen == [3]


BOX = (0.25, 0.0, 0.75, 0.5)


def cropped(image, box=BOX):
    """A PNG of the box alone, cut out with Pillow."""
    with Image.open(io.BytesIO(image)) as picture:
        part = picture.crop([round(edge * side) for edge, side in zip(box, picture.size * 2, strict=True)])
    buffer = io.BytesIO()
    part.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("crop", [["box"], ["full", "box"]])
@pytest.mark.parametrize("fusion", [Sum, Gated, Concat])
def test_keeps_the_promises_of_an_encoder_whatever_it_crops(fusion, crop):
    check_encoder(lambda: DualEncoder(fusion(), image_tower(), text_tower(), dim=8, crop=crop))


def test_without_a_crop_boxes_change_nothing(tmp_path):
    encoder = ready(tmp_path)
    boxed = [Content(example_jpeg(0), "mug", BOX), Content(example_jpeg(1), None, BOX)]
    plain = [Content(content.image, content.text) for content in boxed]
    batch, same = encoder.preprocessor(boxed, "query"), encoder.preprocessor(plain, "query")
    assert list(batch) == list(same) == ["image", "has_image", "text", "text_mask"]
    assert all(torch.equal(batch[name], same[name]) for name in batch)


def test_the_box_alone_stands_for_the_image(tmp_path):
    encoder = ready(tmp_path, crop=["box"])
    contents = [Content(example_jpeg(0), "mug", BOX), Content(example_jpeg(1), "mug"), Content(None, "mug", BOX)]
    batch = encoder.preprocessor(contents, "product")
    assert "subject" not in batch and encoder.image_dim == 128
    assert batch["has_image"].tolist() == [True, True, False]
    reference = [Content(cropped(example_jpeg(0)), "mug"), Content(example_jpeg(1), "mug"), Content(None, "mug")]
    expected = ready(tmp_path).preprocessor(reference, "product")
    assert (batch["image"].float() - expected["image"].float()).abs().mean() < 1


def test_both_views_are_those_of_the_encoders_of_one(tmp_path):
    contents = [
        Content(example_jpeg(0), "mug", BOX),
        Content(example_jpeg(1), "mug"),
        Content(None, "mug"),
        Content(None, None, BOX),
        Content(example_jpeg(2), None, (0.0, 0.5, 0.5, 1.0)),
    ]
    both = ready(tmp_path, crop=["full", "box"])
    batch = both.preprocessor(contents, "product")
    assert {name: tuple(tensor.shape) for name, tensor in batch.items() if name.endswith(("image", "subject"))} == {
        "image": (5, 3, 16, 16),
        "has_image": (5,),
        "subject": (5, 3, 16, 16),
        "has_subject": (5,),
    }
    assert batch["has_subject"].tolist() == [True, False, False, False, True]
    assert not batch["subject"][1:4].any()
    inputs = []
    both.fusion.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    both(batch)
    assert both.image_dim == inputs[0].shape[1] == 2 * 128
    there = batch["has_image"]
    for crop, features in (("full", inputs[0][:, :128]), ("box", inputs[0][:, 128:])):
        alone = ready(tmp_path, crop=[crop])
        alone.image.load_state_dict(both.image.state_dict())
        expected = alone.image(alone.preprocessor(contents, "product")["image"])
        torch.testing.assert_close(features[there], expected[there])
    assert torch.equal(inputs[0][1, :128], inputs[0][1, 128:])


def test_an_image_without_a_box_is_encoded_once(tmp_path):
    encoder = ready(tmp_path, crop=["full", "box"])
    seen = []
    encoder.image.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    encoder(encoder.preprocessor(example_contents(), "product"))
    assert seen == [3 + 1]


def test_both_views_teach_the_tower(tmp_path):
    encoder = ready(tmp_path, crop=["full", "box"], text=None)
    batch = encoder.preprocessor([Content(example_jpeg(0), None, BOX)] * 2, "product")

    def gradient(of):
        encoder.zero_grad()
        features = encoder._encode_images(encoder.image, batch)
        features[:, of].sum().backward()
        return encoder.image.body[0][0].weight.grad.clone()

    whole, subject = gradient(slice(0, 128)), gradient(slice(128, 256))
    assert whole.any() and subject.any() and not torch.allclose(whole, subject)
    torch.testing.assert_close(gradient(slice(0, 256)), whole + subject)


@pytest.mark.parametrize(
    "content",
    [Content(example_jpeg(0), None), Content(None, "mug", BOX), Content(None, None)],
    ids=["no box", "no image", "none"],
)
def test_every_parameter_has_a_gradient_without_a_subject_too(tmp_path, content):
    encoder = ready(tmp_path, crop=["full", "box"])
    encoder(encoder.preprocessor([content] * 3, "product")).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in encoder.parameters())
    assert encoder(encoder.preprocessor([], "query")).shape == (0, 8)


@pytest.mark.parametrize("crop", [[], ["box", "box"], ["full", "subject"]])
def test_views_that_make_no_sense_are_refused(crop):
    with pytest.raises(ValueError, match=r"expected \[full\], \[box\] or \[full, box\]"):
        DualEncoder(Sum(), image_tower(), crop=crop)


def test_a_recipe_names_the_views():
    iter1 = recipe.shipped()["iter1"]
    chosen = recipe.load(iter1, ["--encoder.init_args.crop=[full, box]"])
    assert chosen.encoder().crop == ("full", "box")
    assert recipe.load(iter1).encoder().crop == ("full",)
    with pytest.raises(recipe.RecipeError, match=r"encoder.init_args.crop"):
        recipe.load(iter1, ["--encoder.init_args.crop=[full, subject]"])


def test_missing_pixels_and_tokens_have_no_effect(tmp_path):
    encoder = ready(tmp_path)
    batch = encoder.preprocessor(example_contents(), "product")
    junk = dict(batch)
    junk["image"] = torch.where(batch["has_image"][:, None, None, None], batch["image"], torch.tensor(77).byte())
    junk["text"] = torch.where(batch["text_mask"], batch["text"], 5)
    torch.testing.assert_close(encoder(junk), encoder(batch))


@pytest.mark.parametrize("fusion", [Sum, Gated, Concat])
@pytest.mark.parametrize(
    "content",
    [Content(example_jpeg(0), None), Content(None, "mug"), Content(None, None)],
    ids=["image", "text", "none"],
)
def test_every_parameter_has_a_gradient_whatever_is_missing(tmp_path, fusion, content):
    encoder = ready(tmp_path, fusion=fusion())
    encoder(encoder.preprocessor([content] * 3, "product")).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if content.image is None and name.startswith("image."):
            assert not parameter.grad.any(), name


def test_an_empty_batch(tmp_path):
    encoder = ready(tmp_path)
    assert encoder(encoder.preprocessor([], "query")).shape == (0, 8)


def test_float32_comes_out_under_autocast(tmp_path):
    encoder = ready(tmp_path)
    batch = encoder.preprocessor(example_contents(), "product")
    with torch.autocast("cpu", torch.bfloat16):
        low = encoder(batch)
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, encoder(batch), atol=0.05, rtol=0.05)


def test_same_seed_same_weights_other_seed_others(tmp_path):
    one, same, other = ready(tmp_path, seed=1), ready(tmp_path, seed=1), ready(tmp_path, seed=2)
    assert all(map(torch.equal, one.state_dict().values(), same.state_dict().values()))
    assert not torch.equal(one.fusion.space.image.weight, other.fusion.space.image.weight)


def test_learning_rates_by_pattern(tmp_path):
    encoder = ready(tmp_path, learning_rates={r"^text\.tokens": 0.0, "^(image|text)": 0.1})
    for name, parameter in encoder.named_parameters():
        expected = 0.0 if name.startswith("text.tokens") else 1.0 if name.startswith("fusion") else 0.1
        assert encoder.learning_rate_factor(name) == expected
        assert parameter.requires_grad == (expected > 0)
    with pytest.raises(ValueError, match=r"'vision' matches no parameter; names are such as image\."):
        ready(tmp_path, learning_rates={"vision": 0.1})
    with pytest.raises(ValueError, match="expected a factor >= 0, got -1"):
        DualEncoder(Sum(), image=image_tower(), learning_rates={"image": -1})


def test_towers_can_be_trained_more_slowly_than_what_joins_them(tmp_path):
    """A tower at factor 0 stays as it was; the rest learns."""

    class Step(LightningModule):
        def __init__(self, encoder):
            super().__init__()
            self.encoder = encoder

        def training_step(self, batch, index):
            return self.encoder(batch).square().sum()

        def configure_optimizers(self):
            factory = AdamWFactory(0.01, weight_decay=0.0, warmup=0.0)
            return factory(trained_parameters(self, self.encoder), OptimizerContext.of(self))

    encoder = ready(tmp_path, learning_rates={"^image": 0.0, "^text": 0.1})
    before = {name: parameter.detach().clone() for name, parameter in encoder.named_parameters()}
    batch = encoder.preprocessor(example_contents(), "product")
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(max_steps=1, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(Step(encoder), DataLoader([batch], batch_size=None))
    # Adam's first step is the learning rate, wherever there is a gradient.
    moved = {name: (parameter - before[name]).abs().max().item() for name, parameter in encoder.named_parameters()}
    assert max(value for name, value in moved.items() if name.startswith("image")) == 0
    assert max(value for name, value in moved.items() if name.startswith("text")) == pytest.approx(0.001, rel=1e-2)
    assert max(value for name, value in moved.items() if name.startswith("fusion")) == pytest.approx(0.01, rel=1e-2)


def test_heads_are_parts_of_the_representation_of_their_own_length(tmp_path):
    heads = {"look": 3, "identity": 5}
    plain, encoder = ready(tmp_path), ready(tmp_path, heads=heads, head_weights={"look": 0.5})
    assert plain.heads() == {}
    assert encoder.heads() == {"identity": slice(0, 5), "look": slice(5, 8)}
    batch = encoder.preprocessor(example_contents(), "product")
    with torch.no_grad():
        before, found = plain.eval()(batch), encoder.eval()(batch)
    there = before.any(dim=1)
    assert there.any() and not there.all() and not found[~there].any()
    identity, look = before[there][:, :5], before[there][:, 5:]
    expected = torch.cat(
        [identity / identity.norm(dim=1, keepdim=True), 0.5 * look / look.norm(dim=1, keepdim=True)], dim=1
    )
    torch.testing.assert_close(found[there], expected)
    # So the cosine of two representations is the mean of the heads', weighted by the squares of their weights.
    a, b = found[there][:2]
    one, other = (torch.cosine_similarity(a[part], b[part], dim=0) for part in encoder.heads().values())
    torch.testing.assert_close(torch.cosine_similarity(a, b, dim=0), (one + 0.25 * other) / 1.25)


def test_an_encoder_with_heads_keeps_its_promises():
    check_encoder(lambda: DualEncoder(Gated(), image_tower(), text_tower(), dim=8, heads={"identity": 6, "look": 2}))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": {"identity": 6, "look": 3}}, r"heads: expected widths .* that add up to dim, 8, got 6 \+ 3"),
        ({"heads": {"identity": 8, "look": 0}}, "heads: expected widths of at least 1"),
        ({"heads": {"identity": 8}, "head_weights": {"look": 1.0}}, "there is no head 'look'; heads are identity"),
        ({"heads": {"identity": 8}, "head_weights": {"identity": 0.0}}, "head_weights: expected numbers above 0"),
        ({"head_weights": {"look": 1.0}}, "there is no head 'look'; heads are none"),
    ],
)
def test_heads_that_do_not_fit_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        DualEncoder(Sum(), image_tower(), dim=8, **wrong)
