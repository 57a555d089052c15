"""The check of a bundle's graph before an engine loads it; each edited graph is in a bundle with valid digests."""

import random
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet
from graphs import edited_graph, nodes_of, quantization_of
from networks import narrowed, republished, separating_weights
from onnx import TensorProto, helper, numpy_helper
from wire import Field, encoded, fields_of, rewritten

from alexnet_deploy.core.bundle.manifest import Manifest, Views
from alexnet_deploy.core.bundle.quantization import Quantization
from alexnet_deploy.core.bundle.store import GRAPH, Bundle
from alexnet_deploy.core.bundle.vocabulary import Precision, Rest
from alexnet_deploy.core.errors import BundleError
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import ViewsName, views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.engines.graph_file import (
    ELEMENT_BYTES,
    Constant,
    GraphFile,
    Node,
    Value,
    is_readable,
    read_graph_file,
)
from alexnet_deploy.engines.graph_guard import graph_problems
from alexnet_deploy.engines.graph_wire import GraphFileError
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.export.graph import GraphDesign, build_graph, write_graph
from alexnet_deploy.pipeline.check import check
from alexnet_deploy.predict.predictor import load


def pool_called_conv(model: onnx.ModelProto) -> None:
    nodes_of(model.graph)["pool1"].op_type = "Conv"


def cycle(model: onnx.ModelProto) -> None:
    nodes_of(model.graph)["conv3"].input[0] = "relu5"


def loop(model: onnx.ModelProto) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        ],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**60), "turns"))
    node = nodes_of(model.graph)["relu3"]
    node.CopyFrom(helper.make_node("Loop", ["turns", "", node.input[0]], ["relu3"], name="relu3", body=body))


def constant_elsewhere(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "fc8.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")


def function(model: onnx.ModelProto) -> None:
    negative = helper.make_node("Neg", ["x"], ["y"])
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("", "Relu", ["x"], ["y"], [negative], opsets))


def foreign_domain(model: onnx.ModelProto) -> None:
    nodes_of(model.graph)["relu3"].domain = "com.microsoft"


def second_opset(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def older_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 13


def foreign_operator(model: onnx.ModelProto) -> None:
    nodes_of(model.graph)["relu3"].op_type = "Sigmoid"


def even_window(model: onnx.ModelProto) -> None:
    (size,) = (attribute for attribute in nodes_of(model.graph)["norm1"].attribute if attribute.name == "size")
    size.i = 4


def ungrouped(model: onnx.ModelProto) -> None:
    (group,) = (attribute for attribute in nodes_of(model.graph)["conv4"].attribute if attribute.name == "group")
    group.i = 1


def surplus_attribute(model: onnx.ModelProto) -> None:
    nodes_of(model.graph)["pool2"].attribute.append(helper.make_attribute("dilations", [2, 2]))


def text_attribute(model: onnx.ModelProto) -> None:
    nodes_of(model.graph)["conv1"].attribute.append(helper.make_attribute("auto_pad", "SAME_UPPER"))


def one_row_for_all(model: onnx.ModelProto) -> None:
    last = model.graph.node[-1]
    last.name = last.output[0] = "by_image"
    mean = helper.make_node("ReduceMean", ["by_image"], ["probabilities"], name="probabilities", axes=[0], keepdims=1)
    model.graph.node.append(mean)


def views_of_views(model: onnx.ModelProto) -> None:
    """Ten times the memory, which can be repeated any number of times."""
    place = [node.name for node in model.graph.node].index("views") + 1
    model.graph.node.insert(place, helper.make_node("Concat", ["views"] * 10, ["more"], name="more", axis=0))
    nodes_of(model.graph)["conv1"].input[0] = "more"


def outer_product(model: onnx.ModelProto) -> None:
    nodes_of(model.graph)["pixels"].input[1] = "fc6.bias"


def another_shape(model: onnx.ModelProto) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "by_view")
    tensor.CopyFrom(numpy_helper.from_array(np.array([-1, 1, 1]), "by_view"))


def short_constant(model: onnx.ModelProto) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "conv1.weight")
    tensor.raw_data = tensor.raw_data[:-4]


def wrapping_shape(model: onnx.ModelProto) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "conv1.weight")
    tensor.dims[:] = [2**32, 2**32]


def wide_constant(model: onnx.ModelProto) -> None:
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == "fc7.bias")
    tensor.CopyFrom(numpy_helper.from_array(np.zeros(7, np.float32), "fc7.bias"))


def second_name(model: onnx.ModelProto) -> None:
    model.graph.node.append(model.graph.node[-1])


def reordered(model: onnx.ModelProto) -> None:
    nodes = nodes_of(model.graph)
    nodes["relu6"].name, nodes["relu7"].name = "relu7", "relu6"


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 2**40


