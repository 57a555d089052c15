"""What a run reports: progress while it runs, and the training record in its weights."""

import platform
from collections.abc import Callable, Collection
from dataclasses import dataclass

import msgspec
import numpy as np
import torch

from alexnet_deploy.core.fs.run_files import LogKind
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.model.family import preprocessing_for
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION, RGB, Preprocessing
from alexnet_deploy.core.model.weights import EpochMetrics, StartRecord, TrainingRecord
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.train.data.batches import TrainingSet
from alexnet_deploy.train.loop.checkpoint import Position
from alexnet_deploy.train.loop.diagnostics import plateau_remarks
from alexnet_deploy.train.loop.validation import Validation
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.schedule import has_ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Progress of training after a step or an epoch."""

    epoch: int
    """The epoch; the first is 1."""
    num_images: int
    """Training images seen so far, over all epochs."""
    total_images: int
    """Training images of the whole recipe, over all epochs."""
    loss: float
    """Mean loss of this epoch so far, in nats."""
    images_per_second: float
    """Throughput since this process started training, including validation."""
    finished: EpochMetrics | None
    """Metrics of the epoch, if it has just ended."""


def _nothing(progress: Progress) -> None:
    """Ignore the progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observer:
    """Receivers of a run's messages and progress; none by default."""

    say: Say = say_nothing
    """Called with each message for the user."""
    on_progress: Callable[[Progress], None] = _nothing
    """Called after each step whose loss is read, and after each epoch."""
    logs: Collection[LogKind] = ()
    """Logs to write beside metrics.jsonl, in addition to those that an earlier part of the run created."""


NOBODY = Observer()


def after_epoch(position: Position, validation: Validation, *, num_train: int, rate: float) -> Position:
    """Return the position after an epoch's validation."""
    metrics = EpochMetrics(
        epoch=position.epoch,
        learning_rate=rate,
        train_loss=position.loss_sum / num_train,
        validation_loss=validation.loss,
        validation_top1=validation.top1,
        validation_top5=validation.top5,
        images_per_second=num_train / position.epoch_seconds,
    )
    epochs = (*position.epochs, metrics)
    is_best = not position.best_epoch or _score(metrics) > _score(epochs[position.best_epoch - 1])
    confusion = tuple(tuple(int(count) for count in row) for row in validation.confusion)
    return Position(
        epoch=position.epoch + 1,
        epochs=epochs,
        best_epoch=position.epoch if is_best else position.best_epoch,
        confusion=confusion if is_best else position.confusion,
    )


def is_over(recipe: Recipe, position: Position) -> bool:
    """Return whether a run at this position is complete."""
    return has_ended(
        num_epochs=recipe.epochs,
        early_stopping=recipe.early_stopping,
        epochs_done=len(position.epochs),
        best_epoch=position.best_epoch,
    )


def training_record(
    recipe: Recipe,
    data: TrainingSet,
    position: Position,
    *,
    start: StartRecord | None,
    device: torch.device,
    seconds: float,
) -> TrainingRecord:
    """Return the training record of the weights at this position of their run."""
    num_classes = len(data.class_names)
    return TrainingRecord(
        recipe=msgspec.structs.asdict(recipe),
        data=data_name(data),
        data_sha256=data.sha256,
        num_train=len(data.train),
        num_validation=len(data.validation),
        excluded=dict(data.excluded),
        epochs=position.epochs,
        best_epoch=position.best_epoch,
        confusion=position.confusion or ((0,) * num_classes,) * num_classes,
        interrupted=not is_over(recipe, position),
        seconds=seconds,
        device=_device_name(device),
        decoding=DECODING_VERSION,
        start=start,
        remarks=plateau_remarks(recipe, position.epochs, num_classes),
    )


def data_name(data: TrainingSet) -> str:
    """Return the absolute path of the images as text."""
    return Input(name=str(data.root.resolve())).text


def training_preprocessing(
    architecture: str, recipe: Recipe, mean: np.ndarray, covariance: np.ndarray
) -> Preprocessing:
    """Return the preprocessing for these images: their mean, and with `kaiming` also their standard deviation."""
    published = preprocessing_for(architecture)
    deviation = np.sqrt(np.diagonal(covariance))
    # A channel without variation (one flat colour) would be divided by zero.
    scale = 1.0 / np.maximum(deviation, 1.0) if recipe.initialisation == "kaiming" else np.ones(3)
    return msgspec.structs.replace(published, mean=_rgb(mean), scale=_rgb(scale), decode=recipe.decode)


def _score(metrics: EpochMetrics) -> tuple[float, float]:
    return (metrics.validation_top1, -metrics.validation_loss)


def _rgb(values: np.ndarray) -> RGB:
    red, green, blue = (float(np.float32(value)) for value in values)
    return (red, green, blue)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {platform.machine()}, {counted(torch.get_num_threads(), 'thread')}"
