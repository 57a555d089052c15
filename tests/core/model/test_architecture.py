import math

import msgspec
import pytest

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import (
    Architecture,
    Conv,
    Dropout,
    Flatten,
    Linear,
    LocalNorm,
    MaxPool,
    SpatialNorm,
)
from alexnet_deploy.core.model.family import ARCHITECTURES, PUBLISHED_PREPROCESSING, architecture_by_name
from alexnet_deploy.core.model.network import Network

# Taken from the sources: the papers, layers-145.cfg, BVLC/caffe's prototxt files, torchvision's models/alexnet.py.
PARAMETERS = {
    "paper": 60_965_224,
    "original": 60_965_224,
    "caffe": 60_965_224,
    "caffenet": 60_965_224,
    "single_tower": 62_378_344,
    "torchvision": 61_100_840,
}
MULTIPLY_ADDS = {
    "paper": 724_406_816,
    "original": 724_406_816,
    "caffe": 724_406_816,
    "caffenet": 724_406_816,
    "single_tower": 1_135_256_096,
    "torchvision": 714_188_480,
}
GROUPED_PARAMETERS = {
    "conv1": 34_944,
    "conv2": 307_456,
    "conv3": 885_120,
    "conv4": 663_936,
    "conv5": 442_624,
    "fc6": 37_752_832,
    "fc7": 16_781_312,
    "fc8": 4_097_000,
}
GROUPED_MULTIPLY_ADDS = {
    "conv1": 105_415_200,
    "conv2": 223_948_800,
    "conv3": 149_520_384,
    "conv4": 112_140_288,
    "conv5": 74_760_192,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_costs_are_the_published_ones(name: str) -> None:
    architecture = ARCHITECTURES[name]
    assert architecture.num_parameters == PARAMETERS[name]
    assert architecture.num_multiply_adds == MULTIPLY_ADDS[name]


def test_costs_by_layer_are_the_published_ones() -> None:
    costs = {cost.layer.name: cost for cost in ARCHITECTURES["paper"].costs() if cost.num_parameters}
    assert {name: cost.num_parameters for name, cost in costs.items()} == GROUPED_PARAMETERS
    for name, number in GROUPED_MULTIPLY_ADDS.items():
        assert costs[name].num_multiply_adds == number
    assert sum(cost.num_multiply_adds for name, cost in costs.items() if name.startswith("fc")) == 58_621_952


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_torch_network_has_the_tensors_of_the_table(name: str) -> None:
    architecture = ARCHITECTURES[name]
    network = Network(architecture)
    assert {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()} == architecture.tensor_shapes()
    assert sum(tensor.numel() for tensor in network.parameters()) == architecture.num_parameters


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_first_convolution_gives_55_by_55(name: str) -> None:
    conv1 = next(ARCHITECTURES[name].costs())
    assert conv1.out_shape[1:] == (55, 55)


def test_normalisations_are_those_of_their_sources() -> None:
    def norms(name: str) -> list[tuple[float, float, int]]:
        return [(n.alpha, n.k, n.groups) for n in ARCHITECTURES[name].layers if isinstance(n, LocalNorm)]

    assert norms("paper") == [(5e-4, 2.0, 1)] * 2
    assert norms("original") == [(1e-4, 2.0, 2)] * 2
    assert norms("caffe") == norms("caffenet") == [(1e-4, 1.0, 1)] * 2
    assert norms("single_tower") == norms("torchvision") == []
    spatial = {name for name, table in ARCHITECTURES.items() for n in table.layers if isinstance(n, SpatialNorm)}
    assert spatial == {"original"}


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("paper", "conv1 relu1 norm1 pool1"),
        ("original", "conv1 norm1 pool1 relu1"),
        ("caffe", "conv1 relu1 norm1 pool1"),
        ("caffenet", "conv1 relu1 pool1 norm1"),
        ("torchvision", "conv1 relu1 pool1 conv2"),
    ],
)
def test_first_layers_stand_in_their_sources_order(name: str, order: str) -> None:
    assert [layer.name for layer in ARCHITECTURES[name].layers[:4]] == order.split()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_table_survives_json(name: str) -> None:
    architecture = ARCHITECTURES[name]
    assert msgspec.json.decode(msgspec.json.encode(architecture), type=Architecture) == architecture


def test_number_of_classes_changes_the_last_layer_only() -> None:
    two = ARCHITECTURES["paper"].with_num_classes(2)
    assert two.num_classes == 2
    assert two.layers[:-1] == ARCHITECTURES["paper"].layers[:-1]
    with pytest.raises(UsageError, match="2 or more"):
        two.with_num_classes(1)


