"""Read the chain of layers in a graph, node by node, from its input to its output.

C channels, H height, W width.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from alexnet_deploy.export.importing.readers.onnx.graph import Graph, Node
from alexnet_deploy.export.importing.readers.onnx.norms import match_norm
from alexnet_deploy.export.importing.readers.onnx.structure import StructureError
from alexnet_deploy.export.importing.source import (
    Activate,
    AdaptivePool,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Padding,
    Pool,
    Scale,
    Softmax,
    SourceLayer,
    Unroll,
)


@dataclass(slots=True)
class Chain:
    """The layers so far, and the constants that they use."""

    graph: Graph
    value: str
    """Output of the last layer."""
    layers: list[SourceLayer] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)

    def use(self, node: Node, place: int) -> str:
        """Return the name of a node's constant input, and keep its value; raises StructureError for another input."""
        name = node.inputs[place] if place < len(node.inputs) else ""
        value = self.graph.constant(name) if name else None
        if value is None:
            raise StructureError(f"{node.name}: input {place} of {node.op} is not a constant")
        if value.dtype != np.float32:
            raise StructureError(f"{node.name}: {name} does not hold floats")
        self.tensors[name] = value
        return name


def chain_of(graph: Graph, begin: str, end: str) -> Chain:
    """Return the layers between two values of a graph.

    Raises StructureError, naming the first node that does not belong to a chain of layers.
    """
    chain = Chain(graph=graph, value=begin)
    while chain.value != end:
        takers = [node for node in graph.taken_by.get(chain.value, []) if node.op != "Shape"]
        if (matched := match_norm(graph, chain.value, takers)) is not None:
            layer, chain.value = matched
            chain.layers.append(layer)
        elif len(takers) == 1:
            _step(chain, takers[0])
        elif takers:
            raise StructureError(
                f"{takers[1].name}: {takers[1].op} reads the same value as {takers[0].name}: not a chain"
            )
        else:
            raise StructureError(f"{chain.value}: no node reads it, and it is not the output")
    return chain


def _step(chain: Chain, node: Node) -> None:
    read = _READERS.get(node.op)
    if read is None:
        raise StructureError(f"{node.name}: {node.op} is not a layer of AlexNet-like networks")
    if node.op != "Add" and node.inputs[0] != chain.value:
        raise StructureError(
            f"{node.name}: {node.op} takes the previous layer's output as an input other than its first"
        )
    read(chain, node)
    chain.value = node.output


def _convolve(chain: Chain, node: Node) -> None:
    weight = chain.use(node, 1)
    shape = chain.tensors[weight].shape
    if len(shape) != 4:
        raise StructureError(f"{node.name}: expected convolution weights of 4 dimensions, got shape {shape}")
    kernel = node.list("kernel_shape", shape[2:])
    if kernel != shape[2:] or node.list("dilations", (1, 1)) != (1, 1):
        raise StructureError(f"{node.name}: a dilated convolution is not a layer of AlexNet-like networks")
    stride = _stride(node, node.list("strides", (1, 1)))
    chain.layers.append(
        Convolve(
            name=node.name,
            weight=weight,
            bias=chain.use(node, 2) if len(node.inputs) > 2 and node.inputs[2] else None,
            layout="OIHW",
            stride=stride,
            padding=_padding(node, kernel, stride),
            groups=node.whole("group", 1),
        )
    )


def _pool(chain: Chain, node: Node) -> None:
    kernel = node.list("kernel_shape", ())
    if len(kernel) != 2 or kernel[0] != kernel[1] or node.list("dilations", (1, 1)) != (1, 1):
        raise StructureError(f"{node.name}: expected square windows without dilation, got {kernel}")
    stride = _stride(node, node.list("strides", (1, 1)))
    chain.layers.append(
        Pool(
            name=node.name,
            function="max" if node.op == "MaxPool" else "average",
            kernel=kernel[0],
            stride=stride,
            padding=_padding(node, kernel, stride),
            round_up=node.whole("ceil_mode", 0) == 1,
            counts_padding=node.whole("count_include_pad", 0) == 1,
        )
    )


def _stride(node: Node, strides: tuple[int, ...]) -> int:
    if len(strides) != 2 or strides[0] != strides[1] or strides[0] < 1:
        raise StructureError(f"{node.name}: expected two equal strides, got {strides}")
    return strides[0]


