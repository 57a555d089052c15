"""How our writer writes a graph: the version of its layout, and the opset that says it.

What each layout meant:

1: opset 19 in every precision; the first fully connected layer quantises its input behind Flatten.
2: opset 17 where no float16 is quantised; that input is quantised before Flatten, because OpenCV 5's engine stops where
   a Flatten lies between MaxPool and QuantizeLinear.
"""

from alexnet_deploy.core.bundle.quantization import Quantization
from alexnet_deploy.core.bundle.vocabulary import Precision

LAYOUT = 2
"""What this program writes; it reads, audits and runs both."""


def has_half(precision: Precision, quantization: Quantization | None) -> bool:
    """Return whether a graph computes in float16: fp16, or int8 with a remainder in it."""
    return precision == "fp16" or (quantization is not None and quantization.rest == "fp16")


def opset_for(precision: Precision, quantization: Quantization | None, layout: int) -> tuple[int, int]:
    """Return the opset of a graph, and the IR version of its file.

    QuantizeLinear takes float16 from opset 19 on, which IR version 9 came with. Everything else is in opset 17.
    """
    if layout == 1 or (precision == "int8" and has_half(precision, quantization)):
        return 19, 9
    return 17, 8
