"""The referee of ONNX files: ONNX Runtime on the file itself, nothing fused, one image at a time.

Two things may change: the size of the input, if the file states another one, and in a graph of this program the nodes
before the first layer and after the softmax are cut off.

N images, K classes, S side of the input.
"""

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.fs.opening import read_file
from alexnet_deploy.export.importing.readers.onnx.file import MOST_BYTES, span_of
from alexnet_deploy.export.importing.readers.onnx.structure import StructureError, read_structure
from alexnet_deploy.export.importing.source import Softmax, Source

_FAILURES = (
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NotImplemented,
    failures.RuntimeException,
)


def answers(source: Source, inputs: np.ndarray) -> np.ndarray:
    """Return the file's own probabilities, float64 (N, K), for its input, float32 (N, 3, S, S).

    Raises WeightsError if ONNX Runtime cannot run it, or the file has changed since it was read.
    """
    try:
        data = read_file(source.path, MOST_BYTES)
        if sha256(data) != source.sha256:
            raise WeightsError(f"{source.path}: changed while it was being read")
        begin, end = span_of(read_structure(data))
        model = onnx.load_model_from_string(data)
    except OSError as error:
        raise WeightsError(f"{source.path}: cannot be read: {error.strerror or error}") from error
    except (StructureError, DecodeError) as error:
        raise WeightsError(f"{source.path}: {error}") from error
    del data
    batch = _between(model, begin, end, inputs.shape[-1])
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        del model
        rows = [session.run([end], {begin: np.repeat(one[None], batch, axis=0)})[0][0] for one in inputs]
    except _FAILURES as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{source.path}: ONNX Runtime cannot run it: {reason}") from error
    scores = np.stack(rows).astype(np.float64).reshape(len(inputs), -1)
    assert source.layers is not None, "the file has layers"
    if isinstance(source.layers[-1], Softmax):
        return scores
    exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True))


def _between(model: onnx.ModelProto, begin: str, end: str, side: int) -> int:
    """Cut a graph to the nodes between two values, for images of `side` pixels; return how many it takes at once."""
    graph = model.graph
    old = next((value for value in graph.input if value.name == begin), None)
    dimensions = [] if old is None else old.type.tensor_type.shape.dim
    batch = dimensions[0].dim_value if len(dimensions) == 4 and dimensions[0].dim_value > 0 else 1
    constants = {tensor.name for tensor in graph.initializer}
    # What is made of constants alone stays, and what comes of the span's beginning.
    kept, derived = [], {begin}
    for node in graph.node:
        comes_of_it = any(name in derived for name in node.input)
        if comes_of_it or all(name in constants or name == "" for name in node.input):
            kept.append(node)
            (derived if comes_of_it else constants).update(node.output)
        if end in node.output:
            break
    inputs = [onnx.helper.make_tensor_value_info(begin, onnx.TensorProto.FLOAT, [batch, 3, side, side])]
    inputs += [value for value in graph.input if value.name in {tensor.name for tensor in graph.initializer}]
    outputs = [onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None)]
    for part, values in ((graph.node, kept), (graph.input, inputs), (graph.output, outputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        del part[:]
        part.extend(copies)
    del graph.value_info[:]
    return batch
