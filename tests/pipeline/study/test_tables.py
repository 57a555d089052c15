"""Changes of tables: what is removed, replaced and narrowed, and what is refused."""

import pytest

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import Conv, MaxPool, Tanh
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.pipeline.study.tables import TableChange, changed_table

PAPER = ARCHITECTURES["paper"]


def test_layers_are_removed_by_type_and_by_name() -> None:
    without = changed_table(PAPER, TableChange(remove=("lrn", "drop7")), "x")
    names = [layer.name for layer in PAPER.layers]
    assert [layer.name for layer in without.layers] == [
        name for name in names if name not in ("norm1", "norm2", "drop7")
    ]
    assert without.name == "paper-x"
    assert without.num_parameters == PAPER.num_parameters


def test_a_relu_becomes_a_tanh_of_the_same_name() -> None:
    changed = changed_table(PAPER, TableChange(layers={"relu": {"type": "tanh"}}), "tanh")
    assert [layer.name for layer in changed.layers if isinstance(layer, Tanh)] == [
        "relu1",
        "relu2",
        "relu3",
        "relu4",
        "relu5",
        "relu6",
        "relu7",
    ]
    assert [layer.margins for layer in changed.layers if isinstance(layer, MaxPool)] == [(0, 0, 0, 0)] * 3


def test_pools_that_do_not_tile_are_padded() -> None:
    changed = changed_table(PAPER, TableChange(layers={"max_pool": {"kernel": 2, "stride": 2}}), "plain")
    pools = [cost for cost in changed.costs() if isinstance(cost.layer, MaxPool)]
    assert [cost.layer.margins for cost in pools] == [(0, 0, 1, 1), (0, 0, 0, 0), (0, 0, 0, 0)]  # type: ignore[union-attr]
    assert [cost.out_shape[1] for cost in pools] == [28, 14, 7]


def test_a_pool_behind_a_changed_layer_is_padded_too() -> None:
    changed = changed_table(PAPER, TableChange(layers={"pool1": {"kernel": 2}}), "x")
    pools = [cost for cost in changed.costs() if isinstance(cost.layer, MaxPool)]
    assert [cost.out_shape[1] for cost in pools] == [28, 14, 7]
    assert pools[1].layer.margins == (0, 0, 1, 1)  # type: ignore[union-attr]


def test_half_the_kernels_leave_the_last_convolution() -> None:
    changed = changed_table(PAPER, TableChange(width=0.5, layers={"conv": {"groups": 1}}), "half")
    convs = [layer for layer in changed.layers if isinstance(layer, Conv)]
    assert [layer.out_channels for layer in convs] == [48, 128, 192, 192, 256]
    assert {layer.groups for layer in convs} == {1}


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        ("paper", TableChange(remove=("batch_norm",)), "x: paper has no layer batch_norm; it has conv1, relu1, norm1"),
        ("single_tower", TableChange(remove=("lrn",)), "single_tower has no layer lrn"),
        ("paper", TableChange(layers={"relu1": {"type": "gelu"}}), "x: relu1: type 'gelu' is not one of adaptive"),
        ("paper", TableChange(layers={"conv1": {"kernels": 3}}), "x: conv1: kernels is not a known field"),
        ("paper", TableChange(layers={"conv2": {"groups": 5}}), "96 channels do not split into 5 groups"),
        ("paper", TableChange(remove=("fc8",)), "the last layer must be linear"),
        ("caffe", TableChange(remove=("lrn",)), "with other resized images than caffe; use --arch paper"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(base: str, change: TableChange, words: str) -> None:
    with pytest.raises(UsageError) as refused:
        changed_table(ARCHITECTURES[base], change, "x")
    assert words in str(refused.value)
