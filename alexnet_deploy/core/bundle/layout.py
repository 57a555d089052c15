"""Versions of the graph's layout, with their opsets, and the names of its values between input and output.

1: opset 19 in every precision; the input of the first fully connected layer is quantised after Flatten.
2: opset 17 unless float16 is quantised; that input is quantised before Flatten, because OpenCV 5's engine fails on a
   Flatten between MaxPool and QuantizeLinear.
"""

from typing import Literal, TypeAlias

from alexnet_deploy.core.bundle.quantization import Quantization
from alexnet_deploy.core.bundle.vocabulary import Precision

LAYOUT = 2
"""The layout that this program writes; it reads, audits and runs both."""

PIXELS = "pixels"
"""The preprocessed image, float32 (N, 3, 256, 256), that the views are cropped from."""
VIEWS = "views"
"""All views, float32 (V * N, 3, H, W), view by view."""
SOFTMAX = "softmax"
"""The probabilities of each view, float32 (V * N, K)."""


Numbers: TypeAlias = Literal["exact", "float32", "float16", "int8"]
"""What a step of the graph does to its numbers: it only moves or compares float32, computes in float32, computes in or
rounds to float16, or rounds to int8."""


def has_half(precision: Precision, quantization: Quantization | None) -> bool:
    """Return whether a graph computes in float16: fp16, or int8 with the remaining layers in fp16."""
    return precision == "fp16" or (quantization is not None and quantization.rest == "fp16")


def opset_for(precision: Precision, quantization: Quantization | None, layout: int) -> tuple[int, int]:
    """Return the opset of a graph and the IR version of its file.

    QuantizeLinear supports float16 since opset 19, which needs IR version 9. Opset 17 has everything else.
    """
    if layout == 1 or (precision == "int8" and has_half(precision, quantization)):
        return 19, 9
    return 17, 8
