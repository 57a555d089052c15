"""How an INT8 graph counts: which layers, with which ranges, found how; the manifest keeps it.

Everything is symmetric, zero point 0: a number becomes round(number / scale), -127 to 127. Weights have one scale for
each output channel, from the weights themselves; a layer's input has one for the whole tensor, from calibration.
"""

from msgspec import Struct

from alexnet_deploy.core.precision import CalibrationMethod, Rest

MAX_LEVEL = 127
"""The largest magnitude of a symmetric int8; -128 is not used, as TensorRT has it."""


class Calibration(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ranges come from."""

    method: CalibrationMethod
    num_images: int
    images_sha256: str
    """Digest of the pictures as the network saw them: uint8 (256, 256, 3) each, in their order."""
    graph_sha256: str
    """Digest of the FP32 graph that they were run through."""

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError("ranges come from one picture or more")


class Quantization(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which layers count in int8, with which ranges, and what the others compute in."""

    ranges: dict[str, float]
    """For each layer in int8: the magnitude of its input that becomes 127; larger ones are cut to it."""
    rest: Rest
    """What everything else computes in."""
    calibration: Calibration

    def __post_init__(self) -> None:
        for layer, largest in self.ranges.items():
            # Written so that NaN is refused too.
            if not 0 < largest < float("inf"):
                raise ValueError(f"{layer}: a range of {largest} holds no numbers")
