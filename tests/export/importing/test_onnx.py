"""ONNX graphs: torch's exports, the zoo's, this program's own."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_torch import JIECAOYU, TORCHVISION, Caffe, TakenApart, TorchVision, exported, same, state_dict
from networks import narrowed, separating_weights, shipped
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from alexnet_deploy.core.errors import UsageError, WeightsError
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import LrnConstants, Overrides
from alexnet_deploy.pipeline.importing import understand, weights_of

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def imported(path: Path, overrides: Overrides | None = None) -> Weights:
    return weights_of(understand(path, overrides or Overrides()))


@pytest.fixture(scope="module")
def torchvision() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["torchvision"]))


@pytest.fixture(scope="module")
def caffe() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["caffe"]))


@pytest.mark.parametrize("dynamo", [False, True])
def test_torchvision_s_network_as_torch_exports_it(dynamo: bool, torchvision: Weights, tmp_path: Path) -> None:
    module = TorchVision(state_dict(torchvision, TORCHVISION))
    weights = imported(exported(module, 224, tmp_path / "a.onnx", dynamo=dynamo))
    assert same(weights.tensors, torchvision.tensors)
    assert weights.preprocessing == torchvision.preprocessing
    assert weights.architecture.name == "torchvision-custom"


@pytest.mark.parametrize("norm", [nn.LocalResponseNorm, TakenApart])
@pytest.mark.parametrize("dynamo", [False, True])
def test_lrn_that_torch_took_apart_is_one_again(
    dynamo: bool, norm: type[nn.Module], caffe: Weights, tmp_path: Path
) -> None:
    module = Caffe(state_dict(caffe, JIECAOYU), norm)
    path = exported(module, 227, tmp_path / "a.onnx", dynamo=dynamo)
    assert "LRN" not in {node.op_type for node in onnx.load(path).graph.node}
    weights = imported(path)
    assert same(weights.tensors, caffe.tensors)
    found = [layer for layer in weights.architecture.layers if not layer.name.startswith("drop")]
    assert found == [layer for layer in caffe.architecture.layers if not layer.name.startswith("drop")]
    assert weights.preprocessing == caffe.preprocessing


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "tiny"])
def test_our_own_graph_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES[name]))
    _, bundle = shipped(weights, tmp_path)
    back = imported(bundle.path / "model.onnx")
    assert same(back.tensors, weights.tensors)
    assert (back.architecture, back.preprocessing, back.labels) == (
        weights.architecture,
        weights.preprocessing,
        weights.labels,
    )
    assert back.origin is not None
    assert back.origin.assumptions == ()


def test_our_own_graph_of_other_precisions_is_refused(weights: Weights, tmp_path: Path) -> None:
    _, bundle = shipped(weights, tmp_path, precision="fp16")
    with pytest.raises(WeightsError, match=r"is a graph of this program in fp16; import the one in fp32"):
        imported(bundle.path / "model.onnx")


@pytest.mark.slow
def test_the_zoo_s_alexnet_is_caffe_s_at_227_pixels() -> None:
    weights = imported(LIGHT / "light_bvlc_alexnet.onnx")
    assert weights.architecture == ARCHITECTURES["caffe"]
    assert weights.preprocessing.mean == (123.68, 116.779, 103.939)
    assert weights.origin is not None
    (size,) = (found for found in weights.origin.assumptions if found.subject == "input size")
    assert size.value == "227"


@pytest.mark.slow
def test_a_zfnet_becomes_a_table_of_its_own() -> None:
    weights = imported(LIGHT / "light_zfnet512.onnx", Overrides(architecture="zfnet512"))
    assert (weights.architecture.name, weights.architecture.input_size) == ("zfnet512", 224)
    assert weights.architecture.num_parameters == 87_250_536


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "n12: Conv takes what n4 takes: not a chain"),
        ("densenet121", "n3: Mul is no layer of AlexNet or its kin"),
        ("squeezenet", "n7: Conv takes what n5 takes: not a chain"),
        ("vgg19", "n12 is a sixth convolution, and AlexNet and its kin have five"),
    ],
)
def test_another_network_is_refused_with_the_first_layer_that_does_not_fit(name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=rf"light_{name}\.onnx: {message}"):
        imported(LIGHT / f"light_{name}.onnx")


# A graph of our own making, with the operators that other programs write


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
        [helper.make_tensor_value_info("prob_1", TensorProto.FLOAT, [batch, 4])],
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


@pytest.mark.parametrize("batch", [1, 3, "N"])
@pytest.mark.parametrize("size", [224, 227])
def test_the_zoo_s_form_at_any_batch_and_both_sizes(
    size: int, batch: int | str, caffe: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At this width it is no member by name, and only a member's size is changed.
    monkeypatch.setattr("alexnet_deploy.export.importing.recognise.ARCHITECTURES", {"caffe": caffe.architecture})
    weights = imported(graph(caffe, tmp_path / "a.onnx", size=size, batch=batch))
    assert same(weights.tensors, caffe.tensors)
    assert weights.architecture == caffe.architecture


def test_weights_as_matrices_that_are_transposed(caffe: Weights, tmp_path: Path) -> None:
    weights = imported(graph(caffe, tmp_path / "a.onnx", variant="MatMul"))
    assert same(weights.tensors, caffe.tensors)


def test_batch_normalisation_is_folded(caffe: Weights, tmp_path: Path) -> None:
    understood = understand(graph(caffe, tmp_path / "a.onnx", variant="batch norm"), Overrides())
    folded = understood.recognised.tensors["conv3.weight"]
    assert not np.array_equal(folded, caffe.tensors["conv3.weight"])
    assert understood.agreement.max_error <= 1e-5


def test_what_the_file_says_itself_cannot_be_said_otherwise(caffe: Weights, tmp_path: Path) -> None:
    path = graph(caffe, tmp_path / "a.onnx")
    with pytest.raises(UsageError, match="says its LRN itself, so --lrn cannot change it"):
        imported(path, Overrides(lrn=LrnConstants(size=5, alpha=1e-4, beta=0.75, k=2.0)))
    with pytest.raises(UsageError, match="its layers are those of caffe, not of caffenet; leave --arch out"):
        imported(path, Overrides(architecture="caffenet"))
