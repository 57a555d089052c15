"""Normalisations of several nodes: a decomposed LRN, LRN within columns, and the spatial one."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx_nodes import chain, node

from alexnet_deploy.export.importing.readers.onnx.structure import StructureError
from alexnet_deploy.export.importing.source import Normalise, SourceLayer, SpatialNormalise, Unroll


def taken_apart(
    *,
    last: str = "Div",
    window: Sequence[int] = (5, 1),
    square: onnx.NodeProto | None = None,
    strides: Sequence[int] | None = None,
    swapped: bool = False,
    **constants: float,
) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    """The nodes of torch's LRN."""
    attributes = {"kernel_shape": list(window)} | ({"strides": list(strides)} if strides else {})
    names = {"scaled": ["mean", "alpha"], "shifted": ["scaled", "k"]}
    names = {name: pair[::-1] if swapped else pair for name, pair in names.items()}
    nodes = [
        square or node("Mul", ["x", "x"], ["square"]),
        node("Pad", ["square"], ["padded"]),
        node("AveragePool", ["padded"], ["pooled"], **attributes),
        node("Squeeze", ["pooled"], ["mean"]),
        node("Mul", names["scaled"], ["scaled"]),
        node("Add", names["shifted"], ["shifted"]),
        node("Pow", ["shifted", "beta"], ["power"]),
        node(last, ["x", "power"], ["y"], "n"),
    ]
    held = {"alpha": 0.5, "k": 2.0, "beta": 0.75, "two": 2.0} | constants
    return nodes, {name: np.array(value, np.float32) for name, value in held.items()}


def matched(**changes: object) -> SourceLayer:
    nodes, constants = taken_apart(**changes)  # type: ignore[arg-type]
    (layer,) = chain(*nodes, **constants).layers
    return layer


def test_an_lrn_of_several_nodes_is_one() -> None:
    whole = Normalise(name="n", size=5, alpha=0.5, alpha_is_divided=True, beta=0.75, k=2.0)
    assert matched() == matched(swapped=True) == matched(window=(1, 5)) == matched(window=(5, 1, 1)) == whole
    assert matched(strides=(1, 1)) == whole
    assert matched(square=node("Pow", ["x", "two"], ["square"])) == whole
    spatial = SpatialNormalise(name="n", size=5, alpha=0.5, beta=0.75, k=2.0)
    assert matched(last="Mul", window=(5, 5), beta=-0.75) == spatial


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": (2, 1)},
        {"window": (5, 5)},
        {"window": (5,)},
        {"window": (1, 1)},
        {"last": "Mul"},
        {"last": "Mul", "window": (5, 3)},
        {"last": "Mul", "window": (5, 5, 1)},
        {"last": "Sub"},
        {"square": node("Mul", ["x", "two"], ["square"])},
        {"square": node("Pow", ["x", "beta"], ["square"])},
        {"square": node("Pow", ["two", "two"], ["square"])},
        {"square": node("Add", ["x", "x"], ["square"])},
    ],
)
def test_other_nodes_are_no_lrn(changes: dict[str, object]) -> None:
    nodes, constants = taken_apart(**changes)  # type: ignore[arg-type]
    with pytest.raises(StructureError):
        chain(*nodes, **constants)


def columns(to: Sequence[int], back: Sequence[int], **attributes: object) -> SourceLayer:
    nodes = [
        node("Reshape", ["x", "to"], ["split"]),
        node("LRN", ["split"], ["normed"], "n", **attributes),
        node("Reshape", ["normed", "back"], ["y"]),
    ]
    found = chain(*nodes, to=np.array(to), back=np.array(back)).layers
    return found[0] if len(found) == 1 else Unroll(name="none", order="CHW")


def test_an_lrn_within_columns_is_one() -> None:
    said = {"size": 5, "alpha": 0.5, "beta": 0.25, "bias": 2.0}
    expected = Normalise(name="n", size=5, alpha=0.5, alpha_is_divided=True, beta=0.25, k=2.0, groups=2)
    assert columns([-1, 4, 7, 7], [-1, 8, 7, 7], **said) == expected
    usual = columns([-1, 4, 7, 7], [-1, 4, 7, 7], size=3)
    assert usual == Normalise(
        name="n",
        size=3,
        alpha=pytest.approx(1e-4),
        alpha_is_divided=True,
        beta=0.75,
        k=1.0,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("to", "back"),
    [
        ([2, 4, 7, 7], [-1, 8, 7, 7]),
        ([-1, 4, 7, 7], [1, 8, 7, 7]),
        ([-1, 4, 7, 7], [-1, 8, 7, 8]),
        ([-1, 4, 7, 7], [-1, 8, 49]),
        ([-1, 4, 49], [-1, 8, 7, 7]),
        ([-1, 3, 7, 7], [-1, 8, 7, 7]),
        ([-1, 0, 7, 7], [-1, 8, 7, 7]),
    ],
)
def test_other_shapes_are_no_columns(to: Sequence[int], back: Sequence[int]) -> None:
    assert columns(to, back, size=5) == Unroll(name="none", order="CHW")
