"""Tables of one's own: read back they are the same, and each mistake is named with file and layer."""

from pathlib import Path

import pytest
from networks import narrowed

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    Conv,
    Flatten,
    Linear,
    MaxPool,
    Tanh,
)
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.table_text import (
    architecture_as_toml,
    architecture_by_name_or_file,
    architecture_from_toml,
)

OWN = """\
name = "own"
input_size = 32
layers = [
    { type = "conv", name = "conv1", out_channels = 4, kernel = 5 },
    { type = "lrn", name = "norm1", size = 5, alpha = 1e-4, beta = 0.75, k = 2 },
    { type = "flatten", name = "flatten" },
    { type = "linear", name = "fc", out_features = 3 },
]
"""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_member_read_back_is_that_member(name: str) -> None:
    text = architecture_as_toml(ARCHITECTURES[name])
    assert architecture_from_toml(text, "a.toml") == ARCHITECTURES[name]
    other = ARCHITECTURES[name].with_num_classes(7)
    assert architecture_from_toml(architecture_as_toml(other), "a.toml") == other


def test_every_kind_of_layer_survives() -> None:
    table = Architecture(
        name="every",
        input_size=32,
        layers=(
            Conv(name="conv", out_channels=4, kernel=5, padding=(0, 1, 2, 1)),
            Tanh(name="tanh"),
            MaxPool(name="max", padding=(0, 0, 1, 1)),
            AveragePool(name="mean", kernel=2, stride=1),
            AdaptiveAveragePool(name="adaptive", size=13),
            Flatten(name="flatten"),
            Linear(name="fc", out_features=2),
        ),
    )
    assert architecture_from_toml(architecture_as_toml(table), "a.toml") == table


def test_shapes_and_costs_are_derived() -> None:
    table = architecture_from_toml(OWN, "own.toml")
    assert [cost.out_shape for cost in table.costs()] == [(4, 28, 28), (4, 28, 28), (3136,), (3,)]
    assert table.num_parameters == 4 * 3 * 25 + 4 + 3136 * 3 + 3
    assert table.num_multiply_adds == 4 * 3 * 25 * 28 * 28 + 3136 * 3


def test_a_name_is_a_member_and_a_toml_name_is_a_file(tmp_path: Path) -> None:
    assert architecture_by_name_or_file("caffe") == ARCHITECTURES["caffe"]
    (tmp_path / "own.toml").write_text(OWN)
    assert architecture_by_name_or_file(str(tmp_path / "own.toml")).name == "own"
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file"):
        architecture_by_name_or_file(str(tmp_path / "none.toml"))
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(UsageError, match=r"latin\.toml: is not valid TOML: 'utf-8'"):
        architecture_by_name_or_file(str(tmp_path / "latin.toml"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("input_size = 32", "input_size =", "own.toml: is not valid TOML: Invalid value"),
        ("input_size = 32\n", "", "own.toml: input_size is missing"),
        (
            "input_size = 32",
            "input_size = 32\nmean = 3",
            "own.toml: mean is not a field of a table; the fields are name,",
        ),
        ("input_size = 32", 'input_size = "32"', "own.toml: input_size must be an integer, got a string"),
        ("input_size = 32", "input_size = 4", "own.toml: conv1: output would be empty for input shape (3, 4, 4)"),
        (
            '"conv"',
            '"convolution"',
            "own.toml: layer 1, conv1: type is 'convolution'; it must be one of adaptive_average_",
        ),
        ('type = "conv", ', "", "own.toml: layer 1, conv1: type is missing; it must be one of adaptive_average_pool"),
        (", kernel = 5", "", "own.toml: layer 1, conv1: kernel is missing"),
        ("kernel = 5", "kernel = 5, strides = 2", "own.toml: layer 1, conv1: strides is not a known field"),
        ("kernel = 5", "kernel = 0", "own.toml: layer 1, conv1: channels, kernel, stride and groups must be 1 or more"),
        ("size = 5", "size = 4", "own.toml: layer 2, norm1: size must be odd and 1 to 15, got 4"),
        ('"norm1"', '"conv1"', "own.toml: own: two layers share a name"),
        ("out_features = 3 },", "out_features = 3 }, 7,", "own.toml: layer 5: must be a table such as"),
        ('name = "own"', 'name = "paper"', "own.toml: is not the family's paper; choose another name for this table"),
        ('name = "own"', 'name = "../own"', "own.toml: '../own' is not a valid name for an architecture or a layer"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_layer(old: str, new: str, message: str) -> None:
    assert old in OWN
    with pytest.raises(UsageError) as caught:
        architecture_from_toml(OWN.replace(old, new, 1), "own.toml")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", ["[]", "7", "[" + "{}," * 1001 + "]"])
def test_a_table_without_layers_or_with_too_many_is_refused(layers: str) -> None:
    with pytest.raises(UsageError, match=r"a\.toml: layers must be a list of 1 to 1,000 layers"):
        architecture_from_toml(f'name = "own"\ninput_size = 32\nlayers = {layers}', "a.toml")


def test_a_table_that_took_a_member_s_name_can_be_written_but_not_read() -> None:
    text = architecture_as_toml(narrowed(ARCHITECTURES["paper"]))
    with pytest.raises(UsageError, match="is not the family's paper"):
        architecture_from_toml(text, "a.toml")
