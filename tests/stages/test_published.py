"""Published weights stay as they are while they are frozen, and are averaged with their start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor, nn

from moonlib.data.dataset import Dataset
from moonlib.data.images import decode_image
from moonlib.encoders.clip.encoder import CLIP
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.hf_image import HFImage
from moonlib.encoders.tower import ImageTower
from moonlib.encoders.transformer import Transformer
from moonlib.fusion.fusion import Fusion
from moonlib.fusion.gated import Gated
from moonlib.fusion.sum import Sum
from moonlib.losses.info_nce import InfoNCE
from moonlib.negatives.in_batch import InBatch
from moonlib.stages import published
from moonlib.stages.posttraining import Posttraining, SearchData
from moonlib.stages.published import PublishedWeights, StartWeights
from moonlib.stages.stage import StageContext
from moonlib.stages.validation_schedule import ValidationSchedule
from moonlib.testing import example_products
from moonlib.testing.checkpoints import example_checkpoint

STEPS = 4


class LoadSmall:
    def __call__(self, data: bytes, box: Any = None, /) -> Tensor:
        return decode_image(data, box, size=16)


class Published(ImageTower):
    """A tower that says that its weights were published."""

    image_size, out_features, load_image, is_published = 16, 8, LoadSmall(), True

    def setup(self) -> None:
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.BatchNorm1d(8), nn.Dropout(0.5))

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image.float() / 255)


class States(Callback):
    """What the encoder was before each step, and the modes of its modules during it."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []
        self.modes: list[dict[str, bool]] = []

    def on_train_batch_start(self, trainer: Trainer, stage: LightningModule, *rest: Any) -> None:
        encoder: nn.Module = stage.encoder  # type: ignore[assignment]
        self.states.append({name: each.clone() for name, each in encoder.state_dict().items()})

    def on_before_backward(self, trainer: Trainer, stage: LightningModule, loss: Tensor) -> None:
        self.modes.append({name: each.training for name, each in stage.encoder.named_modules()})  # type: ignore[union-attr]


def run(
    shop: Dataset,
    directory: Path,
    *callbacks: Callback,
    tower: ImageTower | None = None,
    validate: ValidationSchedule | None = None,
    trained: Path | None = None,
    **arguments: Any,
) -> tuple[DualEncoder, dict[str, float]]:
    directory.mkdir(exist_ok=True)
    text = Transformer(vocab_size=300, width=16, depth=1, heads=2, max_length=12)
    encoder = DualEncoder(Sum(), tower or Published(), text, dim=8)
    seed_everything(0, verbose=False)
    encoder.setup(shop.splits.known(shop.products), directory)
    trainer = Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    metrics = Posttraining(InfoNCE(), [InBatch()], learning_rate=0.01, **arguments).run(
        StageContext(
            dataset=shop,
            data=SearchData({"image -> image": 0.5, "text -> title": 0.5}, batch_size=8, workers=0),
            trainer=trainer,
            directory=directory,
            seed=1,
            encoder=encoder,
            weights=trained,
            checkpoint_seconds=0.0,
            validate=validate,
        )
    )
    return encoder, metrics


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """First two parts of the names of what differs."""
    return {".".join(name.split(".")[:2]) for name in before if not torch.equal(before[name], after[name])}


def test_heads_come_first_then_the_towers(shop: Dataset, tmp_path: Path) -> None:
    seen = States()
    encoder, _ = run(shop, tmp_path, seen, freeze_towers_until=2)
    states = [*seen.states, encoder.state_dict()]
    for step in range(STEPS):
        moved = changed(states[step], states[step + 1])
        assert "fusion.space" in moved and any(name.startswith("text.") for name in moved)
        # Batch statistics are frozen with the weights, and dropout is off.
        assert ("image.body" in moved) == (step >= 2), step
        assert seen.modes[step]["image.body.3"] == (step >= 2)


