"""Networks that are no member of the family: tables of their own, found in files or given with --arch FILE.toml."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from commands import Run
from foreign_arrays import npy_layers, write_npy
from foreign_caffe import by_opencv, prototxt, write_caffe
from foreign_onnx import graph
from foreign_torch import exported, same, state_dict
from networks import narrowed, separating_weights
from torch import nn

from alexnet_deploy.core.errors import UsageError, WeightsError
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    Architecture,
    AveragePool,
    Conv,
    Dropout,
    Layer,
    Linear,
    LocalNorm,
    MaxPool,
    Relu,
    Tanh,
)
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.table_text import architecture_as_toml, architecture_from_toml
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import LrnConstants, Overrides
from alexnet_deploy.export.importing.proof import proof_images, source_inputs
from alexnet_deploy.pipeline.pretrained.importing import Understood, understand

TABLES = Path(__file__).parents[3] / "docs/tables"


def narrow(name: str) -> Weights:
    return separating_weights(narrowed(architecture_from_toml((TABLES / f"{name}.toml").read_text(), name)))


def all_around(pixels: int) -> tuple[int, int, int, int]:
    return (pixels,) * 4


def understood(path: Path, **overrides: object) -> Understood:
    return understand(path, Overrides(**overrides))  # type: ignore[arg-type]


def nameless(architecture: Architecture) -> list[Layer]:
    return [msgspec.structs.replace(layer, name="_") for layer in architecture.layers if not isinstance(layer, Dropout)]


class Kin(nn.Sequential):
    """A network of torch's own modules, with what the family does not have."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 7, 2, 1),
            nn.BatchNorm2d(8),
            nn.Tanh(),
            nn.AvgPool2d(3, 2, padding=1),
            nn.Conv2d(8, 12, 5, 2, 1, bias=False),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1),
            nn.Tanh(),
            nn.Conv2d(12, 8, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(6),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(288, 32),
            nn.Tanh(),
            nn.Linear(32, 24),
            nn.ReLU(),
            nn.Linear(24, 10),
            nn.ReLU(),
            nn.Linear(10, 2),
        )
        for module in self:
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.5, 0.5)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.uniform_(module.bias, -0.5, 0.5)


KIN = Architecture(
    name="kin",
    input_size=191,
    layers=(
        Conv(name="conv1", out_channels=8, kernel=7, stride=2, padding=all_around(1)),
        Tanh(name="tanh1"),
        AveragePool(name="pool1", kernel=3, stride=2, padding=(1, 1, 0, 0), counts_padding=True),
        Conv(name="conv2", out_channels=12, kernel=5, stride=2, padding=all_around(1)),
        Relu(name="relu2"),
        MaxPool(name="pool2", padding=all_around(1)),
        Conv(name="conv3", out_channels=12, kernel=3, padding=all_around(1)),
        Relu(name="relu3"),
        Conv(name="conv4", out_channels=12, kernel=3, padding=all_around(1)),
        Tanh(name="tanh4"),
        Conv(name="conv5", out_channels=8, kernel=3, padding=all_around(1)),
        Relu(name="relu5"),
        AdaptiveAveragePool(name="pool5", size=6),
        *ARCHITECTURES["tiny"].layers[-8:-7],
        Linear(name="fc6", out_features=32),
        Tanh(name="tanh6"),
        Linear(name="fc7", out_features=24),
        Relu(name="relu7"),
        Linear(name="fc8", out_features=10),
        Relu(name="relu8"),
        Linear(name="fc9", out_features=2),
    ),
)


@pytest.fixture(scope="module")
def kin_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(Kin(), 191, tmp_path_factory.mktemp("kin") / "kin.onnx", dynamo=False)


@pytest.fixture(scope="module")
def cnn_f() -> Weights:
    return narrow("cnn-f")


# From the layers that a file has


def test_an_onnx_graph_of_torch_s_becomes_a_table_of_its_own(kin_onnx: Path) -> None:
    found = understood(kin_onnx, architecture="kin")
    assert found.agreement.max_error <= 1e-5
    table = found.recognised.architecture
    # The exporter writes the adaptive pool as the average pool of its window.
    window = AveragePool(name="_", kernel=2, stride=2)
    assert nameless(table) == [window if isinstance(layer, AdaptiveAveragePool) else layer for layer in nameless(KIN)]


