"""Training runs of about a second on painted images, and their results."""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import narrowed
from PIL import Image

from alexnet_deploy.core.model.family import ARCHITECTURES, PUBLISHED_PREPROCESSING
from alexnet_deploy.core.model.network import Network
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.core.model.weights import EpochMetrics, TrainingRecord, Weights, load_weights
from alexnet_deploy.train.data.batches import TrainingSet
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.loop.checkpoint import CHECKPOINT, load_checkpoint, load_tensors
from alexnet_deploy.train.loop.record import Observer, Progress
from alexnet_deploy.train.loop.run_directory import BEST
from alexnet_deploy.train.loop.trainer import Pace
from alexnet_deploy.train.recipe import Recipe, with_settings
from alexnet_deploy.train.run import look_over, train
from alexnet_deploy.train.runtime.placement import Placement

NARROW = narrowed(ARCHITECTURES["paper"])


RECIPE = Recipe(name="test", epochs=2, batch_size=4, learning_rate=0.005, patience=9)


RED, GREEN, BLUE, GREY = (200, 40, 30), (40, 180, 60), (30, 60, 190), (120, 120, 120)


def paint(root: Path, classes: Mapping[str, tuple[tuple[int, int, int], ...]], num_train: int = 5) -> Path:
    """Paint a folder: per class one colour for training and, if a second is given, that one for validation."""
    rng = np.random.default_rng(0)
    for name, colors in classes.items():
        for side, color, num in (("train", colors[0], num_train), ("val", colors[-1], 2)):
            (root / side / name).mkdir(parents=True)
            for number in range(num):
                pixels = np.clip(rng.normal(color, 12.0, (64, 64, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / side / name / f"{number}.png")
    return root


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run and its recorded progress."""

    directory: Path
    survey: Survey
    recipe: Recipe
    best: Weights
    last: Weights
    """The network at the end of the run."""
    progress: list[Progress]
    after_epochs: list[Weights]
    """The network after each epoch."""

    @property
    def epochs(self) -> tuple[EpochMetrics, ...]:
        return record_of(self.best).epochs


def record_of(weights: Weights) -> TrainingRecord:
    assert weights.training is not None
    return weights.training


ALWAYS = Pace(share=math.inf, least_seconds=0.0)
"""Saves a checkpoint after every step."""


def network_in(out: Path) -> Weights:
    """Return the network in a run's checkpoint, without its training record."""
    checkpoint = load_checkpoint(out / CHECKPOINT)
    tensors = load_tensors(out / CHECKPOINT, checkpoint).items()
    return Weights(
        architecture=checkpoint.architecture,
        tensors={name.removeprefix("network."): t.numpy() for name, t in tensors if name.startswith("network.")},
        preprocessing=PUBLISHED_PREPROCESSING["paper"],
        labels=tuple(f"class {number}" for number in range(checkpoint.architecture.num_classes)),
        training=None,
        tools={},
    )


def trained(survey: Survey, out: Path, *, threads: int | None = None, **changes: object) -> Run:
    recipe = with_settings(RECIPE, changes)
    progress, after_epochs = [], []

    def note(now: Progress) -> None:
        progress.append(now)
        if now.finished:
            after_epochs.append(network_in(out))

    path = train(
        survey,
        NARROW,
        recipe,
        out,
        placement=Placement(threads=threads),
        pace=ALWAYS,
        observer=Observer(on_progress=note),
    )
    assert path == out / BEST
    return Run(
        directory=out,
        survey=survey,
        recipe=recipe,
        best=load_weights(path).weights,
        last=network_in(out),
        progress=progress,
        after_epochs=after_epochs,
    )


class InMemory:
    """Images in memory, uint8 (N, 256, 256, 3), with their labels."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self._images, self._labels = images, labels

    def __len__(self) -> int:
        return len(self._images)

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in numbers:
            yield self._images[batch], self._labels[batch]


def memory_set(num_train: int = 12, num_validation: int = 6, shift: int = 0) -> TrainingSet:
    """Return red and blue images in memory, without files."""
    rng = np.random.default_rng(3)
    colors = np.array((RED, BLUE))
    labels = np.arange(num_train + num_validation) % 2
    pixels = rng.normal(colors[labels][:, None, None, :], 60.0, (len(labels), 256, 256, 3)) + shift
    images, labels = torch.from_numpy(np.clip(pixels, 0, 255).astype(np.uint8)), torch.from_numpy(labels)
    return TrainingSet(
        root=Path("nowhere"),
        class_names=("red", "blue"),
        train=InMemory(images[:num_train], labels[:num_train]),
        validation=InMemory(images[num_train:], labels[num_train:]),
        excluded={},
        sha256=hashlib.sha256(images.numpy().data).hexdigest(),
        class_counts=tuple(np.bincount(labels[:num_train].numpy(), minlength=2).tolist()),
        mean=np.array([115.0, 50.0, 110.0]),
        covariance=np.diag([900.0, 400.0, 900.0]),
    )


def at_step(number: int, act: Callable[[], None]) -> Callable[[Progress], None]:
    """Return an observer that calls `act` once, after `number` steps; ends of epochs do not count as steps."""
    steps = []

    def count(now: Progress) -> None:
        if now.finished is None:
            steps.append(now)
            if len(steps) == number:
                act()

    return count


def interrupt() -> None:
    raise KeyboardInterrupt


def are_equal(one: Weights, other: Weights) -> bool:
    return all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


def flat_folder(root: Path, colors: dict[str, tuple[int, int, int]]) -> Survey:
    for name, color in colors.items():
        for path in (root / "train" / name / "0.png", root / "train" / name / "1.png", root / "val" / name / "2.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), color).save(path)
    return look_over(root, SHORTER_SIDE)


def fed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[np.ndarray]]:
    """Record every batch that a network gets from here on, (N, 3, H, W), in training and in validation."""
    batches: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    forward = Network.forward

    def note(network: Network, x: torch.Tensor) -> torch.Tensor:
        batches["train" if network.training else "validation"].append(x.numpy().copy())
        return forward(network, x)

    monkeypatch.setattr(Network, "forward", note)
    return batches
