"""ONNX graphs: torch's exports, the zoo's, this program's own."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from foreign_onnx import graph
from foreign_torch import JIECAOYU, TORCHVISION, Caffe, TakenApart, TorchVision, exported, same, state_dict
from networks import narrowed, separating_weights, shipped
from torch import nn

from alexnet_deploy.core.errors import UsageError, WeightsError
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import LrnConstants, Overrides
from alexnet_deploy.pipeline.pretrained.importing import understand, weights_of

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
    with pytest.raises(WeightsError, match=r"this is a graph of alexnet-deploy in fp16; import the fp32 graph"):
        imported(bundle.path / "model.onnx")


def test_a_graph_in_half_precision_is_refused_by_its_input(caffe: Weights, tmp_path: Path) -> None:
    model = onnx.load(graph(caffe, tmp_path / "a.onnx"))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(WeightsError, match=r"its input data_0 is float16; import the float32 graph$"):
        imported(tmp_path / "a.onnx")


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
        ("resnet50", "n12: Conv reads the same value as n4: not a chain"),
        ("densenet121", "n3: Mul is not a layer of AlexNet-like networks"),
        ("squeezenet", "n7: Conv reads the same value as n5: not a chain"),
        ("vgg19", "n12 is a sixth convolution; AlexNet-like networks have five"),
    ],
)
def test_another_network_is_refused_with_the_first_layer_that_does_not_fit(name: str, message: str) -> None:
    with pytest.raises(WeightsError, match=rf"light_{name}\.onnx: {message}"):
        imported(LIGHT / f"light_{name}.onnx")


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
    with pytest.raises(UsageError, match="contains its LRN constants, so --lrn does not apply"):
        imported(path, Overrides(lrn=LrnConstants(size=5, alpha=1e-4, beta=0.75, k=2.0)))
    with pytest.raises(UsageError, match="its layers are those of caffe, not of caffenet; leave --arch out"):
        imported(path, Overrides(architecture="caffenet"))