@pytest.mark.parametrize(("name", "version"), [("cnn-f", 1), ("cnn-f", 2), ("zfnet", 2), ("keras-two-class", 2)])
def test_a_model_of_the_family_s_kin_has_its_table(name: str, version: int, tmp_path: Path) -> None:
    path, weights = tmp_path / "x.caffemodel", narrow(name)
    write_caffe(path, weights, version)
    found = understood(path, architecture=name).recognised
    assert found.architecture == weights.architecture
    assert same(found.tensors, weights.tensors)


def changed(table: Architecture, **kinds: Layer) -> Architecture:
    """The table with other layers in the place of those of these names."""
    layers = tuple(kinds.get(layer.name, layer) for layer in table.layers)
    return msgspec.structs.replace(table, layers=layers)


def test_opencv_says_of_caffe_s_averages_tanh_and_batch_norms_what_our_network_says(
    cnn_f: Weights, tmp_path: Path
) -> None:
    pytest.importorskip("cv2", reason="opencv-python-headless<5 is not installed")
    table = changed(
        cnn_f.architecture,
        relu1=Tanh(name="tanh1"),
        # OpenCV 4.14 does not read Caffe's k and takes 1.
        norm1=LocalNorm(name="norm1", size=5, alpha=5e-4, beta=0.75, k=1.0),
        norm2=LocalNorm(name="norm2", size=5, alpha=5e-4, beta=0.75, k=1.0),
        pool1=AveragePool(name="pool1", kernel=3, stride=2, padding=(0, 0, 1, 1)),
        pool2=AveragePool(name="pool2", kernel=3, stride=2, padding=all_around(1), counts_padding=True),
        pool5=MaxPool(name="pool5", padding=(0, 0, 1, 1)),
    )
    weights, rng = separating_weights(table), np.random.default_rng(0)
    norms = {
        name: tuple(rng.uniform(0.5, 1.5, len(weights.tensors[f"{name}.bias"])) for _ in range(4))
        for name in ("conv3", "conv4")
    }
    path, text = tmp_path / "x.caffemodel", tmp_path / "x.prototxt"
    write_caffe(path, weights, 2, norms=norms)  # type: ignore[arg-type]
    text.write_text(prototxt(weights, norms))  # type: ignore[arg-type]
    found = understood(path)
    assert nameless(found.recognised.architecture) == nameless(table)
    inputs = source_inputs(proof_images(), found.recognised.source.preprocessing)
    theirs = by_opencv(path, text, inputs)
    assert np.abs(theirs - found.format.referee(found.recognised.source, inputs)).max() <= 1e-5
    assert not np.array_equal(found.recognised.tensors["conv3.weight"], weights.tensors["conv3.weight"])


# By a table that was given


def test_a_state_dict_is_matched_against_the_user_s_table(tmp_path: Path) -> None:
    network = Kin()
    torch.save(network.state_dict(), tmp_path / "kin.pth")
    found = understood(tmp_path / "kin.pth", table=KIN)
    assert found.recognised.architecture == KIN
    subjects = [assumption.subject for assumption in found.recognised.assumptions]
    assert subjects == ["batch norm", "biases", "resize", "channel order", "mean", "scale", "labels"]
    # Torch itself, module by module, and not what was made of the file.
    inputs = source_inputs(proof_images(), found.recognised.source.preprocessing)
    with torch.inference_mode():
        theirs = torch.softmax(network.eval()(torch.from_numpy(inputs)).double(), dim=1).numpy()
    assert np.abs(found.format.referee(found.recognised.source, inputs) - theirs).max() <= 1e-6
    assert found.agreement.max_error <= 1e-5


def test_a_table_of_a_member_s_layers_may_have_columns_and_spatial_norms(tmp_path: Path) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["original"]))
    torch.save(state_dict(weights), tmp_path / "a.pth")
    table = msgspec.structs.replace(weights.architecture, name="mine")
    found = understood(tmp_path / "a.pth", table=table)
    assert same(found.recognised.tensors, weights.tensors)
    assert found.recognised.architecture == table


def test_rows_in_another_order_are_matched_as_well(tmp_path: Path) -> None:
    weights = separating_weights(narrowed(ARCHITECTURES["caffe"]))
    write_npy(tmp_path / "a.npy", npy_layers(weights))
    table = msgspec.structs.replace(narrowed(ARCHITECTURES["caffenet"]), name="mine")
    found = understood(tmp_path / "a.npy", table=table)
    assert same(found.recognised.tensors, weights.tensors)
    assert found.recognised.architecture == table


