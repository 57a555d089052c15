"""What a bundle says of its accuracy: the candidate and the trained network on the same labelled pictures."""

from msgspec import Struct


class Flip(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A picture of which the two do not say the same first."""

    path: str
    """Below the folder that was measured on."""
    truth: str
    reference: str
    """The trained network's first guess."""
    candidate: str
    """The graph's."""


class Accuracy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Both on the same pictures; shares are 0..1."""

    pictures_sha256: str
    """Digest of the names and bytes of the pictures."""
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
    """None: not measured, for want of labelled pictures."""
    calibration_agreement: float | None
    """Without them: share of the calibration pictures with the trained network's first guess, near ties left out."""
    sensitivity: dict[str, float]
    """For each layer: mean Kullback-Leibler divergence, in nats, from the FP32 graph when it alone is in INT8."""
    fallbacks: tuple[Fallback, ...]
    """In the order in which they were made."""
