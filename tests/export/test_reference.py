import numpy as np
import onnx
import onnxruntime
import pytest
from graphs import RESTS, answers, quantization_of, source_of
from networks import narrowed, separating_weights
from onnx.reference import ReferenceEvaluator

from alexnet_deploy.core.bundle.vocabulary import Rest
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.engines.backends.torch import open_reference
from alexnet_deploy.engines.proof.tolerances import int8_graph_tolerance
from alexnet_deploy.export.reference import exact_answers

IMAGES = golden_images()


@pytest.mark.parametrize("rest", RESTS)
def test_answers_are_those_of_onnx_s_own_definition(rest: Rest) -> None:
    """Compared with ONNX's reference in NumPy, node by node; on a network without LRN, where the reference is wrong."""
    weights = separating_weights(narrowed(ARCHITECTURES["torchvision"]))
    graph = source_of(weights, views_by_name("center", 224), "int8", quantization_of(weights, rest=rest)).data
    model = onnx.load_model_from_string(graph)
    # ONNX's NumPy reference has these operators since opset 19, which changed nothing that is used here.
    model.opset_import[0].version = 19
    (expected,) = ReferenceEvaluator(model).run(None, {"images": IMAGES[4:6]})
    found = exact_answers(graph, IMAGES[4:6])
    # Float16 sums that are rounded at other places move some values to the next quantisation step.
    np.testing.assert_allclose(found, expected, atol=1e-5 if rest == "fp32" else int8_graph_tolerance(1).probability)


def test_answers_of_a_float_graph_are_the_trained_network_s(weights: Weights) -> None:
    views = views_by_name("ten", 224)
    with open_reference(weights, views) as reference:
        expected = reference.run(IMAGES)
    np.testing.assert_allclose(exact_answers(source_of(weights, views, "fp32").data, IMAGES), expected, atol=1e-5)


def test_nothing_is_rearranged(weights: Weights) -> None:
    """With optimisations the same engine rounds at other places; without, it matches the graph layer by layer."""
    source = source_of(weights, views_by_name("center", 224), "int8", quantization_of(weights))
    found = exact_answers(source.data, IMAGES)
    assert np.abs(found - answers(source, "onnxruntime", IMAGES)).max() > 1e-4
    model = onnx.load_model_from_string(source.data)
    # A layer whose output is requested cannot be fused with another.
    named = [onnx.helper.make_empty_tensor_value_info(node.output[0]) for node in model.graph.node[:-1]]
    model.graph.output.extend(named)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    np.testing.assert_array_equal(session.run(["probabilities"], {"images": IMAGES[:2]})[0], found[:2])


@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_any_number_of_images_gives_what_each_gives_alone(number: int, weights: Weights) -> None:
    graph = source_of(weights, views_by_name("center", 224), "fp32").data
    alone = np.concatenate([exact_answers(graph, IMAGES[place : place + 1]) for place in range(number)])
    together = exact_answers(graph, IMAGES[:number])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-6)