def axis_as_float(model: onnx.ModelProto) -> None:
    (axis,) = (part for part in nodes_of(model.graph)["views"].attribute if part.name == "axis")
    axis.CopyFrom(helper.make_attribute("axis", 0.0))


def whole_bias(model: onnx.ModelProto) -> None:
    (bias,) = (part for part in nodes_of(model.graph)["norm1"].attribute if part.name == "bias")
    assert bias.f == int(bias.f)
    bias.CopyFrom(helper.make_attribute("bias", int(bias.f)))


def negative_shape(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="odd", data_type=TensorProto.FLOAT, dims=[-1, 0], raw_data=b""))


WORDS = {
    axis_as_float: "views: a Concat that the table does not have",
    whole_bias: "norm1: bias is 2, the table says 2.0",
    negative_shape: "odd: is of type 1 and shape [-1, 0], which our writer does not write for a constant",
    pool_called_conv: "pool1: is Conv, the table says MaxPool",
    cycle: "conv3: reads relu5, which no earlier node writes",
    loop: "relu3: an attribute has a subgraph",
    constant_elsewhere: "fc8.weight: stored outside the graph's file",
    function: "the model has functions",
    foreign_domain: "relu3: is an operator of the domain 'com.microsoft'",
    second_opset: "the model has field 8 twice",
    older_opset: "the graph has opset 13 and IR version 8, not 17 and 8",
    foreign_operator: "relu3: is Sigmoid, which our writer does not write",
    even_window: "norm1: size is 4, the table says 5",
    ungrouped: "conv4: group is 1, the table says 2",
    surplus_attribute: "pool2: dilations is [2, 2], the table says None",
    text_attribute: "conv1: an attribute has field 4, which our writer does not write",
    one_row_for_all: "probabilities: a ReduceMean that the table does not have",
    views_of_views: "2 nodes are Concat, the table says 1",
    outer_product: "pixels: a Mul that the table does not have",
    another_shape: "probabilities_by_view: a Reshape that the table does not have",
    short_constant: "conv1.weight: has 17,420 bytes of data in the graph file, expected 17,424",
    wrapping_shape: "conv1.weight: has 17,424 bytes of data in the graph file",
    wide_constant: "fc7.bias: its shape is [7], the table says [64]",
    second_name: "probabilities: writes probabilities; a node must write exactly its own name",
    reordered: "relu7: writes relu6",
    other_input: "the graph's input does not match the contract",
}


