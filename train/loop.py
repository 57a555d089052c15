"""The training loop: epochs of steps, a validation after each, and files that are whole at every moment.

RUN/weights.safetensors    the best epoch so far, by validation error
RUN/last.safetensors       the newest state, also after an interruption
RUN/metrics.jsonl          one line an epoch
"""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_deploy.core.architecture import Architecture
from alexnet_deploy.core.errors import TrainingError
from alexnet_deploy.core.family import PUBLISHED_PREPROCESSING
from alexnet_deploy.core.inputs import Input
from alexnet_deploy.core.network import Network, cut, preprocess, tensors_of
from alexnet_deploy.core.preprocessing import RGB, Preprocessing
from alexnet_deploy.core.versions import tool_versions
from alexnet_deploy.core.views import views_by_name
from alexnet_deploy.core.weights import EpochMetrics, TrainingRecord, Weights, load_weights
from alexnet_deploy.train.augment import color_axes, color_shift, crop_and_mirror
from alexnet_deploy.train.batches import in_batches
from alexnet_deploy.train.dataset import Survey
from alexnet_deploy.train.feed import batches_of
from alexnet_deploy.train.initialise import initialise
from alexnet_deploy.train.recipe import Recipe

BEST = "weights.safetensors"
LAST = "last.safetensors"
METRICS = "metrics.jsonl"

_VALIDATION_BATCH = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where training is, after a step or an epoch."""

    epoch: int
    """1 is the first."""
    num_images: int
    """Training pictures seen so far, over all epochs."""
    total_images: int
    """Training pictures that the whole recipe sees."""
    loss: float
    """Mean cross-entropy of this epoch so far, in nats."""
    images_per_second: float
    """Since training began, validation included."""
    finished: EpochMetrics | None
    """The epoch's results, when it has just ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Validation:
    loss: float
    top1: float
    top5: float
    confusion: np.ndarray


