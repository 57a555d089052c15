"""The training loop: epochs of steps, validation after each epoch, and checkpoints that resume exactly."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import torch

from alexnet_deploy.core.errors import AlexNetDeployError, DivergedError, TrainingError
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION
from alexnet_deploy.core.model.weights import EpochMetrics, Weights
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.train.data.batches import TrainingSet, in_batches
from alexnet_deploy.train.learner.learner import Learner
from alexnet_deploy.train.loop.checkpoint import FORMAT_VERSION, Checkpoint, Position
from alexnet_deploy.train.loop.diagnostics import plateau_remarks
from alexnet_deploy.train.loop.record import (
    NOBODY,
    Observer,
    Progress,
    after_epoch,
    data_name,
    is_over,
    training_preprocessing,
    training_record,
)
from alexnet_deploy.train.loop.run_directory import RunDirectory
from alexnet_deploy.train.loop.validation import validate
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.runtime.placement import HERE, Placement
from alexnet_deploy.train.runtime.rng import epoch_order
from alexnet_deploy.train.runtime.signals import stopping
from alexnet_deploy.train.schedule import learning_rate, mean_decay
from alexnet_deploy.train.start import Start

# Reading the loss synchronises with the GPU.
_STEPS_PER_READING = {"cpu": 1, "cuda": 20}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often a checkpoint is written."""

    share: float = 0.02
    """Largest share of the time: write the next when writing the last took at most this share of the time since."""
    least_seconds: float = 5.0
    """Shortest time between two checkpoints, and before the first."""


