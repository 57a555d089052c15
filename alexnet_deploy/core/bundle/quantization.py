"""How an INT8 graph counts: which layers, with which ranges, found how; the manifest keeps it.

Everything is symmetric, zero point 0: a number becomes round(number / scale). An input has -127 to 127 and one scale
for the whole tensor, from calibration; weights have -63 to 63 and one scale for each output channel, from the weights.

Why weights have seven bits: a CPU without VNNI multiplies bytes with vpmaddubsw, which adds two products into 16 bits
and cuts what does not fit. 2 * 255 * 63 fits, 2 * 255 * 127 does not.
"""

from msgspec import Struct

from alexnet_deploy.core.bundle.vocabulary import CalibrationMethod, Rest

MAX_LEVEL = 127
"""The largest magnitude of a symmetric int8; -128 is not used, as TensorRT has it."""

WEIGHT_LEVEL = 63
"""The largest magnitude of a weight, so that every CPU multiplies it exactly."""


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ranges come from."""

    method: CalibrationMethod
    num_images: int
    images_sha256: str
    """Digest of the images as the network saw them: uint8 (256, 256, 3) each, in their order."""
    graph_sha256: str
    """Digest of the FP32 graph that they were run through."""

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError("ranges come from one image or more")


class Quantization(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which layers count in int8, with which ranges, and what the others compute in."""

    ranges: dict[str, float]
    """For each layer in int8: the magnitude of its input that becomes 127; larger ones are cut to it."""
    rest: Rest
    """What everything else computes in."""
    calibration: Calibration
    weight_level: int = MAX_LEVEL
    """The magnitude that a channel's largest weight becomes; bundles that do not say it have 127."""

    @property
    def needs_vnni(self) -> bool:
        """Whether a CPU without VNNI computes other numbers than the graph says."""
        return self.weight_level > WEIGHT_LEVEL

    def __post_init__(self) -> None:
        if not 1 <= self.weight_level <= MAX_LEVEL:
            raise ValueError(f"weight_level must be 1 to {MAX_LEVEL}, got {self.weight_level}")
        for layer, largest in self.ranges.items():
            # Written so that NaN is refused too.
            if not 0 < largest < float("inf"):
                raise ValueError(f"{layer}: a range of {largest} holds no numbers")
