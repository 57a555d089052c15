"""What an engine answers, held against the contract before anybody sees it."""

from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.errors import WrongAnswerError

SUM_BOUND = 1e-3
"""How far from 1 a row of probabilities may sum. Softmax and average are float32 in every graph: the rows of six narrow
architectures, of 4 and 1,000 classes, in every precision on both CPU engines, strayed by 1.2e-7 at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which images of a run a backend was asked for at once."""

    start: int
    """The first."""
    num_images: int
    """How many."""
    num_in_all: int
    """Images of the run."""


def refuse_wrong_answer(answer: np.ndarray, asked: Asked, num_classes: int, who: str) -> None:
    """Raise WrongAnswerError unless these are probabilities, float32 (N, K), finite, whose rows sum to 1.

    `who` says which backend, and of which bundle.
    """
    shape = (asked.num_images, num_classes)
    if answer.shape != shape or answer.dtype != np.float32:
        raise WrongAnswerError(
            f"{who} for images[{asked.start}:{asked.start + asked.num_images}] of {asked.num_in_all}: {answer.dtype} "
            f"{answer.shape}, where float32 {shape} is needed",
            image=asked.start,
        )
    sums = answer.sum(axis=1, dtype=np.float64)
    # Written so that NaN is wrong too, which a sum keeps.
    is_right = (np.abs(sums - 1.0) <= SUM_BOUND) & (answer.min(axis=1) >= 0.0)
    if is_right.all():
        return
    row = int(is_right.argmin())
    if not np.isfinite(answer[row]).all():
        found = "probabilities are NaN or infinite"
    elif answer[row].min() < 0.0:
        found = f"a probability is {answer[row].min():.3g}"
    else:
        found = f"probabilities sum to {sums[row]:.6g}, not 1"
    place = asked.start + row
    raise WrongAnswerError(f"{who} for images[{place}] of {asked.num_in_all}: {found}", image=place)