def _padding(node: Node, kernel: tuple[int, ...], stride: int) -> Padding:
    automatic = node.attribute("auto_pad", b"NOTSET")
    if automatic in (b"SAME_UPPER", b"SAME_LOWER") and stride == 1 and kernel[0] % 2 == 1:
        return (kernel[0] // 2,) * 4
    if automatic not in (b"NOTSET", b"VALID", b""):
        raise StructureError(f"{node.name}: auto_pad {automatic!r} is not supported when the stride is over 1")
    pads = (0, 0, 0, 0) if automatic == b"VALID" else node.list("pads", (0, 0, 0, 0))
    if len(pads) != 4 or min(pads) < 0:
        raise StructureError(f"{node.name}: expected four pads of 0 or more, got {pads}")
    top, left, bottom, right = pads
    return top, left, bottom, right


def _gemm(chain: Chain, node: Node) -> None:
    if (node.number("alpha", 1.0), node.number("beta", 1.0), node.whole("transA", 0)) != (1.0, 1.0, 0):
        raise StructureError(f"{node.name}: a Gemm with alpha, beta or a transposed input is not supported")
    chain.layers.append(
        Connect(
            name=node.name,
            weight=chain.use(node, 1),
            bias=chain.use(node, 2) if len(node.inputs) > 2 and node.inputs[2] else None,
            layout="OI" if node.whole("transB", 0) else "IO",
        )
    )


def _multiply(chain: Chain, node: Node) -> None:
    chain.layers.append(Connect(name=node.name, weight=chain.use(node, 1), bias=None, layout="IO"))


def _add(chain: Chain, node: Node) -> None:
    """Read an addition as the biases of the layer before it."""
    last = chain.layers[-1] if chain.layers else None
    bias = chain.use(node, 1 if node.inputs[0] == chain.value else 0)
    if not isinstance(last, Connect | Convolve) or last.bias is not None:
        raise StructureError(f"{node.name}: an Add is supported only as the bias of the layer before it")
    values = chain.tensors[bias]
    per_output = values.size == values.shape[-1] if isinstance(last, Connect) else values.shape[-2:] == (1, 1)
    if not per_output or values.size != np.prod(values.shape):
        raise StructureError(f"{node.name}: expected one bias per output, got shape {values.shape}")
    chain.tensors[bias] = values.reshape(-1)
    chain.layers[-1] = replace(last, bias=bias)


def _scale(chain: Chain, node: Node) -> None:
    scale, shift, mean, variance = (chain.use(node, place) for place in (1, 2, 3, 4))
    epsilon = node.number("epsilon", 1e-5)
    chain.layers.append(Scale(name=node.name, mean=mean, variance=variance, scale=scale, shift=shift, epsilon=epsilon))


def _normalise(chain: Chain, node: Node) -> None:
    chain.layers.append(
        Normalise(
            name=node.name,
            size=node.whole("size", 0),
            alpha=node.number("alpha", 1e-4),
            alpha_is_divided=True,
            beta=node.number("beta", 0.75),
            k=node.number("bias", 1.0),
        )
    )


def _drop(chain: Chain, node: Node) -> None:
    ratio = node.number("ratio", 0.5)
    if len(node.inputs) > 1 and (value := chain.graph.constant(node.inputs[1])) is not None and value.size == 1:
        ratio = float(value.reshape(()))
    chain.layers.append(Drop(name=node.name, probability=ratio))


def _unroll(chain: Chain, node: Node) -> None:
    if node.op == "Flatten" and node.whole("axis", 1) not in (1, -3):
        raise StructureError(f"{node.name}: flattens from another axis than the channels'")
    # The target shape of a Reshape is often computed; the proof compares the result with the file itself.
    chain.layers.append(Unroll(name=node.name, order="CHW"))


def _activate(chain: Chain, node: Node) -> None:
    chain.layers.append(Activate(name=node.name, function="relu" if node.op == "Relu" else "tanh"))


def _average(chain: Chain, node: Node) -> None:
    chain.layers.append(AdaptivePool(name=node.name, size=1))


def _end(chain: Chain, node: Node) -> None:
    chain.layers.append(Softmax(name=node.name))


def _pass(chain: Chain, node: Node) -> None:
    """Skip a node that changes nothing."""


_READERS: Mapping[str, Callable[[Chain, Node], None]] = MappingProxyType(
    {
        "Conv": _convolve,
        "Relu": _activate,
        "Tanh": _activate,
        "LRN": _normalise,
        "MaxPool": _pool,
        "AveragePool": _pool,
        "GlobalAveragePool": _average,
        "BatchNormalization": _scale,
        "Dropout": _drop,
        "Identity": _pass,
        "Flatten": _unroll,
        "Reshape": _unroll,
        "Squeeze": _unroll,
        "Gemm": _gemm,
        "MatMul": _multiply,
        "Add": _add,
        "Softmax": _end,
    }
)
"""The reader of each operator."""
