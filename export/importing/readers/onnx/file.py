"""ONNX files of any program that hold a network of the family, including our own FP32 graphs."""

from pathlib import Path

import msgspec
import numpy as np
import onnx

from alexnet_deploy.core.bundle.layout import VIEWS
from alexnet_deploy.core.bundle.manifest import FORMAT
from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.fs.opening import read_file
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, Preprocessing
from alexnet_deploy.export.graph import MEAN
from alexnet_deploy.export.importing.readers.onnx.chain import chain_of
from alexnet_deploy.export.importing.readers.onnx.graph import Graph, graph_of
from alexnet_deploy.export.importing.readers.onnx.structure import Structure, StructureError, read_structure
from alexnet_deploy.export.importing.source import MeanImage, Softmax, Source, SourcePreprocessing

MOST_BYTES = 2**31 - 1
"""Of a protobuf message."""

_IR_VERSION = b"\x08"
"""How ModelProto begins: its first field, a number of one byte."""
_FIELDS_AFTER = (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42")
"""What follows: any of its other fields."""


def recognises(path: Path, start: bytes) -> bool:
    """Return whether it begins as ONNX files do: with the version of their format."""
    return start[:1] == _IR_VERSION and start[2:3] in _FIELDS_AFTER


def read(path: Path) -> Source:
    """Return the chain of layers in the graph, and their constants; see Reader.read."""
    try:
        data = read_file(path, MOST_BYTES)
        structure = read_structure(data)
        return _source(path, structure)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except StructureError as error:
        raise WeightsError(f"{path}: {error}") from error


def span_of(structure: Structure) -> tuple[str, str]:
    """Return the names of the values before and after the network's layers: its input, and scores or probabilities.

    Raises StructureError if the graph has several inputs or outputs.
    """
    graph = structure.model.graph
    if own_facts(structure) is not None:
        softmax = next((node for node in graph.node if node.op_type == "Softmax"), None)
        if softmax is None:
            raise StructureError("has the metadata of alexnet-deploy but no softmax")
        return VIEWS, softmax.output[0]
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in constants]
    outputs = [value.name for value in graph.output]
    if len(inputs) != 1 or len(outputs) != 1:
        raise StructureError(f"has {len(inputs)} inputs and {len(outputs)} outputs, expected one of each")
    return inputs[0], outputs[0]


class OwnFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The metadata of graphs that this program wrote."""

    precision: str
    architecture: Architecture
    preprocessing: Preprocessing
    labels: tuple[str, ...]


def own_facts(structure: Structure) -> OwnFacts | None:
    """Return the metadata of a graph that this program wrote; None for another program's graph.

    Raises StructureError if the metadata cannot be read.
    """
    said = {prop.key: prop.value for prop in structure.model.metadata_props}
    if said.get("format") != msgspec.json.encode(FORMAT).decode():
        return None
    try:
        parts = {name: msgspec.Raw(text.encode()) for name, text in said.items()}
        return from_json(msgspec.json.encode(parts), OwnFacts)
    except msgspec.DecodeError as error:
        raise StructureError(f"has the metadata of alexnet-deploy, but it cannot be read: {error}") from error


def _source(path: Path, structure: Structure) -> Source:
    facts = own_facts(structure)
    if facts is not None and facts.precision != "fp32":
        raise StructureError(f"this is a graph of alexnet-deploy in {facts.precision}; import the fp32 graph")
    graph = graph_of(structure)
    begin, end = span_of(structure)
    chain = chain_of(graph, begin, end)
    if not chain.layers:
        raise StructureError("holds no layer")
    model = structure.model
    if facts is None:
        # The writer of the zoo's files, which were all converted from Caffe's.
        origin = "onnx-zoo" if model.producer_name == "onnx-caffe2" else None
        preprocessing = SourcePreprocessing(input_size=_side(model, begin))
    else:
        origin = None
        preprocessing = SourcePreprocessing(
            resize=facts.preprocessing.resize,
            channel_order=facts.preprocessing.channel_order,
            mean=facts.preprocessing.mean,
            mean_image=_mean_image(graph) if facts.preprocessing.has_mean_image else None,
            scale=facts.preprocessing.scale,
            decode=facts.preprocessing.decode,
            input_size=facts.architecture.input_size,
        )
    producer = "this program" if facts else model.producer_name or "an unknown program"
    scores = "" if isinstance(chain.layers[-1], Softmax) else ", scores without softmax"
    return Source(
        path=path,
        sha256=sha256(structure.data),
        format=f"ONNX graph by {producer}{scores}",
        tensors=chain.tensors,
        layers=tuple(chain.layers),
        preprocessing=preprocessing,
        labels=facts.labels if facts else None,
        origin=origin,
        table=facts.architecture if facts else None,
    )


def _mean_image(graph: Graph) -> MeanImage:
    """Return the mean image in a graph of this program; its channels have the order of the network's input."""
    pixels = graph.constant(MEAN)
    if pixels is None or pixels.shape != (1, 3, IMAGE_SIZE, IMAGE_SIZE) or pixels.dtype != np.float32:
        raise StructureError("has the metadata of alexnet-deploy, but not the mean image that it mentions")
    return MeanImage(name=f"the constant {MEAN}", pixels=pixels[0])


def _side(model: onnx.ModelProto, name: str) -> int | None:
    """Return the side of the square input; None if the file leaves it open. Raises StructureError for another shape."""
    (value,) = (one for one in model.graph.input if one.name == name)
    dimensions = value.type.tensor_type.shape.dim
    if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
        raise StructureError(f"its input {name} is float16; import the float32 graph")
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT or len(dimensions) != 4:
        raise StructureError(f"its input {name} is not images as floats, (N, 3, height, width)")
    channels, height, width = (one.dim_value for one in list(dimensions)[1:])
    if channels not in (0, 3) or height != width:
        raise StructureError(f"its input {name} is {channels} x {height} x {width}, expected 3 x S x S")
    return height or None
