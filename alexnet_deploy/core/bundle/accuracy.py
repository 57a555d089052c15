"""Accuracy records of a bundle: the candidate graph and the trained network on the same labelled images."""

import math
from typing import Self

import msgspec
from msgspec import Struct

Z_95 = 1.959964
"""97.5 % quantile of the standard normal distribution, for a two-sided 95 % interval."""


def share_interval(num_right: int, num_images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval, 0..1, of a measured share of `num_right` out of `num_images`.

    It stays within 0..1 and keeps a width above 0 if all or none are right. Source: Wilson 1927, "Probable inference,
    the law of succession, and statistical inference".
    """
    share, weight = num_right / num_images, Z_95**2 / num_images
    middle = (share + weight / 2) / (1 + weight)
    margin = math.sqrt(share * (1 - share) * weight + weight**2 / 4) / (1 + weight)
    return max(0.0, middle - margin), min(1.0, middle + margin)


class Flip(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An image with different top-1 predictions from the trained network and the graph."""

    path: str
    """Path relative to the folder of labelled images."""
    truth: str
    reference: str
    """Top-1 prediction of the trained network."""
    candidate: str
    """Top-1 prediction of the graph."""


class Accuracy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Accuracy of the trained network and the graph on the same images; shares are 0..1."""

    images_sha256: str = msgspec.field(name="pictures_sha256")
    """Digest of the names and bytes of the images."""
    num_images: int
    reference_top1: float
    reference_top5: float
    candidate_top1: float
    candidate_top5: float
    drop_points: float
    """Drop in top-1 accuracy from the trained network to the candidate, in percentage points; negative for a gain."""
    interval_points: tuple[float, float]
    """95 % confidence interval of the paired difference, in percentage points."""
    max_drop_points: float
    """Allowed drop; the gate compares it with `drop_points`, not with the interval."""
    flips: tuple[Flip, ...]

    @property
    def passed(self) -> bool:
        """True if the drop is at most the allowed one; NaN does not pass."""
        return self.drop_points <= self.max_drop_points


class Fallback(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A layer returned to float because the gate failed with it in INT8."""

    layer: str
    because: str
    """The measurement that failed, in words."""


class Gate(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The accuracy checks that an INT8 graph had to pass."""

    accuracy: Accuracy | None
    """None if there were no labelled images."""
    calibration_agreement: float | None
    """Without labelled images: share of calibration images with the network's top-1 prediction, near ties excluded; of
    features, share of images within the tolerance of the cosine distance."""
    sensitivity: dict[str, float]
    """For each layer: mean Kullback-Leibler divergence, in nats, from the FP32 graph if only this layer is in INT8; of
    features, mean cosine distance."""
    fallbacks: tuple[Fallback, ...]
    """In order."""

    def __post_init__(self) -> None:
        if (self.accuracy is None) == (self.calibration_agreement is None):
            raise ValueError("a gate has either accuracy or calibration_agreement")

    @property
    def measured(self) -> Accuracy | float:
        """The measurement that decided: the accuracy, or else the agreement on the calibration images, 0..1."""
        if self.accuracy is not None:
            return self.accuracy
        assert self.calibration_agreement is not None
        return self.calibration_agreement

    @classmethod
    def by(cls, measured: Accuracy | float, sensitivity: dict[str, float], fallbacks: tuple[Fallback, ...]) -> Self:
        """Return the gate that this measurement decided."""
        accuracy, agreement = (measured, None) if isinstance(measured, Accuracy) else (None, measured)
        return cls(accuracy=accuracy, calibration_agreement=agreement, sensitivity=sensitivity, fallbacks=fallbacks)