class Trainer:
    """One training run; `run` does it."""

    def __init__(
        self,
        architecture: Architecture,
        recipe: Recipe,
        survey: Survey,
        directory: Path,
        *,
        device: str = "cpu",
        num_workers: int = 0,
    ) -> None:
        """Set up a run of `recipe` on the surveyed pictures, whose files go into the existing `directory`.

        `device` is what choose_device returns; `num_workers` processes decode ahead, 0 decodes in this one.
        """
        self._architecture = architecture.with_num_classes(len(survey.folder.labels))
        self._recipe = recipe
        self._survey = survey
        self._directory = directory
        self._device = torch.device(device)
        self._preprocessing = training_preprocessing(self._architecture.name, recipe, survey)
        self._color_axes = color_axes(survey.covariance)
        self._train, self._validation = (
            batches_of(examples, self._preprocessing.resize, self._device, num_workers=num_workers)
            for examples in (survey.folder.train, survey.folder.validation)
        )
        # Dropout draws from torch's own generator.
        torch.manual_seed(recipe.seed)
        network = Network(self._architecture)
        initialise(network, recipe.initialisation, recipe.seed)
        self._network = network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimizer = torch.optim.SGD(
            _parameter_groups(self._network, recipe.weight_decay), lr=recipe.learning_rate, momentum=recipe.momentum
        )
        # torch counts the epochs that are put up with, one fewer than those after which the rate is divided.
        self._schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._optimizer, factor=0.1, patience=recipe.patience - 1, threshold=1e-4, threshold_mode="abs"
        )
        self._epochs: list[EpochMetrics] = []
        self._best: tuple[float, float] | None = None
        self._best_epoch = 0
        self._confusion = np.zeros((self._architecture.num_classes,) * 2, dtype=np.int64)
        self._started = time.perf_counter()

    def run(self, on_progress: Callable[[Progress], None] = lambda progress: None) -> Path:
        """Train to the recipe's end; return the file of the best epoch's weights.

        When interrupted (KeyboardInterrupt), the state of that moment is saved first, and there is a `weights` file
        in any case. Raises TrainingError where the loss stops being a number; the files of the epochs before stay.
        """
        self._started = time.perf_counter()
        try:
            for epoch in range(1, self._recipe.epochs + 1):
                self._train_epoch(epoch, on_progress)
        except KeyboardInterrupt:
            self._save(LAST)
            # The first best epoch may have been known and not yet written.
            if self._best is None or not (self._directory / BEST).exists():
                self._save(BEST)
            else:
                self._complete_best()
            raise
        self._complete_best()
        return self._directory / BEST

    def _complete_best(self) -> None:
        """Write the whole run's record into the best weights, which were saved before its later epochs."""
        best = load_weights(self._directory / BEST).weights
        assert best.training is not None
        # Which epoch they are of is what their file says: a better one may have been known and not yet written.
        record = msgspec.structs.replace(
            self._record(),
            best_epoch=best.training.best_epoch,
            confusion=best.training.confusion,
        )
        replace(best, training=record).save(self._directory / BEST)

    def _train_epoch(self, epoch: int, on_progress: Callable[[Progress], None]) -> None:
        self._network.train()
        num_examples = len(self._survey.folder.train)
        # Order and augmentation depend on the seed and the epoch alone, and on nothing that they share.
        first_seed = self._recipe.seed * 1_000_003 + 2 * epoch
        shuffling, augmentation = (torch.Generator().manual_seed(first_seed + stream) for stream in (4, 5))
        order = torch.randperm(num_examples, generator=shuffling)
        learning_rate = float(self._optimizer.param_groups[0]["lr"])
        begun, num_seen, loss_sum = time.perf_counter(), 0, 0.0
        before = (epoch - 1) * num_examples
        for images, labels in self._train.batches(in_batches(order, self._recipe.batch_size)):
            loss = self._step(images.to(self._device), labels.to(self._device), augmentation)
            self._check_loss(loss, epoch, learning_rate)
            num_seen += len(images)
            loss_sum += loss * len(images)
            on_progress(self._progress(epoch, before + num_seen, loss_sum / num_seen, None))
        train_seconds = time.perf_counter() - begun
        validation = self._validate()
        # After the last step's weights, which no training loss has seen.
        self._check_loss(validation.loss, epoch, learning_rate)
        metrics = EpochMetrics(
            epoch=epoch,
            learning_rate=learning_rate,
            train_loss=loss_sum / num_seen,
            validation_loss=validation.loss,
            validation_top1=validation.top1,
            validation_top5=validation.top5,
            images_per_second=num_seen / train_seconds,
        )
        self._keep(metrics, validation)
        on_progress(self._progress(epoch, before + num_seen, metrics.train_loss, metrics))

    def _check_loss(self, loss: float, epoch: int, learning_rate: float) -> None:
        if not np.isfinite(loss):
            kept = f"what the epochs before gave is in {self._directory}, and " if self._epochs else ""
            raise TrainingError(
                f"the loss became {loss} in epoch {epoch}; {kept}a --lr under {learning_rate:g} may hold"
            )

    def _step(self, images: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> float:
        crops = crop_and_mirror(images, self._architecture.input_size, generator).float()
        shift = color_shift(len(crops), self._color_axes, self._recipe.color_noise, generator)
        views = preprocess(crops + shift.to(self._device)[:, None, None, :], self._preprocessing)
        loss = functional.cross_entropy(self._network(views.contiguous(memory_format=torch.channels_last)), labels)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.item()

    @torch.inference_mode()
    def _validate(self) -> _Validation:
        """Measure on the validation pictures, centre view."""
        self._network.eval()
        size = self._architecture.input_size
        (center,) = views_by_name("center", size)
        num_classes = self._architecture.num_classes
        num_images = len(self._survey.folder.validation)
        loss_sum, top5 = 0.0, 0
        confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
        for images, on_device in self._validation.batches(in_batches(torch.arange(num_images), _VALIDATION_BATCH)):
            labels = on_device.cpu()
            pixels = preprocess(images.to(self._device), self._preprocessing)
            logits = self._network(cut(pixels, center, size)).cpu()
            loss_sum += functional.cross_entropy(logits, labels, reduction="sum").item()
            guesses = logits.topk(min(5, num_classes)).indices
            top5 += int((guesses == labels[:, None]).any(1).sum())
            np.add.at(confusion, (labels.numpy(), guesses[:, 0].numpy()), 1)
        return _Validation(
            loss=loss_sum / num_images,
            top1=float(np.trace(confusion) / num_images),
            top5=top5 / num_images,
            confusion=confusion,
        )

    def _keep(self, metrics: EpochMetrics, validation: _Validation) -> None:
        self._epochs.append(metrics)
        self._schedule.step(1 - metrics.validation_top1)
        with (self._directory / METRICS).open("ab") as file:
            file.write(msgspec.json.encode(metrics) + b"\n")
        score = (metrics.validation_top1, -metrics.validation_loss)
        if self._best is None or score > self._best:
            self._best, self._best_epoch, self._confusion = score, metrics.epoch, validation.confusion
            self._save(BEST)
        self._save(LAST)

    def _record(self) -> TrainingRecord:
        survey = self._survey
        return TrainingRecord(
            recipe=msgspec.structs.asdict(self._recipe),
            data=Input(name=str(survey.folder.root.resolve())).text,
            data_sha256=survey.sha256,
            num_train=len(survey.folder.train),
            num_validation=len(survey.folder.validation),
            excluded=survey.excluded,
            epochs=tuple(self._epochs),
            best_epoch=self._best_epoch,
            confusion=tuple(tuple(int(count) for count in row) for row in self._confusion),
            interrupted=len(self._epochs) < self._recipe.epochs,
            seconds=time.perf_counter() - self._started,
            device=_device_name(self._device),
        )

    def _save(self, name: str) -> None:
        weights = Weights(
            architecture=self._architecture,
            tensors=tensors_of(self._network),
            preprocessing=self._preprocessing,
            labels=self._survey.folder.labels,
            training=self._record(),
            tools=tool_versions("torch"),
        )
        weights.save(self._directory / name)

    def _progress(self, epoch: int, num_images: int, loss: float, finished: EpochMetrics | None) -> Progress:
        return Progress(
            epoch=epoch,
            num_images=num_images,
            total_images=self._recipe.epochs * len(self._survey.folder.train),
            loss=loss,
            images_per_second=num_images / (time.perf_counter() - self._started),
            finished=finished,
        )


def training_preprocessing(architecture: str, recipe: Recipe, survey: Survey) -> Preprocessing:
    """Return what a network trained on these pictures is fed: their own mean and, unless as the paper, deviation."""
    published = PUBLISHED_PREPROCESSING[architecture]
    deviation = np.sqrt(np.diagonal(survey.covariance))
    # A channel without any variation (one flat colour) would be divided by zero.
    scale = np.ones(3) if recipe.initialisation == "paper" else 1.0 / np.maximum(deviation, 1.0)
    return msgspec.structs.replace(published, mean=_rgb(survey.mean), scale=_rgb(scale))


def _rgb(values: np.ndarray) -> RGB:
    red, green, blue = (float(np.float32(value)) for value in values)
    return (red, green, blue)


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    weights = [tensor for name, tensor in network.named_parameters() if name.endswith(".weight")]
    biases = [tensor for name, tensor in network.named_parameters() if name.endswith(".bias")]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"cpu, {platform.machine()}, {torch.get_num_threads()} threads"
