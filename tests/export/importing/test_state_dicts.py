"""State dicts of torch and in safetensors: what is read, what is assumed, what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from foreign_torch import JIECAOYU, TORCHVISION, same, state_dict
from networks import narrowed, saved, separating_weights

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.model.family import ARCHITECTURES, PUBLISHED_PREPROCESSING
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import LrnConstants, Overrides
from alexnet_deploy.export.importing.registry import find_format
from alexnet_deploy.pipeline.pretrained.importing import assumption_words, understand, weights_of


@pytest.fixture(scope="module")
def torchvision() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["torchvision"]))


@pytest.fixture(scope="module")
def caffe() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["caffe"]))


def imported(path: Path, overrides: Overrides | None = None) -> Weights:
    return weights_of(understand(path, overrides or Overrides()))


WRAPPERS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "bare": lambda state: state,
    "pytorch/examples": lambda state: {
        "epoch": 90,
        "arch": "alexnet",
        "state_dict": {name.replace("features.", "features.module."): value for name, value in state.items()},
        "best_acc1": torch.tensor(56.5),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    },
    "DataParallel": lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{name}": value for name, value in state.items()},
    "Lightning": lambda state: {
        "epoch": 1,
        "global_step": 10,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {f"model.{name}": value for name, value in state.items()},
    },
    "of other name": lambda state: {"anything": state, "lr": 0.1},
    "parameters": lambda state: {name: torch.nn.Parameter(value) for name, value in state.items()},
}


@pytest.mark.parametrize("is_legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_state_dict_is_found_wherever_it_is(
    wrapper: str, is_legacy: bool, torchvision: Weights, tmp_path: Path
) -> None:
    path = tmp_path / "checkpoint.pth.tar"
    content = WRAPPERS[wrapper](state_dict(torchvision, TORCHVISION))
    torch.save(content, path, _use_new_zipfile_serialization=not is_legacy)
    weights = imported(path)
    assert same(weights.tensors, torchvision.tensors)
    assert weights.preprocessing == PUBLISHED_PREPROCESSING["torchvision"]
    assert weights.architecture.layers == torchvision.architecture.layers
    assert weights.origin is not None
    assert (weights.origin.file, weights.origin.num_images) == ("checkpoint.pth.tar", 16)
    assert weights.origin.max_error <= 1e-5


def test_what_was_assumed_is_said_line_by_line(torchvision: Weights, tmp_path: Path) -> None:
    torch.save(state_dict(torchvision, TORCHVISION), tmp_path / "a.pth")
    lines = [assumption_words(found) for found in understand(tmp_path / "a.pth", Overrides()).recognised.assumptions]
    because = "(as in torchvision's AlexNet)"
    names = "whose tensors have these names; the file holds no layers"
    assert lines == [
        f"assumed: architecture torchvision (as in torchvision's AlexNet, {names}); override with --arch",
        f"assumed: input size 224 {because}",
        f"assumed: resize shorter-side {because}; override with --resize",
        f"assumed: channel order RGB {because}; override with --channel-order",
        f"assumed: mean 123.675, 116.28, 103.53 {because}; override with --mean",
        f"assumed: scale 0.0171248, 0.017507, 0.0174292 {because}; override with --scale",
        "assumed: labels class 0 to class 3 (the file does not name its 4 classes); override with --labels",
    ]


def test_what_was_asked_for_is_not_assumed(torchvision: Weights, tmp_path: Path) -> None:
    torch.save(state_dict(torchvision, TORCHVISION), tmp_path / "a.pth")
    overrides = Overrides(
        architecture="torchvision",
        channel_order="BGR",
        mean=(1.0, 2.0, 3.0),
        scale=(1.0, 1.0, 1.0),
        resize="warp",
        labels=("a", "b", "c", "d"),
    )
    understood = understand(tmp_path / "a.pth", overrides)
    assert {found.subject for found in understood.recognised.assumptions} == {"input size"}
    weights = weights_of(understood)
    assert (weights.preprocessing.channel_order, weights.preprocessing.resize) == ("BGR", "warp")
    assert (weights.preprocessing.mean, weights.labels) == ((1.0, 2.0, 3.0), ("a", "b", "c", "d"))


def test_jiecaoyu_s_names_are_caffe_s_network(caffe: Weights, tmp_path: Path) -> None:
    torch.save({"state_dict": state_dict(caffe, JIECAOYU)}, tmp_path / "alexnet.pth.tar")
    weights = imported(tmp_path / "alexnet.pth.tar")
    assert same(weights.tensors, caffe.tensors)
    assert weights.architecture.layers == caffe.architecture.layers
    assert weights.preprocessing == PUBLISHED_PREPROCESSING["caffe"]


def test_order_of_layers_and_lrn_can_be_said(caffe: Weights, tmp_path: Path) -> None:
    torch.save(state_dict(caffe, JIECAOYU), tmp_path / "a.pth")
    weights = imported(tmp_path / "a.pth", Overrides(architecture="caffenet"))
    assert weights.architecture.layers == narrowed(ARCHITECTURES["caffenet"]).layers
    weights = imported(tmp_path / "a.pth", Overrides(lrn=LrnConstants(size=3, alpha=1e-3, beta=0.5, k=2.0)))
    assert weights.architecture.name == "caffe-custom"
    norms = [layer for layer in weights.architecture.layers if layer.name.startswith("norm")]
    assert [(norm.size, norm.alpha, norm.beta, norm.k) for norm in norms] == [(3, 1e-3, 0.5, 2.0)] * 2  # type: ignore[union-attr]
    with pytest.raises(WeightsError, match=r"features\.4: expects 6 channels, but gets 12"):
        imported(tmp_path / "a.pth", Overrides(architecture="torchvision"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float32])
@pytest.mark.parametrize("kind", ["torch", "safetensors"])
def test_floats_of_any_width_are_read(kind: str, dtype: torch.dtype, torchvision: Weights, tmp_path: Path) -> None:
    state = {name: value.to(dtype) for name, value in state_dict(torchvision, TORCHVISION).items()}
    path = tmp_path / "model"
    if kind == "torch":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path, {"format": "pt"})
    weights = imported(path)
    expected = {name: state[name].float().numpy() for name in state}
    ours = dict(zip(weights.tensors, (expected[name] for name in state), strict=True))
    assert same(weights.tensors, ours)


def test_counters_in_safetensors_are_passed_over(torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION) | {"num_batches_tracked": torch.tensor(3)}
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    assert same(imported(tmp_path / "model.safetensors").tensors, torchvision.tensors)


def test_weights_of_this_program_are_not_imported(torchvision: Weights, tmp_path: Path) -> None:
    saved(torchvision, tmp_path / "ours.safetensors")
    with pytest.raises(WeightsError, match="this is a file of alexnet-deploy itself; use it directly"):
        imported(tmp_path / "ours.safetensors")


def test_names_that_nobody_knows_are_matched_by_shape(torchvision: Weights, tmp_path: Path) -> None:
    torch.save(state_dict(torchvision), tmp_path / "a.pth")
    with pytest.raises(
        WeightsError, match=r"conv1\.weight of shape \(8, 3, 11, 11\) does not match any architecture of the family"
    ):
        imported(tmp_path / "a.pth")
    weights = imported(tmp_path / "a.pth", Overrides(architecture="torchvision"))
    assert same(weights.tensors, torchvision.tensors)


def test_a_tensor_of_no_known_use_is_refused_by_name(torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION) | {"features.1.running_mean": torch.zeros(8)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"features\.1\.running_mean of shape \(8,\) is not a weight or bias"):
        imported(tmp_path / "a.pth", Overrides(architecture="torchvision"))


def test_a_kernel_whose_stride_is_not_known_is_refused(torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION)
    state["features.0.weight"] = torch.zeros(8, 3, 7, 7)
    torch.save(state, tmp_path / "a.pth")
    said = r"features\.0\.weight has a kernel of 7 x 7, but stride and padding, .* are known only for 11 x 11"
    with pytest.raises(WeightsError, match=said):
        imported(tmp_path / "a.pth")


def test_shapes_that_do_not_chain_are_refused_with_the_layer(torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION)
    state["features.6.weight"] = torch.zeros(48, 7, 3, 3)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: features\.6: expects 7 channels, but gets 24"):
        imported(tmp_path / "a.pth")


def test_nan_is_refused_by_name(torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION)
    state["classifier.6.bias"][1] = np.nan
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: classifier\.6: classifier\.6\.bias holds NaN or infinite values"):
        imported(tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\x80\x04}.", "this is a bare pickle, which is not opened because loading it can run code"),
        (b"weights", "unknown format"),
    ],
)
def test_what_is_no_known_format_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"a: {message}; import reads torch checkpoints"):
        find_format(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'name: "x"\nlayer {\n', "this is a Caffe network as text, which holds no weights; import its .caffemodel"),
        (b"layers { name: 'a' }", "this is a Caffe network as text, which holds no weights"),
        (b"\x08\x01\x10\x03\x18\x80\x02", "this is a mean image; import the model, and give the image with --mean"),
    ],
)
def test_a_part_of_a_model_has_a_remedy(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"a: {message}") as caught:
        find_format(tmp_path / "a")
    assert "import reads" not in str(caught.value)


def assumed(path: Path, overrides: Overrides | None = None) -> dict[str, str]:
    origin = imported(path, overrides).origin
    assert origin is not None
    return {one.subject: f"{one.value} ({one.reason})" for one in origin.assumptions}


def test_a_choice_between_state_dicts_is_said(torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION)
    other = {name: tensor + 1 for name, tensor in state.items()}
    torch.save({"ema": other, "model": state, "epoch": 3}, tmp_path / "a.pth")
    assert same(imported(tmp_path / "a.pth").tensors, torchvision.tensors)
    assert assumed(tmp_path / "a.pth")["state dict"] == "model (its usual key; the file also has ema)"
    torch.save({"model": state, "epoch": 3}, tmp_path / "b.pth")
    assert "state dict" not in assumed(tmp_path / "b.pth")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", ["d", "c", "b", "a"]),
        ("class_names", ("d", "c", "b", "a")),
        ("class_to_idx", {"a": 3, "d": 0, "b": 2, "c": 1}),
    ],
)
def test_class_names_beside_a_state_dict_are_taken(
    key: str, value: object, torchvision: Weights, tmp_path: Path
) -> None:
    torch.save({"state_dict": state_dict(torchvision, TORCHVISION), key: value}, tmp_path / "a.pth")
    assert imported(tmp_path / "a.pth").labels == ("d", "c", "b", "a")
    assert "labels" not in assumed(tmp_path / "a.pth")
    assert imported(tmp_path / "a.pth", Overrides(labels=("1", "2", "3", "4"))).labels == ("1", "2", "3", "4")


@pytest.mark.parametrize(
    "more", [{"classes": 4}, {"class_to_idx": {"a": 0, "b": 0, "c": 1, "d": 2}}, {"class_names": [1, 2, 3, 4]}]
)
def test_what_is_no_list_of_class_names_is_passed_over(
    more: dict[str, object], torchvision: Weights, tmp_path: Path
) -> None:
    torch.save({"state_dict": state_dict(torchvision, TORCHVISION), **more}, tmp_path / "a.pth")
    assert imported(tmp_path / "a.pth").labels == tuple(f"class {number}" for number in range(4))


def test_class_names_of_another_number_can_be_overridden(torchvision: Weights, tmp_path: Path) -> None:
    torch.save({"state_dict": state_dict(torchvision, TORCHVISION), "classes": ["a", "b"]}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: 2 labels for 4 classes; name the classes with --labels$"):
        imported(tmp_path / "a.pth")


def test_missing_biases_are_said(torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION)
    del state["features.3.bias"], state["classifier.4.bias"]
    torch.save(state, tmp_path / "a.pth")
    asked = Overrides(architecture="torchvision")
    assert not imported(tmp_path / "a.pth", asked).tensors["conv2.bias"].any()
    words = "0 for features.3, classifier.4 (the file has no biases for these layers)"
    assert assumed(tmp_path / "a.pth", asked)["biases"] == words


def test_transposed_weights_and_other_layers_have_a_remedy(torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION)
    state["classifier.1.weight"] = state["classifier.1.weight"].T.contiguous()
    torch.save(state, tmp_path / "a.pth")
    given = r"; the file holds no layers, so those of torchvision were tried: give others with --arch$"
    said = r"a\.pth: classifier\.1: expects 64 values, but gets 1,152; transposed, its weights would fit" + given
    with pytest.raises(WeightsError, match=said):
        imported(tmp_path / "a.pth")


@pytest.mark.parametrize("kind", ["complex", "sparse", "float8"])
def test_tensors_that_are_not_plain_floats_are_named(kind: str, torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION)
    weight = state["classifier.4.weight"]
    odd = {"complex": weight.to(torch.complex64), "sparse": weight.to_sparse(), "float8": weight.to(torch.float8_e5m2)}
    torch.save(state | {"classifier.4.weight": odd[kind]}, tmp_path / "a.pth")
    said = r"holds torch\.\S+, for tensors that are not plain floats; save them dense and in float32$"
    with pytest.raises(WeightsError, match=said):
        imported(tmp_path / "a.pth")


def test_a_network_that_gives_all_images_one_answer_proves_little(torchvision: Weights, tmp_path: Path) -> None:
    state = state_dict(torchvision, TORCHVISION)
    said: list[str] = []
    torch.save(state, tmp_path / "a.pth")
    understand(tmp_path / "a.pth", Overrides(), say=said.append)
    assert not any("the same probabilities" in line for line in said)
    # All of fc7 below zero: ReLU passes nothing on.
    torch.save(state | {"classifier.4.bias": torch.full((64,), -1e3)}, tmp_path / "b.pth")
    understand(tmp_path / "b.pth", Overrides(), say=said.append)
    assert said[-1] == (
        "the file's network gives all these images the same probabilities, so the agreement would not show a fault; "
        "its weights may be damaged or untrained"
    )