def test_a_training_that_is_resumed_thaws_at_the_same_step(shop: Dataset, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Kill(Callback):
        def __init__(self, at: int) -> None:
            self.at = at

        def on_train_batch_start(self, trainer: Trainer, *rest: Any) -> None:
            if trainer.global_step == self.at:
                raise Killed

    whole, _ = run(shop, tmp_path / "whole", freeze_towers_until=2, freeze_batch_norm=True)
    for at in (1, 3):
        with pytest.raises(Killed):
            run(shop, tmp_path / "parts", Kill(at), freeze_towers_until=2, freeze_batch_norm=True)
    parts, _ = run(shop, tmp_path / "parts", freeze_towers_until=2, freeze_batch_norm=True)
    assert not changed(whole.state_dict(), parts.state_dict())


def test_batch_normalisation_keeps_its_published_statistics(shop: Dataset, tmp_path: Path) -> None:
    seen = States()
    encoder, _ = run(shop, tmp_path, seen, freeze_batch_norm=True)
    for name in ("image.body.2.running_mean", "image.body.2.running_var"):
        assert torch.equal(encoder.state_dict()[name], seen.states[0][name])
    assert not torch.equal(encoder.state_dict()["image.body.2.weight"], seen.states[0]["image.body.2.weight"])
    assert not any(modes["image.body.2"] for modes in seen.modes) and all(modes["image.body.3"] for modes in seen.modes)


def test_published_weights_are_averaged_with_their_start_and_others_are_not(shop: Dataset, tmp_path: Path) -> None:
    seen = States()
    end, _ = run(shop, tmp_path / "end", seen)
    mean, _ = run(shop, tmp_path / "mean", average_with_start=0.25)
    for name, value in mean.state_dict().items():
        if not value.is_floating_point():  # a count
            continue
        ended = end.state_dict()[name]
        expected = 0.75 * ended + 0.25 * seen.states[0][name] if name.startswith("image.body") else ended
        torch.testing.assert_close(value, expected, msg=name)


def test_all_weights_are_averaged_where_stages_before_have_trained_them(shop: Dataset, tmp_path: Path) -> None:
    run(shop, tmp_path / "before")
    before = tmp_path / "before/weights.safetensors"
    seen = States()
    end, _ = run(shop, tmp_path / "end", seen, trained=before)
    mean, _ = run(shop, tmp_path / "mean", trained=before, average_with_start=0.5)
    name = "fusion.space.text.weight"
    torch.testing.assert_close(mean.state_dict()[name], (end.state_dict()[name] + seen.states[0][name]) / 2)


def test_the_share_that_is_best_on_validation_is_chosen(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, _ = run(shop, tmp_path)
    start = StartWeights(encoder, trained=False)
    values = iter([0.1, 0.4, 0.4, 0.2, 0.3])
    assert start.choose(lambda: next(values), True) == (0.5, 0.4)  # of equal ones the larger share
    values = iter([0.1, 0.4, 0.4, 0.2, 0.05])
    assert start.choose(lambda: next(values), False) == (1.0, 0.05)
    monkeypatch.setattr(published, "SHARES", (0.0, 1.0))
    _, metrics = run(shop, tmp_path / "auto", average_with_start="auto", validate=ValidationSchedule(every=4, ks=[5]))
    assert metrics["valid/stage/start_share"] in (0.0, 1.0) and "valid/stage/recall@5" in metrics


class FromScratch(Published):
    is_published = False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"freeze_towers_until": 2}, "freeze_towers_until: no weight of this DualEncoder is a published one"),
        ({"freeze_batch_norm": True}, "freeze_batch_norm: no weight of this DualEncoder is a published one"),
        ({"average_with_start": 0.5}, "average_with_start: no weight of this DualEncoder is a published one"),
        ({"average_with_start": "auto"}, "auto chooses on validation: set validate.every"),
        ({"average_with_start": 1.5}, "average_with_start: expected a share from 0 to 1, or auto, got 1.5"),
        ({"freeze_towers_until": -1}, "freeze_towers_until: expected a number of steps, at least 0, got -1"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments: dict[str, Any], message: str, shop: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        run(shop, tmp_path, tower=FromScratch(), **arguments)


def test_the_halves_of_a_clip_are_frozen_and_what_joins_them_learns(tmp_path: Path) -> None:
    model = example_checkpoint("clip", tmp_path / "clip")

    def clip(fusion: Fusion | None = None, **arguments: Any) -> CLIP:
        encoder = CLIP(model, fusion=fusion, **arguments)
        encoder.setup(example_products(), tmp_path)
        return encoder

    encoder = clip(Gated(), dim=16)
    weights = PublishedWeights(encoder.train(), freeze_until=2)
    weights.prepare(1)
    learn = {name.partition(".")[0] for name, each in encoder.named_parameters() if each.requires_grad}
    assert learn == {"fusion"} and not encoder.image.training and not encoder.text.training and encoder.training
    weights.prepare(2)
    assert all(each.requires_grad for each in encoder.parameters()) and encoder.image.body.training

    # Alone they have nothing that could learn meanwhile; and without their weights nothing is published.
    with pytest.raises(ValueError, match=r"freeze_towers_until: all weights of this CLIP are published ones"):
        PublishedWeights(clip(), freeze_until=2)
    with pytest.raises(ValueError, match=r"average_with_start: no weight of this CLIP is a published one"):
        StartWeights(clip(pretrained=False), trained=False)


def test_what_a_vision_model_does_not_use_stays_frozen(tmp_path: Path) -> None:
    tower = HFImage(example_checkpoint("dinov2", tmp_path / "dinov2"))
    encoder = DualEncoder(Sum(), image=tower, dim=16)
    encoder.setup(example_products(), tmp_path)
    unused = {name for name, each in encoder.named_parameters() if not each.requires_grad}
    assert unused == {"image.body.embeddings.mask_token"}
    weights = PublishedWeights(encoder, freeze_until=2)
    for step in (0, 2):
        weights.prepare(step)
    assert {name for name, each in encoder.named_parameters() if not each.requires_grad} == unused
