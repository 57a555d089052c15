"""The constants of ONNX graphs, and graphs that are no plain network of floats."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx_nodes import Nodes, graph, model_of, node

from alexnet_deploy.export.importing.readers.onnx.graph import graph_of
from alexnet_deploy.export.importing.readers.onnx.structure import StructureError, read_structure


def folded(*nodes: onnx.NodeProto, **constants: np.ndarray) -> np.ndarray | None:
    return graph(nodes, constants).constant("c")


def test_constants_are_folded() -> None:
    grid = np.arange(6, dtype=np.float32).reshape(2, 3)
    value = numpy_helper.from_array(grid)
    assert np.array_equal(folded(node("Constant", [], ["c"], value=value)), grid)  # type: ignore[arg-type]
    copied = folded(node("Constant", [], ["a"], value=value), node("Identity", ["a"], ["c"]))
    assert np.array_equal(copied, grid)  # type: ignore[arg-type]
    assert np.array_equal(folded(node("Transpose", ["g"], ["c"]), g=grid), grid.T)  # type: ignore[arg-type]
    cube = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    moved = folded(node("Transpose", ["g"], ["c"], perm=[1, 0, 2]), g=cube)
    assert np.array_equal(moved, cube.transpose(1, 0, 2))  # type: ignore[arg-type]
    to = np.array([2, 3])
    zeros = folded(node("ConstantOfShape", ["to"], ["c"]), to=to)
    assert np.array_equal(zeros, np.zeros((2, 3)))  # type: ignore[arg-type]
    seven = numpy_helper.from_array(np.array([7], np.float32))
    filled = folded(node("ConstantOfShape", ["to"], ["c"], value=seven), to=to)
    assert np.array_equal(filled, np.full((2, 3), 7))  # type: ignore[arg-type]


def test_what_depends_on_the_input_or_is_unknown_is_no_constant() -> None:
    grid = np.ones((2, 3), np.float32)
    assert folded(node("Identity", ["x"], ["c"])) is None
    assert folded(node("Transpose", ["g"], ["c"], perm=[0, 2]), g=grid) is None
    assert folded(node("Neg", ["g"], ["c"]), g=grid) is None
    assert folded(node("Constant", [], ["c"], value_int=3)) is None
    two = numpy_helper.from_array(np.ones(2, np.float32))
    with pytest.raises(StructureError, match=r"^c: invalid tensor shape \(2,\)$"):
        folded(node("ConstantOfShape", ["to"], ["c"], value=two), to=np.array([2]))
    with pytest.raises(StructureError, match=r"^c: invalid tensor shape \(-1,\)$"):
        folded(node("ConstantOfShape", ["to"], ["c"]), to=np.array([-1]))


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([node("Relu", ["z"], ["y"], "n")], "n: reads z, which no earlier node writes"),
        ([node("Relu", ["x"], ["x"], "n")], "n: writes x, which already exists"),
        ([node("Relu", ["x"], ["w"], "n")], "n: writes w, which already exists"),
        ([node("Relu", ["x"], ["y"]), node("Tanh", ["x"], ["y"], "n")], "n: writes y, which already exists"),
        ([node("Dropout", ["x"], ["y", "y"], "n")], "n: writes y, which already exists"),
        ([node("Relu", ["x"], [], "n")], "n: has no output"),
        ([node("Relu", ["x"], [""])], "Relu: has no output"),
        ([node("QLinearConv", ["x"], ["y"], "n")], "n: QLinearConv belongs to a quantized graph; import the float"),
        ([node("Relu", ["x"], ["y"], "n", domain="a.b")], "n: Relu of the domain a.b is not an operator of ONNX"),
        ([node("Relu", ["x"], ["y"])] * 4097, "has 4,097 nodes, too many for an AlexNet-like network"),
    ],
)
def test_a_graph_that_is_no_plain_network_is_refused(nodes: Nodes, words: str) -> None:
    with pytest.raises(StructureError) as caught:
        graph(nodes)
    assert str(caught.value).startswith(words)


def test_a_graph_at_the_limits_is_read() -> None:
    many = [node("Relu", ["x"], [f"y{number}"]) for number in range(4096)]
    assert len(graph(many).nodes) == 4096
    assert graph([node("Relu", ["x"], ["y"], domain="ai.onnx")]).nodes[0].op == "Relu"
    # The mask of a dropout need not have a name.
    assert graph([node("Dropout", ["x"], ["y", ""]), node("Dropout", ["x"], ["z", ""])]).nodes[1].output == "z"


def test_two_constants_of_one_name_are_refused() -> None:
    model = model_of([])
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(StructureError, match=r"^two constants share a name, w$"):
        graph_of(read_structure(model.SerializeToString()))
