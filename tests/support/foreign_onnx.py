"""ONNX graphs as the model zoo has them, written node by node with onnx."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.core.model.weights import Weights


def graph(weights: Weights, path: Path, *, size: int = 227, batch: int | str = 1, variant: str = "plain") -> Path:
    """Caffe's network as the zoo has it, or with a change."""
    nodes: list[onnx.NodeProto] = []
    constants = {name.replace(".", "_"): value for name, value in weights.tensors.items()}
    value = "data_0"
    for layer in weights.architecture.layers:
        name = layer.name
        made = name
        match name.rstrip("0123456789"):
            case "conv":
                pads = list(layer.padding)  # type: ignore[union-attr]
                nodes.append(
                    helper.make_node(
                        "Conv",
                        [value, f"{name}_weight", f"{name}_bias"],
                        [made],
                        name,
                        kernel_shape=[layer.kernel] * 2,  # type: ignore[union-attr]
                        strides=[layer.stride] * 2,  # type: ignore[union-attr]
                        pads=pads,
                        group=layer.groups,  # type: ignore[union-attr]
                    )
                )
                if variant == "batch norm" and name == "conv3":
                    made = _batch_norm(nodes, constants, name)
            case "relu":
                nodes.append(helper.make_node("Relu", [value], [made], name))
            case "norm":
                nodes.append(helper.make_node("LRN", [value], [made], name, size=5, alpha=1e-4, beta=0.75, bias=1.0))
            case "pool":
                pads = [0, 0, 1, 1] if name == "pool5" else [0, 0, 0, 0]
                nodes.append(
                    helper.make_node("MaxPool", [value], [made], name, kernel_shape=[3, 3], strides=[2, 2], pads=pads)
                )
            case "flatten":
                constants["to"] = np.array([batch if isinstance(batch, int) else 0, -1], np.int64)
                nodes.append(helper.make_node("Reshape", [value, "to"], [made], name))
            case "drop":
                nodes.append(helper.make_node("Dropout", [value], [made, f"{made}_mask"], name))
            case "fc" if variant == "MatMul":
                constants[f"{name}_weight"] = np.ascontiguousarray(constants[f"{name}_weight"].T)
                nodes.append(
                    helper.make_node("MatMul", [value, f"{name}_weight"], [f"{name}_product"], f"{name}_product")
                )
                nodes.append(helper.make_node("Add", [f"{name}_bias", f"{name}_product"], [made], name))
            case "fc":
                inputs = [value, f"{name}_weight", f"{name}_bias"]
                nodes.append(helper.make_node("Gemm", inputs, [made], name, transB=1))
        value = made
    nodes.append(helper.make_node("Softmax", [value], ["prob_1"], "softmax"))
    proto = helper.make_graph(
        nodes,
        "alexnet",
        [helper.make_tensor_value_info("data_0", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("prob_1", TensorProto.FLOAT, [batch, weights.architecture.num_classes])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(proto, producer_name="onnx-caffe2", opset_imports=[helper.make_opsetid("", 9)])
    model.ir_version = 4
    path.write_bytes(model.SerializeToString())
    return path


def _batch_norm(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], name: str) -> str:
    rng = np.random.default_rng(0)
    channels = len(constants[f"{name}_bias"])
    for kind in ("scale", "shift", "mean", "variance"):
        constants[f"{name}_{kind}"] = rng.uniform(0.5, 1.5, channels).astype(np.float32)
    inputs = [name, *(f"{name}_{kind}" for kind in ("scale", "shift", "mean", "variance"))]
    nodes.append(helper.make_node("BatchNormalization", inputs, [f"{name}_normed"], f"{name}_bn", epsilon=1e-3))
    return f"{name}_normed"