@pytest.mark.parametrize("edit", WORDS, ids=lambda edit: edit.__name__)
def test_graph_that_our_writer_never_writes_reaches_no_engine(
    edit: Callable[[onnx.ModelProto], None], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = republished(bundle, tmp_path / "foreign.bundle", {GRAPH: edited_graph(bundle, edit)})
    problems = list(graph_problems(foreign.read(GRAPH), foreign.manifest))
    assert any(problem.startswith(WORDS[edit]) for problem in problems), problems
    for backend in BACKENDS:
        with pytest.raises(BundleError, match=r"foreign\.bundle: model\.onnx was refused before loading: "):
            open_engine(foreign, backend)
    with pytest.raises(BundleError, match="was refused before loading"):
        load(foreign.path)
    with_onnx = check(foreign)
    monkeypatch.setattr("alexnet_deploy.pipeline.check._is_installed", lambda module: module != "onnx")
    without = check(foreign)
    for result in (with_onnx, without):
        assert not result.passed
        assert result.problems
        assert result.rows == ()
        assert any(line.startswith("no engine was run") for line in result.not_done)


def manifest_for(
    bundle: Bundle, weights: Weights, views: ViewsName, precision: Precision, quantization: Quantization | None
) -> Manifest:
    return msgspec.structs.replace(
        bundle.manifest,
        architecture=weights.architecture,
        preprocessing=weights.preprocessing,
        views=Views(name=views, crops=views_by_name(views, weights.architecture.input_size)),
        precision=precision,
        quantization=quantization,
    )


@pytest.mark.parametrize(("precision", "rest"), [("fp32", None), ("fp16", None), ("int8", "fp32"), ("int8", "fp16")])
@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "tiny"])
def test_every_graph_of_our_writer_is_let_through(
    name: str, precision: Precision, rest: Rest | None, bundle: Bundle
) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES[name]))
    for views, layers in (("ten", ()), ("center", ("conv2", "fc6"))):
        quantization = None if rest is None else quantization_of(weights, *layers, rest=rest)
        manifest = manifest_for(bundle, weights, views, precision, quantization)
        graph = build_graph(weights, manifest.views.crops, precision, quantization)
        assert list(graph_problems(graph.SerializeToString(), manifest)) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_graph_of_layout_1_is_let_through_and_audited(precision: Precision, bundle: Bundle) -> None:
    from alexnet_deploy.export.audit import audit_graph
    from alexnet_deploy.export.graph import encode_graph, facts_for_graph

    weights = separating_weights(narrowed(ARCHITECTURES["paper"]))
    quantization = quantization_of(weights) if precision == "int8" else None
    manifest = manifest_for(bundle, weights, "ten", precision, quantization)
    older = msgspec.structs.replace(manifest, layout=msgspec.UNSET)
    design = GraphDesign(
        architecture=weights.architecture,
        preprocessing=weights.preprocessing,
        views=manifest.views.crops,
        precision=precision,
        quantization=quantization,
        layout=1,
    )
    graph = write_graph(design, weights.tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    data = encode_graph(model, facts_for_graph(older, weights.labels))
    assert list(graph_problems(data, older)) == []
    assert audit_graph(data, older, weights.labels, weights.tensors) == ()
    assert "the graph has opset 19 and IR version 9, not 17 and 8" in list(graph_problems(data, manifest))


def test_layout_of_a_later_program_is_refused(bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="graph layout 3 is not supported; this program reads 1 to 2"):
        msgspec.structs.replace(bundle.manifest, layout=3)


def test_weights_are_not_copied(bundle: Bundle) -> None:
    data = bundle.read(GRAPH)
    read_graph_file(data)
    tracemalloc.start()
    read_graph_file(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000 < len(data)


def test_damaged_bytes_give_words_and_no_other_exception(bundle: Bundle) -> None:
    """Truncated files, and flipped bits in the structure instead of the weights."""
    model = onnx.load_model_from_string(bundle.read(GRAPH))
    for tensor in model.graph.initializer:
        if tensor.name in bundle.manifest.architecture.tensor_shapes():
            tensor.raw_data = tensor.raw_data[:4]
            del tensor.dims[:]
            tensor.dims.append(1)
    data = model.SerializeToString()
    assert is_readable(data)
    undamaged = list(graph_problems(data, bundle.manifest))
    draw = random.Random(0)
    num_seen = 0
    for _ in range(1500):
        damaged = bytearray(data[: draw.randrange(len(data))] if draw.random() < 0.3 else data)
        for _ in range(draw.randrange(1, 4)):
            if damaged:
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        num_seen += list(graph_problems(bytes(damaged), bundle.manifest)) != undamaged
    # The others are in metadata and in values, which this check does not compare.
    assert num_seen > 1000


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the model has no field 8"),
        (b"\xff" * 20, "ends in the middle of a number"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "ends in the middle of a field"),
        (b"\x0b\x0c", "wire type 3"),
    ],
)
def test_what_is_no_protobuf_is_refused_in_words(data: bytes, words: str) -> None:
    with pytest.raises(GraphFileError, match=words):
        read_graph_file(data)


def test_list_without_end_is_refused(bundle: Bundle) -> None:
    def longer(model: onnx.ModelProto) -> None:
        (kernel,) = (part for part in nodes_of(model.graph)["conv1"].attribute if part.name == "kernel_shape")
        kernel.ints.extend([1] * 10_000)

    assert list(graph_problems(edited_graph(bundle, longer), bundle.manifest)) == [
        "conv1: has a list of more than 64 numbers, but our writer writes at most 4"
    ]


def as_onnx_reads(data: bytes) -> GraphFile:
    """Return the graph as onnx reads it, in our reader's types, without losing any field."""
    model = onnx.load_model_from_string(data)
    (opset,) = model.opset_import
    assert opset.domain == ""
    assert [*model.functions, *model.training_info, *model.graph.sparse_initializer] == []
    for part in (model, model.graph, *model.graph.node, *model.graph.initializer):
        assert len(UnknownFieldSet(part)) == 0
    nodes = []
    for node in model.graph.node:
        assert node.domain == ""
        for attribute in node.attribute:
            assert len(UnknownFieldSet(attribute)) == 0
            value = {1: "f", 2: "i", 7: "ints"}[attribute.type]
            assert {field.name for field, _ in attribute.ListFields()} <= {"name", "type", value}
        attributes = {
            attribute.name: tuple(value) if attribute.type == 7 else value
            for attribute in node.attribute
            for value in (helper.get_attribute_value(attribute),)
        }
        assert len(attributes) == len(node.attribute)
        nodes.append(
            Node(
                name=node.name,
                op=node.op_type,
                inputs=tuple(node.input),
                outputs=tuple(node.output),
                attributes=attributes,
            )
        )
    for tensor in model.graph.initializer:
        assert {field.name for field, _ in tensor.ListFields()} <= {"name", "dims", "data_type", "raw_data"}
        numpy_helper.to_array(tensor)
    return GraphFile(
        ir_version=model.ir_version,
        opset=opset.version,
        nodes=tuple(nodes),
        constants={
            tensor.name: Constant(element=tensor.data_type, shape=tuple(tensor.dims), data=memoryview(tensor.raw_data))
            for tensor in model.graph.initializer
        },
        inputs=tuple(map(value_in, model.graph.input)),
        outputs=tuple(map(value_in, model.graph.output)),
    )


