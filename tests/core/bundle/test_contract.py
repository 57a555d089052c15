"""What a bundle returns: probabilities, or the features of a layer."""

import math

import pytest

from alexnet_deploy.core.bundle.contract import contract_for, feature_layers, output_of
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import Dropout
from alexnet_deploy.core.model.family import ARCHITECTURES

PAPER = ARCHITECTURES["paper"]


def test_probabilities_are_the_output_without_a_layer() -> None:
    output = output_of(PAPER)
    assert (output.name, output.size, output.layer, output.words) == ("probabilities", 1000, None, "probabilities")


@pytest.mark.parametrize(("layer", "size"), [("fc7", 4096), ("relu6", 4096), ("pool5", 9216), ("flatten", 9216)])
def test_features_have_the_size_of_their_layer(layer: str, size: int) -> None:
    output = output_of(PAPER, layer)
    assert (output.name, output.size, output.words) == ("features", size, f"features of {layer}")
    tensor = contract_for(output).output
    assert (tensor.name, tensor.shape) == ("features", ("N", size))
    assert layer in tensor.meaning


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_layer_before_the_scores_gives_features_except_dropout(name: str) -> None:
    table = ARCHITECTURES[name]
    sizes = {cost.layer.name: math.prod(cost.out_shape) for cost in table.costs()}
    wanted = [layer.name for layer in table.layers[:-1] if not isinstance(layer, Dropout)]
    assert list(feature_layers(table)) == wanted
    assert {layer: output_of(table, layer).size for layer in wanted} == {layer: sizes[layer] for layer in wanted}


@pytest.mark.parametrize("layer", ["fc8", "drop6", "fc9", ""])
def test_a_layer_without_features_is_refused_with_the_choices(layer: str) -> None:
    with pytest.raises(
        UsageError, match=rf"^{layer}: not a layer that gives features; choose from conv1, relu1, .*fc7"
    ):
        output_of(PAPER, layer)


def test_the_layers_up_to_one_end_with_it() -> None:
    names = [cost.layer.name for cost in PAPER.costs("pool5")]
    assert names[0] == "conv1"
    assert names[-1] == "pool5"
    assert list(PAPER.tensor_shapes("pool5"))[-1] == "conv5.bias"
    assert list(PAPER.costs()) == list(PAPER.costs("fc8"))
