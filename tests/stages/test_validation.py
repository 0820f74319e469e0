"""Validation on the way changes no bit of a training, survives interruptions, and keeps the best weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import moonlib.compat  # noqa: F401
import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from moonlib.adapters.id_only import IdOnly
from moonlib.data.dataset import Dataset
from moonlib.data.images import decode_image
from moonlib.data.splits import Splits
from moonlib.encoders.dual import DualEncoder
from moonlib.encoders.tower import ImageTower
from moonlib.encoders.transformer import Transformer
from moonlib.encoders.weights import load_weights
from moonlib.fusion.sum import Sum
from moonlib.losses.info_nce import InfoNCE
from moonlib.negatives.in_batch import InBatch
from moonlib.predictors.mlp import MLP
from moonlib.stages import validation as module
from moonlib.stages.application import Application, ImpressionData
from moonlib.stages.posttraining import Posttraining, SearchData
from moonlib.stages.stage import Stage, StageContext
from moonlib.stages.training import NotLogged
from moonlib.stages.validation_schedule import Keep, ValidationSchedule

EVERY_TWO = ValidationSchedule(every=2, ks=[1, 5])
STEPS = 6


class LoadSmall:
    def __call__(self, data: bytes, box: Any = None, /) -> Tensor:
        return decode_image(data, box, size=16)


class Noisy(ImageTower):
    """A tower with batch statistics and dropout: what an evaluation in between would disturb first."""

    image_size, out_features, load_image = 16, 8, LoadSmall()

    def setup(self) -> None:
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(768, 8), nn.BatchNorm1d(8), nn.Dropout(0.2))

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image.float() / 255)


def noisy_encoder() -> DualEncoder:
    text = Transformer(vocab_size=300, width=16, depth=1, heads=2, max_length=12)
    return DualEncoder(Sum(), Noisy(), text, dim=8)


def posttraining(**arguments: Any) -> Posttraining:
    return Posttraining(InfoNCE(), [InBatch()], **arguments)


def run(
    shop: Dataset,
    directory: Path,
    stage: Stage | None = None,
    *callbacks: Callback,
    validate: ValidationSchedule | None = EVERY_TWO,
    keep: Keep = "last",
    data: Any = None,
    **trainer: Any,
) -> dict[str, float]:
    """Train in ``directory``, from what an earlier call has left there."""
    directory.mkdir(exist_ok=True, parents=True)
    encoder = noisy_encoder()
    seed_everything(0, verbose=False)
    encoder.setup(shop.splits.known(shop.products), directory)
    seed_everything(1, verbose=False)
    return (stage or posttraining()).run(
        StageContext(
            dataset=shop,
            data=data or SearchData({"image -> image": 0.5, "text -> title": 0.5}, batch_size=8, workers=0),
            trainer=Trainer(
                accelerator="cpu",
                logger=CSVLogger(directory, name="", version="csv"),
                callbacks=list(callbacks),
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                use_distributed_sampler=False,
                log_every_n_steps=1,
                **(trainer or {"max_steps": STEPS}),
            ),
            directory=directory,
            seed=1,
            encoder=encoder,
            checkpoint_seconds=0.0,
            name="posttrain",
            validate=validate,
            keep=keep,
        )
    )


def weights(directory: Path) -> bytes:
    return (directory / "weights.safetensors").read_bytes()


def history(directory: Path) -> dict[int, dict[str, float]]:
    found = json.loads((directory / "validation.json").read_text())["history"]
    return {row.pop("step"): row for row in found}


class Killed(Exception):
    pass


class KillAfter(Callback):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_train_batch_start(self, *rest: Any) -> None:
        if not self.left:
            raise Killed
        self.left -= 1


class Kept(Callback):
    """Keeps the encoder's weights after every step."""

    def __init__(self) -> None:
        self.states: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: Trainer, stage: LightningModule, *rest: Any) -> None:
        encoder: nn.Module = stage.encoder  # type: ignore[assignment]
        self.states[trainer.global_step] = {name: each.clone() for name, each in encoder.state_dict().items()}


def scripted(monkeypatch: pytest.MonkeyPatch, values: dict[int, float], name: str = "recall@5") -> None:
    """Let validation find these values at these steps."""

    def measured(self: module.Validation, trainer: Trainer) -> dict[str, float]:
        return dict.fromkeys(self.names, 0.0) | {name: values[trainer.global_step]}

    monkeypatch.setattr(module.Validation, "measured", measured)


def test_validation_changes_no_bit_of_the_training(shop: Dataset, tmp_path: Path) -> None:
    class Drawn(Callback):
        def on_train_batch_end(self, *rest: Any) -> None:
            drawn.append((float(torch.rand(())), float(np.random.rand())))  # noqa: NPY002

    drawn: list[tuple[float, float]] = []
    run(shop, tmp_path / "without", None, Drawn(), validate=None)
    without, drawn = drawn, []
    metrics = run(shop, tmp_path / "with", None, Drawn())
    assert weights(tmp_path / "with") == weights(tmp_path / "without") and drawn == without
    assert list(history(tmp_path / "with")) == [0, 2, 4, 6]
    last = history(tmp_path / "with")[6]
    assert metrics == {"valid/posttrain/step": 6, **{f"valid/posttrain/{name}": value for name, value in last.items()}}
    assert last["recall@5"] == pytest.approx((last["image->image/recall@5"] + last["text->title/recall@5"]) / 2)
    assert not (tmp_path / "without/validation.json").exists() and not (tmp_path / "with/best").exists()