def value_in(info: onnx.ValueInfoProto) -> Value:
    kind = info.type.tensor_type
    parts = {"dim_value", "dim_param"}
    shape = []
    for size in kind.shape.dim:
        assert {field.name for field, _ in size.ListFields()} <= parts
        shape.append(getattr(size, size.WhichOneof("value")))
    return Value(name=info.name, element=kind.elem_type, shape=tuple(shape))


def readings_compared(data: bytes, num_changed: int, seed: int) -> int:
    """Compare our reader with onnx on graphs with one field rewritten; return how many graphs ours accepted."""
    draw = random.Random(seed)
    num_taken = 0
    for number in range(num_changed):
        changed = rewritten(data, draw)
        try:
            ours = read_graph_file(changed)
        except GraphFileError:
            continue
        num_taken += 1
        theirs = as_onnx_reads(changed)
        assert ours.constants == theirs.constants, number
        # Compared as text, where NaN equals NaN and 1 differs from 1.0.
        assert [repr(node) for node in ours.nodes] == [repr(node) for node in theirs.nodes], number
        for name in ("ir_version", "opset", "inputs", "outputs"):
            assert getattr(ours, name) == getattr(theirs, name), number
    return num_taken


def small_graph(bundle: Bundle) -> bytes:
    """Return the bundle's graph without its weights, which are most of its bytes."""

    def smaller(model: onnx.ModelProto) -> None:
        for tensor in model.graph.initializer:
            if tensor.name in bundle.manifest.architecture.tensor_shapes():
                tensor.raw_data = tensor.raw_data[: ELEMENT_BYTES[tensor.data_type]]
                tensor.dims[:] = [1]

    return edited_graph(bundle, smaller)


def test_what_our_reader_takes_onnx_reads_alike(bundle: Bundle) -> None:
    data = small_graph(bundle)
    assert encoded(fields_of(data)) == data
    # Harmless changes: other values and another order.
    assert readings_compared(data, 1500, seed=0) > 100


def wire_edit(which: str, attribute: str, change: Callable[[Field], None]) -> Callable[[bytes], bytes]:
    """Return an edit that rewrites the numbers of one node's attribute in wire format."""

    def edit(data: bytes) -> bytes:
        model = fields_of(data)
        (graph,) = (field for field in model if field.number == 7)
        nodes = fields_of(graph.value)  # type: ignore[arg-type]
        for node in nodes:
            parts = fields_of(node.value)  # type: ignore[arg-type]
            if node.number != 1 or Field(3, 2, which.encode()) not in parts:
                continue
            for part in parts:
                inner = fields_of(part.value) if part.number == 5 else []  # type: ignore[arg-type]
                if Field(1, 2, attribute.encode()) in inner:
                    for field in inner:
                        if field.number in (2, 3, 8):
                            change(field)
                    part.value = encoded(inner)
            node.value = encoded(parts)
        graph.value = encoded(nodes)
        return encoded(model)

    return edit


def as_four(field: Field) -> None:
    assert isinstance(field.value, int)
    field.wire, field.value = 5, struct.pack("<I", field.value)


def as_varint(field: Field) -> None:
    assert isinstance(field.value, bytes)
    field.wire, field.value = 0, int.from_bytes(field.value, "little")


def as_list(field: Field) -> None:
    assert isinstance(field.value, int)
    field.wire, field.value = 2, bytes([field.value])


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            wire_edit("norm1", "size", as_four),
            "norm1: an attribute has field 3 as four bytes, but our writer writes a",
        ),
        (
            wire_edit("norm1", "alpha", as_varint),
            "norm1: an attribute has field 2 as a varint, but our writer writes",
        ),
        (wire_edit("pool1", "kernel_shape", as_four), "pool1: an attribute has field 8 as four bytes"),
        (wire_edit("conv1", "strides", as_list), "conv1: an attribute has field 8 as a length"),
        (wire_edit("views", "axis", as_four), "views: an attribute has field 3 as four bytes"),
    ],
)
def test_field_that_protobuf_passes_over_reaches_no_engine(
    edit: Callable[[bytes], bytes], words: str, bundle: Bundle, tmp_path: Path
) -> None:
    foreign = republished(bundle, tmp_path / "foreign.bundle", {GRAPH: edit(bundle.read(GRAPH))})
    (problem,) = graph_problems(foreign.read(GRAPH), foreign.manifest)
    assert problem.startswith(words)
    with pytest.raises(BundleError, match=r"foreign\.bundle: model\.onnx was refused before loading: "):
        load(foreign.path)
    assert check(foreign).rows == ()
