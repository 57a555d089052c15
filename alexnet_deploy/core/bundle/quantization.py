"""Quantisation record of an INT8 graph: the layers, their ranges and the calibration; stored in the manifest.

All quantisation is symmetric, zero point 0: a value becomes round(value / scale). Inputs use -127 to 127 and one scale
per tensor, from calibration; weights use -63 to 63 and one scale per output channel, from the weights.

Weights have seven bits because a CPU without VNNI multiplies bytes with vpmaddubsw, which adds two products in 16 bits
and saturates. 2 * 255 * 63 fits, 2 * 255 * 127 does not.
"""

from msgspec import Struct

from alexnet_deploy.core.bundle.vocabulary import CalibrationMethod, Rest

MAX_LEVEL = 127
"""Largest magnitude of a symmetric int8 value; -128 is not used, as in TensorRT."""

WEIGHT_LEVEL = 63
"""Largest magnitude of a quantised weight, so that every CPU multiplies it exactly."""


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The source of the ranges."""

    method: CalibrationMethod
    num_images: int
    images_sha256: str
    """Digest of the decoded calibration images: uint8 (256, 256, 3) each, in order."""
    graph_sha256: str
    """Digest of the FP32 graph used for calibration."""

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"num_images must be 1 or more, got {self.num_images}")


class Quantization(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The layers in int8 with their ranges, and the precision of the other layers."""

    ranges: dict[str, float]
    """For each layer in int8: the input magnitude that becomes 127; larger inputs are clipped to it."""
    rest: Rest
    """Precision of everything else."""
    calibration: Calibration
    weight_level: int = MAX_LEVEL
    """Quantised magnitude of a channel's largest weight; 127 in bundles without this field."""

    @property
    def needs_vnni(self) -> bool:
        """Whether a CPU without VNNI computes other results than the graph defines."""
        return self.weight_level > WEIGHT_LEVEL

    def __post_init__(self) -> None:
        if not 1 <= self.weight_level <= MAX_LEVEL:
            raise ValueError(f"weight_level must be 1 to {MAX_LEVEL}, got {self.weight_level}")
        for layer, amax in self.ranges.items():
            # Written so that NaN is refused too.
            if not 0 < amax < float("inf"):
                raise ValueError(f"{layer}: calibration range must be finite and > 0, got {amax}")