def test_weights_alone_of_the_keras_head_need_its_table(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    from foreign_keras import keras_layers, write_h5_weights

    weights = narrow("keras-two-class")
    write_h5_weights(tmp_path / "a.h5", keras_layers(weights, 2), 2)
    found = understood(tmp_path / "a.h5", table=weights.architecture)
    assert same(found.recognised.tensors, weights.tensors)
    assert found.recognised.architecture == weights.architecture
    # As most of Keras's tutorials have it, and not as the nearest member's authors.
    assert found.recognised.preprocessing.scale == (1 / 255,) * 3
    with pytest.raises(WeightsError, match=r"a\.h5: "):
        understood(tmp_path / "a.h5")


def test_a_model_of_keras_with_the_head_becomes_a_table(tmp_path: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is not installed")
    from foreign_keras import keras_layers, write_h5

    weights = narrow("keras-two-class")
    write_h5(tmp_path / "a.h5", keras_layers(weights, 2), 2)
    found = understood(tmp_path / "a.h5", architecture="keras-two-class")
    assert same(found.recognised.tensors, weights.tensors)
    assert found.recognised.architecture == weights.architecture


def test_the_number_of_classes_is_the_file_s(cnn_f: Weights, tmp_path: Path) -> None:
    torch.save(state_dict(cnn_f), tmp_path / "a.pth")
    write_caffe(tmp_path / "a.caffemodel", cnn_f, 2)
    for name in ("a.pth", "a.caffemodel"):
        found = understood(tmp_path / name, table=cnn_f.architecture.with_num_classes(1000))
        assert found.recognised.architecture == cnn_f.architecture


def replaced(table: Architecture, place: int, layer: Layer | None) -> Architecture:
    layers = list(table.layers)
    layers[place : place + 1] = [] if layer is None else [layer]
    return msgspec.structs.replace(table, layers=tuple(layers))


def test_tensors_that_are_not_the_table_s_are_refused_with_the_first_layer(cnn_f: Weights, tmp_path: Path) -> None:
    path, table = tmp_path / "a.pth", cnn_f.architecture
    torch.save(state_dict(cnn_f), path)

    def refused(wrong: Architecture) -> str:
        with pytest.raises(UsageError) as caught:
            understood(path, table=wrong)
        return str(caught.value).removeprefix(f"{path}: ")

    wide = Conv(name="conv3", out_channels=33, kernel=3, padding=all_around(1))
    assert refused(changed(table, conv3=wide)) == (
        "conv3.weight has shape (32, 32, 3, 3), where conv3 of cnn-f has (33, 32, 3, 3)"
    )
    longer = (*table.layers, Relu(name="relu8"), Linear(name="fc9", out_features=2))
    assert refused(msgspec.structs.replace(table, layers=longer)) == "holds no weights for fc9 of cnn-f"
    assert refused(msgspec.structs.replace(table, layers=table.layers[:-3])) == (
        "fc8.weight is after the last layer of cnn-f"
    )
    with pytest.raises(UsageError, match="cnn-f contains the constants of its LRN, so --lrn does not apply"):
        understood(path, table=table, lrn=LrnConstants(size=5, alpha=1e-4, beta=0.75, k=1.0))


WRONG = {
    "relu1": (Tanh(name="tanh1"), "tanh1 is tanh in the table, and the file has relu"),
    "pool1": (
        AveragePool(name="pool1", kernel=3, stride=2, padding=(0, 0, 1, 1)),
        "pool1 is average_pool (kernel 3, stride 2, padding [0, 0, 1, 1]) in the table, and the file has max_pool (",
    ),
    "norm2": (None, "pool2 is max_pool (kernel 3, stride 2) in the table, and the file has lrn (size 5, alpha 0.0005"),
    "conv4": (
        Conv(name="conv4", out_channels=40, kernel=3, padding=all_around(1)),
        "conv4 is conv (out_channels 40, kernel 3, stride 1, padding [1, 1, 1, 1], groups 1) in the table, and",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_layers_that_are_not_the_table_s_are_refused_with_the_first(name: str, cnn_f: Weights, tmp_path: Path) -> None:
    write_caffe(tmp_path / "a.caffemodel", cnn_f, 2)
    layer, words = WRONG[name]
    place = [found.name for found in cnn_f.architecture.layers].index(name)
    with pytest.raises(UsageError) as caught:
        understood(tmp_path / "a.caffemodel", table=replaced(cnn_f.architecture, place, layer))
    assert f"a.caffemodel: does not match cnn-f: {words}" in str(caught.value)


def test_a_network_that_goes_on_or_ends_early_is_refused(cnn_f: Weights, tmp_path: Path) -> None:
    write_caffe(tmp_path / "a.caffemodel", cnn_f, 2)
    table = cnn_f.architecture
    behind = (Linear(name="fc8", out_features=1), Tanh(name="tanh8"), Linear(name="fc9", out_features=4))
    longer = msgspec.structs.replace(table, layers=(*table.layers[:-1], *behind))
    with pytest.raises(UsageError, match=r"a\.caffemodel: ends before tanh8 of cnn-f"):
        understood(tmp_path / "a.caffemodel", table=longer)
    write_caffe(tmp_path / "b.caffemodel", separating_weights(longer), 2)
    with pytest.raises(UsageError, match=r"b\.caffemodel: has tanh after the last layer of cnn-f"):
        understood(tmp_path / "b.caffemodel", table=table)
    shorter = msgspec.structs.replace(table, layers=(*table.layers[:-4], table.layers[-1]))
    message = r"fc8 is linear \(out_features 4\) in the table, and the file has linear \(out_features 64\)"
    with pytest.raises(UsageError, match=message):
        understood(tmp_path / "a.caffemodel", table=shorter)


def test_a_size_at_which_the_layers_do_not_fit_is_refused_with_the_layer(tmp_path: Path) -> None:
    caffe = separating_weights(narrowed(ARCHITECTURES["caffe"]))
    path = graph(caffe, tmp_path / "a.onnx")
    table = msgspec.structs.replace(
        narrowed(architecture_from_toml((TABLES / "cnn-f.toml").read_text(), "t")), name="x"
    )
    with pytest.raises(WeightsError, match=r"a\.onnx: pool1: windows of 3, 2 apart, do not tile 54 x 54 exactly"):
        understood(path, table=table)


# What no table can say


def test_an_average_that_leaves_pixels_out_is_refused_by_name(tmp_path: Path) -> None:
    network = Kin()
    network[14], network[17] = nn.AvgPool2d(5, 3), nn.Linear(8 * 9, 32)
    path = exported(network, 191, tmp_path / "kin.onnx", dynamo=False)
    message = r"kin\.onnx: .*AveragePool.*: windows of 5, 3 apart, do not tile 12 x 12 exactly, as our tables need"
    with pytest.raises(WeightsError, match=message):
        understood(path)


def test_an_average_that_counts_some_of_its_padding_is_refused_by_name(cnn_f: Weights, tmp_path: Path) -> None:
    table = changed(
        cnn_f.architecture,
        pool1=AveragePool(name="pool1", kernel=3, stride=2, padding=(1, 1, 2, 2)),
        pool2=MaxPool(name="pool2", padding=(0, 0, 1, 1)),
        pool5=MaxPool(name="pool5", padding=(0, 0, 1, 1)),
    )
    write_caffe(tmp_path / "a.caffemodel", separating_weights(table), 2)
    message = r"a\.caffemodel: pool1: averages that count their padding and reach beyond it are not in our tables"
    with pytest.raises(WeightsError, match=message):
        understood(tmp_path / "a.caffemodel")


def test_a_batch_norm_before_every_layer_is_refused(tmp_path: Path) -> None:
    state = {f"b{name}": value for name, value in Kin().state_dict().items()}
    state |= {"a.running_mean": torch.zeros(3), "a.running_var": torch.ones(3)}
    torch.save(state, tmp_path / "kin.pth")
    with pytest.raises(WeightsError, match=r"a\.running_mean of shape \(3,\) is not a weight or bias"):
        understood(tmp_path / "kin.pth", table=KIN)


# From the command line


def test_the_command_takes_a_table(cnn_f: Weights, run: Run) -> None:
    torch.save(state_dict(cnn_f), "a.pth")
    Path("own.toml").write_text(architecture_as_toml(msgspec.structs.replace(cnn_f.architecture, name="my-net")))
    outcome = run("import", "a.pth", "--arch", "own.toml", "--out", "one")
    assert outcome.code == 0, outcome
    assert "recognised: my-net, 4 classes" in outcome.err
    assert "assumed: architecture" not in outcome.err
    assert run("inspect", "one", "--toml").out == Path("own.toml").read_text()
    assert run("import", "a.pth", "--arch", "none.toml").refused(2) == (
        "none.toml: cannot be read: No such file or directory"
    )
    Path("own.toml").write_text("layers = 1\n")
    assert run("import", "a.pth", "--arch", "own.toml").refused(2) == "own.toml: input_size is missing"
