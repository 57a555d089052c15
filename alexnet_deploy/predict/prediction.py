"""What is said of one image: the most probable classes, or an error."""

from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.errors import ImageErrorCode, UsageError


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
    rejected: bool | None = None
    """Whether its confidence is below the given threshold, False for an error; None if no threshold was given."""

    @property
    def ok(self) -> bool:
        """True if the image was classified."""
        return self.error is None

    @property
    def outcome(self) -> str:
        """`ok`, or the error code."""
        return "ok" if self.error is None else self.error.value

    @property
    def confidence(self) -> float | None:
        """Probability of the most probable class, 0..1; None for an error."""
        return self.top[0].probability if self.top else None


def check_threshold(reject: float | None) -> None:
    """Raise UsageError for a threshold of confidence that is not in 0..1; None is no threshold."""
    # Written so that NaN is refused too.
    if reject is not None and not 0 <= reject <= 1:
        raise UsageError(f"reject must be a probability, 0 to 1, got {reject:g}")


def best_guesses(probabilities: np.ndarray, labels: tuple[str, ...], topk: int) -> tuple[Guess, ...]:
    """Return the `topk` most probable classes of one row, float32 (K,), best first, ties by index."""
    order = np.argsort(-probabilities, kind="stable")[:topk]
    return tuple(
        Guess(index=int(index), label=labels[index], probability=float(probabilities[index])) for index in order
    )
