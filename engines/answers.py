"""Validation of an engine's output against the contract, before the caller gets it."""

from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.errors import WrongAnswerError

SUM_BOUND = 1e-3
"""Largest deviation from 1 of a row's sum. Softmax and average are float32 in every graph: the rows of six narrow
architectures, of 4 and 1,000 classes, in every precision on both CPU engines, deviated by at most 1.2e-7."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The part of a run that a backend got as one batch."""

    start: int
    """Index of the first image."""
    num_images: int
    """Images in this batch."""
    num_in_all: int
    """Images in the whole run."""


def refuse_wrong_answer(answer: np.ndarray, asked: Asked, output: Output, who: str) -> None:
    """Raise WrongAnswerError unless `answer` is probabilities, float32 (N, K), finite, with rows that sum to 1.

    Features, float32 (N, D), must only be finite.

    `who` names the backend and the bundle.
    """
    shape = (asked.num_images, output.size)
    if answer.shape != shape or answer.dtype != np.float32:
        raise WrongAnswerError(
            f"{who} for images[{asked.start}:{asked.start + asked.num_images}] of {asked.num_in_all}: got "
            f"{answer.dtype} {answer.shape}, expected float32 {shape}",
            image=asked.start,
        )
    sums = answer.sum(axis=1, dtype=np.float64)
    if output.layer is not None:
        is_right = np.isfinite(sums)
    else:
        # Written so that NaN fails too: a sum propagates it.
        is_right = (np.abs(sums - 1.0) <= SUM_BOUND) & (answer.min(axis=1) >= 0.0)
    if is_right.all():
        return
    row = int(is_right.argmin())
    if not np.isfinite(answer[row]).all():
        found = f"{output.name} are NaN or infinite"
    elif answer[row].min() < 0.0:
        found = f"a probability is {answer[row].min():.3g}"
    else:
        found = f"probabilities sum to {sums[row]:.6g}, expected 1"
    place = asked.start + row
    raise WrongAnswerError(f"{who} for images[{place}] of {asked.num_in_all}: {found}", image=place)