@pytest.mark.parametrize("keep", ["last", "best"])
def test_killed_after_every_step_it_ends_with_the_same_weights_and_the_same_best(
    keep: Keep, shop: Dataset, tmp_path: Path
) -> None:
    unbroken = run(shop, tmp_path / "unbroken", keep=keep)
    for _ in range(STEPS - 1):  # the last step ends it
        with pytest.raises(Killed):
            run(shop, tmp_path / "killed", None, KillAfter(1), keep=keep)
    assert run(shop, tmp_path / "killed", keep=keep) == unbroken
    assert weights(tmp_path / "killed") == weights(tmp_path / "unbroken")
    assert (tmp_path / "killed/validation.json").read_text() == (tmp_path / "unbroken/validation.json").read_text()
    assert len(list((tmp_path / "killed").glob("best/*"))) <= 2


def test_keep_best_leaves_the_weights_of_the_best_step(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {0: 0.1, 2: 0.5, 4: 0.5, 6: 0.3})
    kept = Kept()
    metrics = run(shop, tmp_path, None, kept, keep="best")
    assert metrics["valid/posttrain/step"] == 2 and metrics["valid/posttrain/recall@5"] == 0.5
    found = noisy_encoder()
    found.setup(shop.splits.known(shop.products), tmp_path)
    load_weights(found, tmp_path / "weights.safetensors")
    assert all(torch.equal(each, kept.states[2][name]) for name, each in found.state_dict().items())


def test_a_run_that_only_gets_worse_keeps_what_it_started_from(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {0: 0.5, 2: 0.4, 4: 0.3, 6: 0.3})
    assert run(shop, tmp_path, keep="best")["valid/posttrain/step"] == 0


def test_best_weights_that_are_gone_are_missed_when_it_resumes(shop: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(shop, tmp_path, None, KillAfter(3), keep="best")
    for file in tmp_path.glob("best/*/*"):
        file.unlink()
    with pytest.raises(ValueError, match=r"weights\.safetensors is missing, the best weights so far; delete"):
        run(shop, tmp_path, keep="best")


def test_an_early_stopping_looks_after_each_validation(
    shop: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, {0: 0.5, 2: 0.4, 4: 0.3, 6: 0.3})
    stop = EarlyStopping(monitor="validation/recall@5", mode="max", patience=2)
    run(shop, tmp_path, None, stop)
    assert list(history(tmp_path)) == [0, 2, 4]


def test_a_metric_that_validation_does_not_measure_is_told(shop: Dataset, tmp_path: Path) -> None:
    with pytest.raises(NotLogged, match=r"monitors 'validation/recall@7'.*validation/recall@5"):
        run(shop, tmp_path / "stop", None, EarlyStopping(monitor="validation/recall@7"))
    with pytest.raises(ValueError, match=r"validate\.metric: 'recall@7' is not measured here, only recall@5, recall@1"):
        run(shop, tmp_path / "metric", validate=ValidationSchedule(every=2, ks=[1, 5], metric="recall@7"))


def test_the_log_has_a_row_for_every_validation_and_loses_none_on_the_way(shop: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(shop, tmp_path, None, KillAfter(3))
    run(shop, tmp_path)
    with (tmp_path / "csv/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = {int(row["step"]): float(row["validation/recall@5"]) for row in rows if row["validation/recall@5"]}
    assert logged == {step: values["recall@5"] for step, values in history(tmp_path).items()}
    assert [int(row["step"]) for row in rows if row["loss"]] == list(range(STEPS))


def test_an_application_is_measured_on_impressions(shop: Dataset, tmp_path: Path) -> None:
    def application() -> Application:
        return Application(IdOnly(), MLP())

    found = {}
    for name, validate in (("without", None), ("with", ValidationSchedule(every=3, metric="logloss"))):
        data = ImpressionData(batch_size=64)
        found[name] = run(shop, tmp_path / name, application(), validate=validate, data=data, max_epochs=2)
    assert weights(tmp_path / "with") == weights(tmp_path / "without")
    assert {key: found["with"][key] for key in found["without"]} == found["without"]
    steps = history(tmp_path / "with")
    # All impressions of the validation days are fewer than `rows`.
    assert steps[max(steps)]["auc"] == pytest.approx(found["with"]["valid/ctr/auc"])
    assert steps[max(steps)]["logloss"] == pytest.approx(found["with"]["valid/ctr/logloss"])
    best = run(
        shop,
        tmp_path / "best",
        application(),
        validate=ValidationSchedule(every=1, metric="logloss"),
        keep="best",
        data=ImpressionData(batch_size=64),
        max_epochs=4,
    )
    values = {step: values["logloss"] for step, values in history(tmp_path / "best").items()}
    assert values[int(best["valid/posttrain/step"])] == min(values.values())
    assert best["valid/ctr/logloss"] == pytest.approx(min(values.values()))


def test_without_validation_days_a_part_of_the_pairs_is_held_out_and_said_so(
    shop: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undivided = Dataset(shop.directory)
    undivided.splits = Splits(*[shop.splits.test_until] * 4)
    run(undivided, tmp_path)
    assert "nothing is asked on validation days" in caplog.text and "are held out of training" in caplog.text
    assert list(history(tmp_path)) == [0, 2, 4, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"every": 1, "gallery": 0}, "gallery must be at least 1"),
        ({"every": 1, "ks": []}, "ks: expected numbers of at least 1"),
        ({"every": 1, "ks": [0]}, "ks: expected numbers of at least 1"),
    ],
)
def test_a_schedule_of_nothing_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ValidationSchedule(**arguments)
