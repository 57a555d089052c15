"""Training runs of a second on painted pictures, and what they leave behind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from networks import narrowed
from PIL import Image

from alexnet_deploy.core.family import ARCHITECTURES
from alexnet_deploy.core.network import Network
from alexnet_deploy.core.weights import EpochMetrics, TrainingRecord, Weights, load_weights
from alexnet_deploy.train.dataset import Survey
from alexnet_deploy.train.loop import BEST, LAST, Progress
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.run import look_over, train_on

NARROW = narrowed(ARCHITECTURES["paper"])


RECIPE = Recipe(name="test", epochs=2, batch_size=4, learning_rate=0.005, patience=9)


RED, GREEN, BLUE, GREY = (200, 40, 30), (40, 180, 60), (30, 60, 190), (120, 120, 120)


def paint(root: Path, classes: Mapping[str, tuple[tuple[int, int, int], ...]], num_train: int = 5) -> Path:
    """Paint a folder: for each class a colour to train on and, where there is a second, another to validate on."""
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
    """A finished run with what was seen on the way."""

    directory: Path
    survey: Survey
    recipe: Recipe
    best: Weights
    last: Weights
    progress: list[Progress]
    after_epochs: list[Weights]
    """last.safetensors as it was after each epoch."""

    @property
    def epochs(self) -> tuple[EpochMetrics, ...]:
        return record_of(self.best).epochs


def record_of(weights: Weights) -> TrainingRecord:
    assert weights.training is not None
    return weights.training


def trained(survey: Survey, out: Path, *, num_workers: int = 0, **changes: int | float | str) -> Run:
    recipe = msgspec.structs.replace(RECIPE, **changes)
    progress, after_epochs = [], []

    def note(now: Progress) -> None:
        progress.append(now)
        if now.finished:
            after_epochs.append(load_weights(out / LAST).weights)

    path = train_on(survey, NARROW, recipe, out, num_workers=num_workers, on_progress=note)
    assert path == out / BEST
    return Run(
        directory=out,
        survey=survey,
        recipe=recipe,
        best=load_weights(path).weights,
        last=load_weights(out / LAST).weights,
        progress=progress,
        after_epochs=after_epochs,
    )


def at_step(number: int, act: Callable[[], None]) -> Callable[[Progress], None]:
    """Return what acts once, after so many steps; the ends of epochs do not count."""
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
    return look_over(root, NARROW)


def fed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[np.ndarray]]:
    """Note every batch that a network is given from now on, (N, 3, H, W), in training and in validation."""
    batches: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    forward = Network.forward

    def note(network: Network, x: torch.Tensor) -> torch.Tensor:
        batches["train" if network.training else "validation"].append(x.numpy().copy())
        return forward(network, x)

    monkeypatch.setattr(Network, "forward", note)
    return batches
