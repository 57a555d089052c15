"""Small ONNX graphs, node by node, and the chain of layers that is read from them."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.export.importing.readers.onnx.chain import Chain, chain_of
from alexnet_deploy.export.importing.readers.onnx.graph import Graph, graph_of
from alexnet_deploy.export.importing.readers.onnx.structure import StructureError, read_structure
from alexnet_deploy.export.importing.source import SourceLayer

Nodes = Sequence[onnx.NodeProto]
node = helper.make_node

CONSTANTS: dict[str, np.ndarray] = {
    "w": np.ones((8, 3, 3, 3), np.float32),
    "b": np.ones(8, np.float32),
    "fc": np.ones((4, 2), np.float32),
    "fcb": np.ones(2, np.float32),
    "whole": np.ones((8, 3, 3, 3), np.int64),
}


def model_of(nodes: Nodes, constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    held = CONSTANTS | (constants or {})
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in held.items()],
        )
    )


def graph(nodes: Nodes, constants: dict[str, np.ndarray] | None = None) -> Graph:
    return graph_of(read_structure(model_of(nodes, constants).SerializeToString()))


def chain(*nodes: onnx.NodeProto, **constants: np.ndarray) -> Chain:
    return chain_of(graph(nodes, constants), "x", "y")


def only(made: onnx.NodeProto, **constants: np.ndarray) -> SourceLayer:
    (layer,) = chain(made, **constants).layers
    return layer


def refused(*nodes: onnx.NodeProto, **constants: np.ndarray) -> str:
    with pytest.raises(StructureError) as caught:
        chain(*nodes, **constants)
    return str(caught.value)
