"""The graph of features computes one layer, averaged over the views, and nothing behind it."""

from collections import Counter
from dataclasses import replace

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import narrowed, separating_weights

from alexnet_deploy.core.bundle.contract import feature_layers
from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.bundle.store import GRAPH, Bundle
from alexnet_deploy.core.errors import BundleError
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.network import cut, network_from, preprocess
from alexnet_deploy.core.model.views import ViewsName, views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights, Weights
from alexnet_deploy.engines.backends.torch import open_reference
from alexnet_deploy.engines.engine import source_of
from alexnet_deploy.engines.graph_guard import refuse_foreign_graph
from alexnet_deploy.export.audit import audit_graph
from alexnet_deploy.export.graph import build_graph, encode_graph, facts_for_graph


def by_hand(weights: Weights, views: ViewsName, layer: str, images: np.ndarray) -> np.ndarray:
    """The layer's output, flat, channel first, averaged over the views: by torch's modules alone."""
    network = network_from(weights.architecture, weights.tensors)
    pixels = preprocess(torch.from_numpy(images), weights.preprocessing)
    found = []
    with torch.inference_mode():
        for view in views_by_name(views, weights.architecture.input_size):
            x = cut(pixels, view, weights.architecture.input_size)
            for name, module in network.named_children():
                x = module(x)
                if name == layer:
                    break
            found.append(x.double().numpy().reshape(len(images), -1))
    mean: np.ndarray = np.mean(found, axis=0)
    return mean


def of_graph(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.get_outputs()
    assert output.name == "features"
    features: np.ndarray = session.run(None, {"images": images})[0]
    return features


@pytest.mark.parametrize("name", ["original", "torchvision"])
def test_each_layer_is_torchs(name: str) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES[name]))
    images = golden_images()[:1]
    views = views_by_name("ten", weights.architecture.input_size)
    for layer in feature_layers(weights.architecture):
        wanted = by_hand(weights, "ten", layer, images)
        with open_reference(weights, views, output_layer=layer) as reference:
            trained = reference.run(images)
        found = of_graph(build_graph(weights, views, output_layer=layer), images)
        scale = np.abs(wanted).max()
        assert np.abs(found - wanted).max() <= 1e-5 * scale, layer
        assert np.abs(trained - wanted).max() <= 1e-6 * scale, layer


@pytest.mark.parametrize("views", ["ten", "center"])
def test_views_are_averaged(views: ViewsName, weights: Weights) -> None:
    images = golden_images()[:2]
    model = build_graph(weights, views_by_name(views, weights.architecture.input_size), output_layer="fc6")
    wanted = by_hand(weights, views, "fc6", images)
    assert np.abs(of_graph(model, images) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_nothing_behind_the_layer_is_in_the_graph(weights: Weights) -> None:
    views = views_by_name("ten", weights.architecture.input_size)
    graph = build_graph(weights, views, output_layer="pool5").graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["Gemm"] == kinds["Softmax"] == kinds["Flatten"] == 0
    assert kinds["ReduceMean"] == 1
    assert not [tensor.name for tensor in graph.initializer if tensor.name.startswith("fc")]
    assert graph.node[-1].name == "features"


def test_half_has_the_average_in_float32(weights: Weights) -> None:
    views = views_by_name("ten", weights.architecture.input_size)
    model = build_graph(weights, views, "fp16", output_layer="pool5")
    inferred = onnx.shape_inference.infer_shapes(model).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.output)}
    assert types["pool5"] == onnx.TensorProto.FLOAT16
    assert types["features_by_view"] == types["features"] == onnx.TensorProto.FLOAT


def graph_for(weights: Weights, manifest: Manifest) -> bytes:
    crops = manifest.views.crops
    model = build_graph(weights, crops, manifest.precision, manifest.quantization, manifest.output.layer)
    return encode_graph(model, facts_for_graph(manifest, weights.labels))


@pytest.mark.parametrize("layer", ["fc6", "relu7", None])
def test_audit_and_guard_find_another_output(
    layer: str | None, loaded: LoadedWeights, features_bundle: Bundle, bundle: Bundle
) -> None:
    manifest = features_bundle.manifest
    weights = loaded.weights
    own = features_bundle.read(GRAPH)
    assert audit_graph(own, manifest, weights.labels, weights.tensors) == ()
    source_of(features_bundle)
    other = build_graph(weights, manifest.views.crops, output_layer=layer)
    data = encode_graph(other, facts_for_graph(manifest, weights.labels))
    assert audit_graph(data, manifest, weights.labels, weights.tensors)
    with pytest.raises(BundleError, match=f"{GRAPH} was refused before loading"):
        refuse_foreign_graph(data, manifest, "a bundle")
    with pytest.raises(BundleError, match=f"{GRAPH} was refused before loading"):
        refuse_foreign_graph(own, bundle.manifest, "a bundle")


def test_the_graph_says_which_layer_it_returns(features_bundle: Bundle, bundle: Bundle) -> None:
    def facts(of: Bundle) -> dict[str, str]:
        return {fact.key: fact.value for fact in onnx.load_model_from_string(of.read(GRAPH)).metadata_props}

    assert facts(features_bundle)["output_layer"] == '"fc7"'
    assert "output_layer" not in facts(bundle)


def test_weights_with_another_tensor_are_found(loaded: LoadedWeights, features_bundle: Bundle) -> None:
    weights = loaded.weights
    changed = {**weights.tensors, "fc6.bias": weights.tensors["fc6.bias"] + 1}
    (problem,) = audit_graph(
        features_bundle.read(GRAPH), features_bundle.manifest, weights.labels, replace(weights, tensors=changed).tensors
    )
    assert problem.startswith("fc6.bias: is ")
    # Tensors behind the layer are not part of it.
    behind = {**weights.tensors, "fc8.bias": weights.tensors["fc8.bias"] + 1}
    assert audit_graph(features_bundle.read(GRAPH), features_bundle.manifest, weights.labels, behind) == ()


def test_a_manifest_with_another_layer_is_no_manifest(features_bundle: Bundle) -> None:
    for layer in ("fc6", "pool5", "fc8", "nothing"):
        with pytest.raises(ValueError, match=r"contract is not the expected one|not a layer that gives features"):
            msgspec.structs.replace(features_bundle.manifest, output_layer=layer)
    with pytest.raises(ValueError, match="format version 3 and the golden vectors are not of features of fc7"):
        msgspec.structs.replace(features_bundle.manifest, format_version=3)
    with pytest.raises(ValueError, match="format version 4 and the golden vectors are not of probabilities"):
        msgspec.structs.replace(features_bundle.manifest, output_layer=msgspec.UNSET)
