"""ONNX files, message by message: what our reader accepts, and each thing that it refuses."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from alexnet_deploy.engines.graph_file import (
    ELEMENT_BYTES,
    Constant,
    GraphFile,
    Node,
    Value,
    is_readable,
    read_graph_file,
)
from alexnet_deploy.engines.graph_wire import GraphFileError


def model() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Op", ["x", "c"], ["y"], "y", alpha=0.5, group=2, kernel=[3, -1])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 256, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [])],
        [numpy_helper.from_array(np.ones((2, 3), np.float32), "c")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    made.metadata_props.add(key="a", value="b")
    return made


def test_the_contents_of_a_file_are_read() -> None:
    found = read_graph_file(model().SerializeToString())
    assert found == GraphFile(
        ir_version=8,
        opset=17,
        nodes=(
            Node(
                name="y",
                op="Op",
                inputs=("x", "c"),
                outputs=("y",),
                attributes={"alpha": 0.5, "group": 2, "kernel": (3, -1)},
            ),
        ),
        constants={"c": Constant(element=1, shape=(2, 3), data=memoryview(np.ones(6, "<f4").tobytes()))},
        inputs=(Value(name="x", element=2, shape=("N", 256, 3)),),
        outputs=(Value(name="y", element=1, shape=()),),
    )
    assert found.constants["c"].num_elements == 6


@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.int8, np.int64, np.float16])
def test_constants_of_every_type_are_read(kind: type) -> None:
    made = model()
    made.graph.initializer.append(numpy_helper.from_array(np.zeros((2, 5), kind), "d"))
    found = read_graph_file(made.SerializeToString()).constants["d"]
    assert found.num_elements == 10
    assert ELEMENT_BYTES[found.element] == np.dtype(kind).itemsize


Edit = Callable[[onnx.ModelProto], object]


def node(change: Callable[[onnx.NodeProto], object]) -> Edit:
    return lambda made: change(made.graph.node[0])


def tensor(**fields: object) -> Edit:
    return lambda made: made.graph.initializer.append(TensorProto(**fields))


def attribute(**fields: object) -> Edit:
    return node(lambda one: one.attribute.append(AttributeProto(**fields)))


ODD = AttributeProto.AttributeType

REFUSED: dict[str, tuple[Edit, str]] = {
    "domain": (lambda made: setattr(made.opset_import[0], "domain", "a"), "imports operators of the domain 'a'"),
    "node's domain": (node(lambda one: setattr(one, "domain", "a")), "y: is an operator of the domain 'a'"),
    "nameless": (node(lambda one: one.ClearField("name")), "cannot be parsed: a node has no field 3"),
    "without operator": (node(lambda one: one.ClearField("op_type")), "cannot be parsed: a node has no field 4"),
    "no opset": (lambda made: made.ClearField("opset_import"), "cannot be parsed: the model has no field 8"),
    "no version": (lambda made: made.ClearField("ir_version"), "cannot be parsed: the model has no number in field 1"),
    "no graph": (lambda made: made.ClearField("graph"), "cannot be parsed: the model has no field 7"),
    "many nodes": (
        lambda made: made.graph.node.extend([made.graph.node[0]] * 4096),
        "has 4,097 nodes, more than 4,096",
    ),
    "same constant": (
        lambda made: made.graph.initializer.append(made.graph.initializer[0]),
        "two constants have the same name, c",
    ),
    "same attribute": (attribute(name="group", type=ODD.INT, i=2), "y: has the attribute group twice"),
    "text": (attribute(name="t", type=ODD.STRING, s=b"a"), "y: an attribute has field 4, which our writer does not"),
    "empty text": (attribute(name="t", type=ODD.STRING), "y: the attribute t is of type 3, expected a float, an int"),
    "no value": (attribute(name="t", type=ODD.FLOAT), "y: the attribute t is of type 1, expected a float"),
    "no type": (attribute(name="t", i=2), "y: cannot be parsed: an attribute has no number in field 20"),
    "another value": (attribute(name="t", type=ODD.INT, f=2.0), "y: the attribute t is of type 2, expected a float"),
    "both": (attribute(name="t", type=ODD.INT, i=1, f=2.0), "y: the attribute t is of type 2, expected a float"),
    "number and list": (attribute(name="t", type=ODD.INTS, i=1, ints=[2]), "y: the attribute t is of type 7, expected"),
    "external": (tensor(name="t", data_type=1, data_location=1), "t: stored outside the graph's file"),
    "said to be inside": (tensor(name="t", data_type=1, data_location=0), "t: stored outside the graph's file"),
    "of another type": (
        tensor(name="t", data_type=6, dims=[1], raw_data=bytes(4)),
        "t: is of type 6 and shape [1], which our writer does not write for a constant",
    ),
    "nine dimensions": (tensor(name="t", data_type=3, dims=[1] * 9, raw_data=b"a"), "t: is of type 3 and shape [1, 1,"),
    "negative": (tensor(name="t", data_type=3, dims=[-1, -1], raw_data=b"a"), "t: is of type 3 and shape [-1, -1]"),
    "short": (
        tensor(name="t", data_type=1, dims=[2], raw_data=bytes(7)),
        "t: has 7 bytes of data in the graph file, e",
    ),
    "empty": (tensor(name="t", data_type=1, dims=[2]), "t: has 0 bytes of data in the graph file, expected 8"),
    "no dimension": (
        lambda made: made.graph.input[0].type.tensor_type.shape.dim.add(),
        "x: has a dimension that is neither one number nor one name",
    ),
    "metadata": (
        lambda made: made.metadata_props.add().MergeFromString(b"\x18\x01"),
        "metadata has field 3, which our writer does not write",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_our_writer_does_not_write_is_refused_by_name(name: str) -> None:
    edit, words = REFUSED[name]
    made = model()
    edit(made)
    data = made.SerializeToString()
    with pytest.raises(GraphFileError) as caught:
        read_graph_file(data)
    assert str(caught.value).startswith(words)
    assert not is_readable(data)


def test_files_at_the_limits_are_read() -> None:
    made = model()
    made.graph.node.extend([made.graph.node[0]] * 4095)
    made.graph.initializer.append(TensorProto(name="d", data_type=3, dims=[1] * 8, raw_data=b"a"))
    made.graph.initializer.append(TensorProto(name="e", data_type=1, dims=[0, 5]))
    made.graph.initializer.append(TensorProto(name="f", data_type=1, raw_data=bytes(4)))
    made.graph.input[0].type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension(dim_value=1)] * 6)
    found = read_graph_file(made.SerializeToString())
    assert len(found.nodes) == 4096
    assert [found.constants[name].shape for name in "def"] == [(1,) * 8, (0, 5), ()]
    # One more than can be right: the guard compares the rank with the contract's.
    assert len(found.inputs[0].shape) == 9
    assert is_readable(made.SerializeToString())
