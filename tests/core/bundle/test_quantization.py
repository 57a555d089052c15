"""The quantisation record and the graph's layouts: limits, and which CPU and opset a graph needs."""

import math

import pytest

from alexnet_deploy.core.bundle.layout import has_half, opset_for
from alexnet_deploy.core.bundle.quantization import Calibration, Quantization
from alexnet_deploy.core.bundle.vocabulary import Rest


def calibration(num_images: int = 1) -> Calibration:
    return Calibration(method="minmax", num_images=num_images, images_sha256="0" * 64, graph_sha256="0" * 64)


def quantization(amax: float = 1.0, *, rest: Rest = "fp32", **level: int) -> Quantization:
    return Quantization(ranges={"conv1": amax}, rest=rest, calibration=calibration(), **level)


def test_weights_of_more_than_seven_bits_need_vnni() -> None:
    assert quantization(weight_level=63).needs_vnni is False
    assert quantization(weight_level=64).needs_vnni is True
    # A bundle without the field has eight bits.
    assert quantization() == quantization(weight_level=127)
    assert quantization().needs_vnni is True


def test_limits_of_a_record() -> None:
    assert quantization(weight_level=1).weight_level == 1
    for level in (0, 128):
        with pytest.raises(ValueError, match=f"weight_level must be 1 to 127, got {level}"):
            quantization(weight_level=level)
    assert quantization(1e-30).ranges == {"conv1": 1e-30}
    for amax in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="conv1: calibration range must be finite and > 0, got"):
            quantization(amax)
    with pytest.raises(ValueError, match="num_images must be 1 or more, got 0"):
        calibration(0)


def test_opsets_of_both_layouts() -> None:
    single, half = quantization(), quantization(rest="fp16")
    assert opset_for("fp32", None, 2) == opset_for("fp16", None, 2) == opset_for("int8", single, 2) == (17, 8)
    assert opset_for("int8", half, 2) == (19, 9)
    assert {opset_for(name, part, 1) for name, part in (("fp32", None), ("fp16", None), ("int8", single))} == {(19, 9)}  # type: ignore[arg-type]
    assert has_half("fp16", None)
    assert has_half("int8", half)
    assert not has_half("fp32", None)
    assert not has_half("int8", single)