class Trainer:
    """One training run; `run` does all of it, or the rest of a resumed one."""

    def __init__(
        self,
        network: Architecture | Start,
        recipe: Recipe,
        data: TrainingSet,
        directory: RunDirectory,
        *,
        placement: Placement = HERE,
        pace: Pace | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        """Set up a run of `recipe` on the images; its files are written to `directory`.

        `network` has as many classes as the images; `pace` is Pace() unless given.
        """
        start = network if isinstance(network, Start) else None
        architecture = network.architecture if isinstance(network, Start) else network
        self._architecture = architecture
        self._basis = None if start is None else start.basis
        self._recipe = recipe
        self._data = data
        self._directory = directory
        self._placement = placement
        self._ranks = placement.ranks
        self._pace = pace or Pace()
        self._observer = observer
        self._preprocessing = (
            training_preprocessing(architecture.name, recipe, data.mean, data.covariance)
            if self._basis is None
            else msgspec.structs.replace(self._basis.preprocessing, decode=recipe.decode)
        )
        self._learner = Learner(
            architecture,
            recipe,
            self._preprocessing,
            data.covariance,
            placement,
            class_counts=data.class_counts,
            start=start,
        )
        self._tools = tool_versions("torch")
        self._position = Position()
        # Tensors of the best epoch; they are saved with the next checkpoint.
        self._best: dict[str, torch.Tensor] | None = None
        self._best_is_saved = True
        self._is_over = False
        self._started = self._saved_at = time.perf_counter()
        self._saving_seconds = self._seconds_before = 0.0
        self._num_images_before = 0

    def go_on_from(self, position: Position, tensors: dict[str, torch.Tensor], best: Weights | None) -> None:
        """Restore a run: its position, its tensors and its best weights.

        Raises TrainingError if the tensors do not fit the network, or the position does not fit the images.
        """
        num_steps = -(-len(self._data.train) // self._recipe.batch_size)
        if position.step > num_steps:
            raise TrainingError(
                f"{self._directory.path}: the checkpoint is at step {position.step:,}, but an epoch of these images "
                f"has {counted(num_steps, 'step')}"
            )
        try:
            self._learner.load_state_dict(tensors)
        except RuntimeError as error:
            raise TrainingError(f"{self._directory.path}: the checkpoint does not fit the network: {error}") from error
        self._position = position
        self._seconds_before = position.seconds
        self._num_images_before = self._num_images()
        if best is not None:
            self._best = {name: torch.from_numpy(values) for name, values in best.tensors.items()}
            is_recorded = best.training is not None and not best.training.interrupted
            self._is_over = is_recorded and is_over(self._recipe, position)

    def run(self) -> None:
        """Train to the end of the recipe, or until early stopping.

        On an interruption (KeyboardInterrupt) or termination (SystemExit) the current state is saved first, and there
        is always a weights file. Raises TrainingError if the loss is not finite; the results of earlier epochs stay.
        The files of a run that was already complete are not changed.
        """
        if self._is_over:
            return
        if self._ranks.is_first:
            self._directory.check_room(self._architecture, self._recipe)
        self._started = self._saved_at = time.perf_counter()
        with stopping(self._ranks.all_reduce) as stop_if_asked:
            try:
                while not is_over(self._recipe, self._position):
                    self._train_epoch(stop_if_asked)
            except (KeyboardInterrupt, SystemExit):
                self._save(with_best=True)
                # torchrun ends all processes when one ends: wait until the first has written.
                self._ranks.barrier()
                raise
            except AlexNetDeployError:
                if not self._best_is_saved:
                    self._directory.save_best(self._best_weights())
                raise
            self._report_early_stop()
            self._save(with_best=True)

    def _report_early_stop(self) -> None:
        position = self._position
        if len(position.epochs) < self._recipe.epochs:
            waited = counted(len(position.epochs) - position.best_epoch, "epoch")
            self._observer.say(f"stopped early: {waited} without improvement since epoch {position.best_epoch}")

    def _train_epoch(self, stop_if_asked: Callable[[], None]) -> None:
        """Do the remaining steps of the current epoch."""
        recipe, start = self._recipe, self._position
        numbers = in_batches(epoch_order(recipe.seed, start.epoch, len(self._data.train)), recipe.batch_size)
        loss_sum = torch.tensor(start.loss_sum, dtype=torch.float64, device=self._placement.device)
        started = time.perf_counter()
        shares = [self._ranks.shard(batch) for batch in numbers[start.step :]]
        for step, (images, targets) in enumerate(self._data.train.batches(shares), start.step):
            rate = learning_rate(recipe, start.epochs, step, len(numbers))
            part = self._ranks.part(len(numbers[step]))
            loss = self._learner.step(
                images,
                targets,
                epoch=start.epoch,
                step=step,
                rate=rate,
                mean_decay=mean_decay(recipe, start.epochs, step, len(numbers)),
                part=part,
            )
            loss_sum += loss * part.num_images
            if (step + 1) % _STEPS_PER_READING[self._placement.device.type] and step + 1 < len(numbers):
                continue
            # From here on every rank has the loss of the whole, as if all had just been resumed.
            loss_sum.fill_(self._ranks.all_reduce_mean(loss_sum.item()))
            self._check_loss(loss_sum.item())
            self._position = msgspec.structs.replace(
                start,
                step=step + 1,
                loss_sum=loss_sum.item(),
                epoch_seconds=start.epoch_seconds + time.perf_counter() - started,
            )
            self._observer.on_progress(self._progress())
            stop_if_asked()
            self._save_if_due()
        metrics = self._finish_epoch(
            learning_rate(recipe, start.epochs, len(numbers) // 2, len(numbers)), stop_if_asked
        )
        self._observer.on_progress(self._progress(metrics))
        stop_if_asked()
        self._save_if_due()

    def _finish_epoch(self, rate: float, stop_if_asked: Callable[[], None]) -> EpochMetrics:
        """Validate and record the epoch; return its metrics."""
        validation = validate(
            self._learner.logits,
            self._data.validation,
            self._preprocessing,
            size=self._architecture.input_size,
            num_classes=self._architecture.num_classes,
            placement=self._placement,
            stop_if_asked=stop_if_asked,
        )
        # Also checks the weights after the last step, which no training loss covers.
        self._check_loss(validation.loss)
        before = self._position
        self._position = after_epoch(before, validation, num_train=len(self._data.train), rate=rate)
        metrics = self._position.epochs[-1]
        if self._ranks.is_first:
            self._note(metrics, before)
        return metrics

    def _note(self, metrics: EpochMetrics, before: Position) -> None:
        """Keep the best weights, log the metrics, and report new remarks."""
        if self._position.best_epoch == metrics.epoch:
            self._best = {name: tensor.clone() for name, tensor in self._learner.weights().items()}
            self._best_is_saved = False
        self._directory.add(metrics)
        remarks, known = (
            plateau_remarks(self._recipe, position.epochs, self._architecture.num_classes)
            for position in (self._position, before)
        )
        for remark in remarks[len(known) :]:
            self._observer.say(remark)

    def _check_loss(self, loss: float) -> None:
        if not np.isfinite(loss):
            position = self._position
            kept = f"the results of earlier epochs are in {self._directory.path}; " if position.epochs else ""
            raise DivergedError(f"the loss became {loss} in epoch {position.epoch}; {kept}{self._lower_rate()}")

    def _lower_rate(self) -> str:
        return f"try a --lr below {learning_rate(self._recipe, self._position.epochs, 0, 1):g}"

    def _save_if_due(self) -> None:
        waited = time.perf_counter() - self._saved_at
        if waited >= self._pace.least_seconds and self._saving_seconds <= self._pace.share * waited:
            self._save(with_best=not self._best_is_saved)

    def _save(self, *, with_best: bool) -> None:
        """Write a checkpoint, and the best weights with the current record; only the first rank writes."""
        if not self._ranks.is_first:
            return
        started = time.perf_counter()
        state = self._learner.state_dict()
        for name, tensor in state.items():
            if not bool(torch.isfinite(tensor).all()):
                raise DivergedError(f"{name} is infinite or NaN in epoch {self._position.epoch}; {self._lower_rate()}")
        checkpoint = Checkpoint(
            format_version=FORMAT_VERSION,
            architecture=self._architecture,
            recipe=self._recipe,
            data=data_name(self._data),
            data_sha256=self._data.sha256,
            decoding=DECODING_VERSION,
            columns=self._placement.is_two_columns,
            start=self._basis,
            machine=self._placement.machine(),
            position=msgspec.structs.replace(self._position, seconds=self._seconds()),
            tools=self._tools,
        )
        self._directory.save(checkpoint, state, self._best_weights() if with_best else None)
        self._best_is_saved = self._best_is_saved or with_best
        self._saved_at = time.perf_counter()
        self._saving_seconds = self._saved_at - started

    def _best_weights(self) -> Weights:
        """Return the best epoch's weights, or the current ones if there is none, with the record of the run so far."""
        best = self._learner.weights() if self._best is None else self._best
        return Weights(
            architecture=self._architecture,
            tensors={name: tensor.cpu().numpy() for name, tensor in best.items()},
            preprocessing=self._preprocessing,
            labels=self._data.class_names,
            training=training_record(
                self._recipe,
                self._data,
                self._position,
                start=None if self._basis is None else self._basis.record,
                device=self._placement.device,
                seconds=self._seconds(),
            ),
            tools=self._tools,
        )

    def _seconds(self) -> float:
        return self._seconds_before + time.perf_counter() - self._started

    def _num_images(self) -> int:
        """Return the number of training images seen."""
        num_train, position = len(self._data.train), self._position
        return (position.epoch - 1) * num_train + min(position.step * self._recipe.batch_size, num_train)

    def _progress(self, finished: EpochMetrics | None = None) -> Progress:
        position, num_images = self._position, self._num_images()
        num_seen = num_images - (position.epoch - 1) * len(self._data.train)
        return Progress(
            epoch=position.epoch if finished is None else finished.epoch,
            num_images=num_images,
            total_images=self._recipe.epochs * len(self._data.train),
            loss=position.loss_sum / num_seen if finished is None else finished.train_loss,
            images_per_second=(num_images - self._num_images_before) / (time.perf_counter() - self._started),
            finished=finished,
        )
