"""What is said of one image: the most probable classes, or an error."""

from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.errors import ImageErrorCode


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One class with its probability."""

    index: int
    """Line in labels.txt, from 0."""
    label: str
    probability: float
    """0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Result of one input: the most probable classes, or an error."""

    path: str
    """The input's path, with backslash escapes for bytes that are not UTF-8; #0, #1 and so on for images in memory."""
    top: tuple[Guess, ...]
    """The most probable classes, best first, ties by index; empty if the image could not be read."""
    error: ImageErrorCode | None
    """Why the image could not be classified; None if it was."""
    message: str
    """The error as a sentence; empty if there is none."""

    @property
    def ok(self) -> bool:
        """True if the image was classified."""
        return self.error is None


def best_guesses(probabilities: np.ndarray, labels: tuple[str, ...], topk: int) -> tuple[Guess, ...]:
    """Return the `topk` most probable classes of one row, float32 (K,), best first, ties by index."""
    order = np.argsort(-probabilities, kind="stable")[:topk]
    return tuple(
        Guess(index=int(index), label=labels[index], probability=float(probabilities[index])) for index in order
    )