def test_every_architecture_has_its_published_preprocessing() -> None:
    assert PUBLISHED_PREPROCESSING.keys() == ARCHITECTURES.keys()


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'lenet'.*paper.*torchvision"):
        architecture_by_name("lenet")


@pytest.mark.parametrize("size", [0, 2, 4, 16, 17])
def test_window_that_engines_disagree_about_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"norm: size must be odd and 1 to 15, got {size}"):
        LocalNorm(name="norm", size=size, alpha=1e-4, beta=0.75, k=2.0)


@pytest.mark.parametrize(
    "name", ["", "../../x", "/x", "a/b", ".hidden", "a\nb", "a\x1b[31m", "a b", "x" * 65, "norm\u202e"]
)
def test_name_that_is_no_plain_word_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a valid name for an architecture or a layer"):
        Architecture(name=name, input_size=16, layers=(Flatten(name="flatten"), Linear(name="fc", out_features=2)))
    with pytest.raises(ValueError, match="is not a valid name for an architecture or a layer"):
        Architecture(name="odd", input_size=16, layers=(Flatten(name=name), Linear(name="fc", out_features=2)))


@pytest.mark.parametrize(
    ("constants", "message"),
    [
        ({"k": 0.0}, "norm: k must be finite and greater than 0, got 0"),
        ({"k": -1.0}, "norm: k must be finite and greater than 0, got -1"),
        ({"k": math.nan}, "norm: k must be finite and greater than 0, got nan"),
        ({"alpha": -1e-4}, "norm: alpha must be finite and 0 or more, got -0.0001"),
        ({"beta": math.inf}, "norm: beta must be finite and 0 or more, got inf"),
    ],
)
def test_normalisation_that_divides_by_nothing_is_refused(constants: dict[str, float], message: str) -> None:
    sound = {"alpha": 1e-4, "beta": 0.75, "k": 2.0}
    for norm in (LocalNorm, SpatialNorm):
        with pytest.raises(ValueError, match=f"^{message}$"):
            norm(name="norm", size=5, **{**sound, **constants})


def test_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="norm: size must be 1 or more, got 0"):
        SpatialNorm(name="norm", size=0, alpha=1e-3, beta=0.75, k=1.0)


@pytest.mark.parametrize("probability", [-0.1, 1.0, 5.0, math.nan])
def test_dropout_that_leaves_nothing_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="drop: probability must be 0 or more and under 1"):
        Dropout(name="drop", probability=probability)


def test_pooling_whose_rounding_matters_is_refused() -> None:
    head = (Flatten(name="flatten"), Linear(name="fc", out_features=2))
    with pytest.raises(ValueError, match="do not tile 224 x 224"):
        Architecture(name="odd", input_size=224, layers=(MaxPool(name="pool"), *head))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((Linear(name="fc", out_features=2),), "cannot take an input of shape"),
        (
            (Conv(name="c", out_channels=4, kernel=300), Flatten(name="f"), Linear(name="fc", out_features=2)),
            "c: output would be empty",
        ),
        (
            (Conv(name="c", out_channels=4, kernel=3, groups=2), Flatten(name="f"), Linear(name="l", out_features=2)),
            "3 ch",
        ),
        ((Flatten(name="f"), Linear(name="f", out_features=2)), "share a name"),
        ((Flatten(name="f"),), "must be linear"),
    ],
)
def test_table_that_does_not_fit_together_is_refused(layers: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(name="odd", input_size=227, layers=layers)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [-3, 0, 257, 10**9])
def test_an_input_that_is_no_view_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"odd: input_size must be 1 to 256, got {size}"):
        Architecture(name="odd", input_size=size, layers=(Flatten(name="f"), Linear(name="fc", out_features=2)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (Linear(name="wide", out_features=10**5), "odd: has more than 536,870,912 parameters"),
        (Linear(name="wide", out_features=2**64), "wide: the output has more than 67,108,864 values"),
    ],
)
def test_a_table_that_no_graph_can_hold_is_refused(layer: Linear, message: str) -> None:
    layers = (Flatten(name="f"), layer, Linear(name="fc", out_features=2))
    with pytest.raises(ValueError, match=message):
        Architecture(name="odd", input_size=64, layers=layers)
    conv = Conv(name="wide", out_channels=4, kernel=1, padding=(10**6,) * 4)
    with pytest.raises(ValueError, match="wide: the output has more than 67,108,864 values"):
        Architecture(name="odd", input_size=64, layers=(conv, Flatten(name="f"), Linear(name="fc", out_features=2)))


def test_flattened_shape_is_what_fc6_takes() -> None:
    costs = {cost.layer.name: cost for cost in ARCHITECTURES["paper"].costs()}
    assert costs["flatten"].in_shape == (256, 6, 6)
    assert costs["fc6"].in_shape == (math.prod((256, 6, 6)),)
