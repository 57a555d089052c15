"""What a bundle says of its accuracy: the candidate and the trained network on the same labelled images."""

import math

import msgspec
from msgspec import Struct

Z_95 = 1.959964
"""The standard normal's 97.5 % quantile: two sides make 95 %."""


def share_interval(num_right: int, num_images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval, 0..1, of a share that was found to be `num_right` of `num_images`.

    It stays within 0..1 and does not shrink to nothing where all or none are right. Source: Wilson 1927, "Probable
    inference, the law of succession, and statistical inference".
    """
    share, weight = num_right / num_images, Z_95**2 / num_images
    middle = (share + weight / 2) / (1 + weight)
    margin = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return max(0.0, middle - margin), min(1.0, middle + margin)


class Flip(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image of which the two do not say the same first."""

    path: str
    """Below the folder that was measured on."""
    truth: str
    reference: str
    """The trained network's first guess."""
    candidate: str
    """The graph's."""


class Accuracy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both on the same images; shares are 0..1."""

    images_sha256: str = msgspec.field(name="pictures_sha256")
    """Digest of the names and bytes of the images."""
    num_images: int
    reference_top1: float
    reference_top5: float
    candidate_top1: float
    candidate_top5: float
    drop_points: float
    """Percentage points of top-1 that the candidate is below the trained network; negative where it is above."""
    interval_points: tuple[float, float]
    """95 % confidence interval of the paired difference, in points."""
    max_drop_points: float
    """What was allowed; the gate acts on `drop_points` itself."""
    flips: tuple[Flip, ...]

    @property
    def passed(self) -> bool:
        """True where the drop is no more than was allowed; NaN does not pass."""
        return self.drop_points <= self.max_drop_points


class Fallback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A layer that went back to float because the gate did not hold with it in INT8."""

    layer: str
    because: str
    """What had been measured, in words."""


class Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an INT8 graph had to pass."""

    accuracy: Accuracy | None
    """None: not measured, for want of labelled images."""
    calibration_agreement: float | None
    """Without them: share of the calibration images with the trained network's first guess, near ties left out."""
    sensitivity: dict[str, float]
    """For each layer: mean Kullback-Leibler divergence, in nats, from the FP32 graph when it alone is in INT8."""
    fallbacks: tuple[Fallback, ...]
    """In the order in which they were made."""
