"""The int8 gate: which layers stay in int8, the recorded measurements, and what is refused."""

import re
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from graphs import RESTS, answers, constants_of, source_of
from networks import saved, shipped
from onnx import TensorProto, load_model_from_string

from alexnet_deploy.core.bundle.contract import Subject
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.bundle.vocabulary import Rest
from alexnet_deploy.core.errors import AlexNetDeployError, DataError, ParityError, UsageError
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.inputs.labelled import LabelledFolder, find_labelled
from alexnet_deploy.core.model.architecture import Conv
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.core.model.views import View, ViewsName, views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights, Weights
from alexnet_deploy.core.process.say import Say
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.engines.tensorrt.build import BuildObserver
from alexnet_deploy.pipeline.check import check
from alexnet_deploy.pipeline.export import ExportRequest, export
from alexnet_deploy.pipeline.int8 import gate as quantizing
from alexnet_deploy.pipeline.int8.calibration import METHOD_ORDER, Calibrated, Int8Request, calibrate
from alexnet_deploy.pipeline.int8.gate import Quantized, quantize
from alexnet_deploy.train.data.scan import find_images
from alexnet_deploy.train.pack.writer import pack

PRODUCTS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def center(weights: Weights) -> tuple[View, ...]:
    return views_by_name("center", weights.architecture.input_size)


def quantized(
    weights: Weights, data: LabelledFolder | None = None, *, views: ViewsName = "center", **options: object
) -> tuple[Quantized, list[str]]:
    """Quantize with the centre view by default; return the result and the progress lines."""
    said: list[str] = []
    request = Int8Request(**options)  # type: ignore[arg-type]
    crops = views_by_name(views, weights.architecture.input_size)
    return quantize(Subject(weights=weights, views=crops), request, data=data, say=said.append), said


def refused(match: str, error: type[AlexNetDeployError], weights: Weights, **options: object) -> None:
    with pytest.raises(error, match=match) as caught:
        quantized(weights, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def known(drawn: Path, sure: Weights) -> LabelledFolder:
    """Labelled images that the network all classifies correctly."""
    return find_labelled(drawn / "train", sure.labels)


@pytest.fixture(scope="module")
def loud(sure: Weights) -> Weights:
    """The same function, with one output of conv3 multiplied by 1,000 and conv4's weights for it divided by 1,000.

    The resulting range rounds conv4's other inputs to 0.
    """
    return with_loud_channel(sure, 0, 1000.0)


def with_loud_channel(weights: Weights, channel: int, factor: float) -> Weights:
    layers = {layer.name: layer for layer in weights.architecture.layers}
    conv3, conv4 = layers["conv3"], layers["conv4"]
    assert isinstance(conv3, Conv)
    assert isinstance(conv4, Conv)
    # Only the conv4 outputs of the channel's group read the channel, at its index within the group.
    group, place = divmod(channel, conv3.out_channels // conv4.groups)
    of_group = slice(group * conv4.out_channels // conv4.groups, (group + 1) * conv4.out_channels // conv4.groups)
    tensors = {name: weights.tensors[name].copy() for name in ("conv3.weight", "conv3.bias", "conv4.weight")}
    tensors["conv3.weight"][channel] *= np.float32(factor)
    tensors["conv3.bias"][channel] *= np.float32(factor)
    tensors["conv4.weight"][of_group, place] /= np.float32(factor)
    return replace(weights, tensors={**weights.tensors, **tensors})


@pytest.fixture(scope="module")
def short_half_int8_shipment(sure: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    return shipped(sure, tmp_path_factory.mktemp("half"), precision="int8", int8=Int8Request(rest="fp16"))


# The gate


@pytest.mark.usefixtures("whole_proof")
@pytest.mark.parametrize("labelled", [False, True])
def test_network_that_int8_does_not_harm_keeps_every_layer_in_it(
    labelled: bool, sure: Weights, known: LabelledFolder
) -> None:
    found, said = quantized(sure, known if labelled else None)
    assert tuple(found.quantization.ranges) == PRODUCTS
    assert found.gate.fallbacks == ()
    assert set(found.gate.sensitivity) == set(PRODUCTS)
    worst_first = list(found.gate.sensitivity.values())
    assert worst_first == sorted(worst_first, reverse=True)
    assert 0 < worst_first[-1] <= worst_first[0] < 0.1
    assert said[-1].startswith(f"int8 in {', '.join(PRODUCTS)}: ")


def test_loud_channel_changes_nothing_in_float(sure: Weights, loud: Weights) -> None:
    images = golden_images()
    for backend in BACKENDS:
        plain, same = (answers(source_of(w, center(sure), "fp32"), backend, images) for w in (sure, loud))
        np.testing.assert_allclose(plain, same, atol=3e-7)


@pytest.mark.parametrize("labelled", [False, True])
def test_layer_that_int8_harms_goes_back_to_float(labelled: bool, loud: Weights, known: LabelledFolder) -> None:
    data = known if labelled else None
    found, said = quantized(loud, data, views="ten", method="minmax")
    (fallback,) = found.gate.fallbacks
    assert fallback.layer == "conv4"
    assert tuple(found.quantization.ranges) == tuple(layer for layer in PRODUCTS if layer != "conv4")
    assert next(iter(found.gate.sensitivity)) == "conv4"
    assert found.gate.sensitivity["conv4"] > 10 * found.gate.sensitivity["conv3"]
    # The measurement with the layer in int8 is recorded, and was reported as progress.
    of_data, of_golden = fallback.because.split("; golden images: ")
    assert of_golden.startswith("a probability is off by ")
    if labelled:
        accuracy = found.gate.accuracy
        assert accuracy is not None
        assert accuracy.passed
        assert re.fullmatch(
            r"top-1 \d+\.\d\d%, FP32 100\.00%: a drop of \d+\.\d\d points \(95 % interval .* to .*\), limit 0\.5",
            of_data,
        )
    else:
        assert re.fullmatch(r"top-1 agreement \d\d\.\d\d% on the calibration images, minimum \d\d\.\d\d%", of_data)
        assert found.gate.calibration_agreement == 1.0
    place = said.index("moving conv4, the most sensitive of them, back to float")
    assert said[place - 1] == f"int8 in {', '.join(PRODUCTS)}: {fallback.because}"


def test_loud_network_ships_with_its_fallback_on_record(loud: Weights, tmp_path: Path) -> None:
    loaded, bundle = shipped(loud, tmp_path, precision="int8", int8=Int8Request(method="minmax"))
    manifest = bundle.manifest
    assert manifest.gate is not None
    assert [fallback.layer for fallback in manifest.gate.fallbacks] == ["conv4"]
    assert manifest.quantization is not None
    assert "conv4" not in manifest.quantization.ranges
    constants = constants_of(load_model_from_string(bundle.read("model.onnx")).graph)
    np.testing.assert_array_equal(constants["conv4.weight"], loud.tensors["conv4.weight"], strict=True)
    assert constants["conv3.weight"].dtype == np.int8
    assert check(bundle, weights=loaded).passed


def test_gate_that_cannot_hold_publishes_nothing(loud: Weights, tmp_path: Path) -> None:
    """The only layer that may be in int8 is the one that int8 harms."""
    loaded = saved(loud, tmp_path / "weights.safetensors")
    others = tuple(layer for layer in PRODUCTS if layer != "conv4")
    request = Int8Request(method="minmax", keep_float=others)
    with pytest.raises(ParityError, match=r"nothing was published: even with only one layer in int8, top-1 agreement "):
        export(loaded, tmp_path / "new.bundle", ExportRequest(precision="int8", int8=request))
    assert list(tmp_path.iterdir()) == [loaded.path]


def test_drop_that_is_allowed_needs_no_fallback(
    loud: Weights, known: LabelledFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The golden images, on which this network fails too, are tested separately.
    monkeypatch.setattr(quantizing._GoldenAnswers, "__call__", lambda self, quantization: (0.0, ()))
    found, _ = quantized(loud, known, method="minmax", max_drop_points=100.0)
    assert found.gate.fallbacks == ()
    assert found.gate.accuracy is not None
    assert found.gate.accuracy.drop_points > 0.5
    assert len(found.gate.accuracy.flips) == round(found.gate.accuracy.drop_points / 100 * len(known.images))


def test_what_is_measured_stands_in_the_manifest(short_int8_shipment: tuple[LoadedWeights, Bundle]) -> None:
    """Without labelled images; for accuracy see tests/cli/test_export.py."""
    _, bundle = short_int8_shipment
    gate = bundle.manifest.gate
    assert gate is not None
    assert gate.accuracy is None
    assert gate.calibration_agreement == 1.0


# The golden images


@pytest.fixture
def cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first method's range of conv5 is halved: this affects the golden images, but not the calibration images."""

    def halved(weights: Weights, request: Int8Request, say: Say, output_layer: str | None = None) -> Calibrated:
        found = calibrate(weights, request, say)
        return replace(found, ranges={**found.ranges, "conv5": found.ranges["conv5"] / 2})

    monkeypatch.setattr(quantizing, "calibrate", halved)


@pytest.mark.usefixtures("whole_proof", "cut_short")
def test_method_that_fails_on_the_golden_images_gives_way_to_the_next(sure: Weights) -> None:
    found, said = quantized(sure)
    assert found.quantization.calibration.method == METHOD_ORDER[1] == "entropy"
    assert tuple(found.quantization.ranges) == PRODUCTS
    assert found.gate.fallbacks == ()
    place = said.index("calibration method: entropy")
    assert said[place - 1].startswith("calibration by mse fails on the golden images: a probability is off by ")


@pytest.mark.usefixtures("whole_proof", "cut_short")
def test_method_that_was_asked_for_is_kept_and_the_layer_goes_back_to_float(sure: Weights, tmp_path: Path) -> None:
    loaded, bundle = shipped(sure, tmp_path, precision="int8", views="center", int8=Int8Request(method="mse"))
    manifest = bundle.manifest
    assert manifest.quantization is not None
    assert manifest.gate is not None
    assert manifest.quantization.calibration.method == "mse"
    assert manifest.gate.fallbacks
    assert "conv5" not in manifest.quantization.ranges
    for fallback in manifest.gate.fallbacks:
        assert fallback.because.startswith("top-1 agreement 100.00% on the calibration images, ")
        assert "; golden images: " in fallback.because
    assert check(bundle, weights=loaded).passed


def test_where_no_method_holds_the_one_with_the_smallest_error_is_taken(sure: Weights) -> None:
    views = center(sure)
    request = Int8Request()
    first, *others = quantizing._candidates(calibrate(sure, request, lambda line: None), request)
    golden = quantizing._GoldenAnswers(Subject(weights=sure, views=views))
    far, near = (
        msgspec.structs.replace(candidate, ranges={**candidate.ranges, layer: candidate.ranges[layer] / 2})
        for candidate, layer in ((first, "fc8"), (others[0], "conv5"))
    )
    errors = [golden(candidate)[0] for candidate in (far, near)]
    assert errors[0] > errors[1] > 1
    said: list[str] = []
    assert quantizing._choose_method([far, near], golden, said.append) is near
    assert said[-1] == ("every calibration method fails on the golden images; using entropy: its error is smallest")


# Options


def test_layers_that_are_kept_stay_in_float(sure: Weights) -> None:
    found, _ = quantized(sure, views="ten", keep_float=("conv1", "fc8"))
    assert tuple(found.quantization.ranges) == PRODUCTS[1:-1]
    assert found.gate.fallbacks == ()
    assert set(found.gate.sensitivity) == set(PRODUCTS[1:-1])
    refused(
        "conv9, relu1: not a layer that can be in int8; choose from conv1, ",
        UsageError,
        sure,
        keep_float=("relu1", "conv9"),
    )
    refused("all layers are kept in float, so none would be in int8", UsageError, sure, keep_float=PRODUCTS)


@pytest.mark.parametrize("rest", RESTS)
def test_rest_is_what_everything_else_computes_in(rest: Rest, request: pytest.FixtureRequest) -> None:
    loaded, bundle = request.getfixturevalue("short_int8_shipment" if rest == "fp32" else "short_half_int8_shipment")
    assert bundle.manifest.quantization is not None
    assert bundle.manifest.quantization.rest == rest
    graph = load_model_from_string(bundle.read("model.onnx")).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    number = TensorProto.FLOAT16 if rest == "fp16" else TensorProto.FLOAT
    assert {types["conv3.bias"], types["fc7.bias"], types["conv3.weight.scale"]} == {number}
    assert types["mean"] == TensorProto.FLOAT
    result = check(bundle, weights=loaded)
    assert result.passed, result


@pytest.mark.parametrize(
    "request_",
    [
        {"num_images": 0},
        {"num_images": -1},
        {"max_drop_points": -0.1},
        {"max_drop_points": float("nan")},
    ],
)
def test_numbers_that_ask_for_nothing_are_refused(request_: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Int8Request(**request_)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_belongs_to_int8_is_refused_elsewhere(precision: str, loaded: LoadedWeights, tmp_path: Path) -> None:
    for options in ({"int8": Int8Request()}, {"data": tmp_path}):
        with pytest.raises(UsageError, match=f"apply to int8 only; {precision} is compared with the trained network"):
            export(loaded, tmp_path / "new.bundle", ExportRequest(precision=precision, **options))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_unlabelled_folder_cannot_be_measured_on(sure: Weights, images: Path, tmp_path: Path) -> None:
    loaded = saved(sure, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match="no images found in class folders"):
        export(loaded, tmp_path / "new.bundle", ExportRequest(precision="int8", data=images))
    assert list(tmp_path.iterdir()) == [loaded.path]


def test_int8_of_nothing_is_refused(sure: Weights) -> None:
    refused("all layers are kept in float", UsageError, sure, keep_float=PRODUCTS)


def test_request_that_is_wrong_is_refused_before_anything_is_measured(sure: Weights, tmp_path: Path) -> None:
    said: list[str] = []
    loaded = saved(sure, tmp_path / "weights.safetensors")
    for options, sentence in (
        ({"keep_float": ("conv9",)}, "not a layer that can be in int8"),
        ({"calibrate": tmp_path / "nothing"}, "there is no such folder of images"),
        ({"cache": tmp_path / "nothing/cache.json"}, "the folder of the calibration cache does not exist"),
    ):
        with pytest.raises(UsageError, match=sentence):
            export(
                loaded,
                tmp_path / "a.bundle",
                ExportRequest(precision="int8", int8=Int8Request(**options)),
                observer=BuildObserver(say=said.append),
            )  # type: ignore[arg-type]
    assert said == []
    with pytest.raises(UsageError, match="allowed drop must be 0 to 100 points, got inf"):
        Int8Request(max_drop_points=float("inf"))


def test_bad_image_to_measure_on_is_named_before_anything_is_measured(
    sure: Weights, drawn: Path, tmp_path: Path
) -> None:
    shutil.copytree(drawn / "val", tmp_path / "val")
    bad = sorted((tmp_path / "val").rglob("*.jpg"))[0]
    bad.write_bytes(b"not an image")
    said: list[str] = []
    loaded = saved(sure, tmp_path / "weights.safetensors")
    with pytest.raises(DataError, match=f"{bad}: cannot be decoded to measure accuracy"):
        export(
            loaded,
            tmp_path / "a.bundle",
            ExportRequest(precision="int8", data=tmp_path),
            observer=BuildObserver(say=said.append),
        )
    assert said == []


@pytest.mark.parametrize(("side", "is_said"), [("train", True), ("val", False), ("", False)])
def test_accuracy_on_what_was_learnt_from_is_said_to_say_little(
    side: str, is_said: bool, sure: Weights, drawn: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    loaded = saved(sure, tmp_path / "weights.safetensors")
    request = Int8Request(max_drop_points=100)
    export(
        loaded,
        tmp_path / "a.bundle",
        ExportRequest(precision="int8", int8=request, data=drawn / side),
        observer=BuildObserver(say=said.append),
    )
    assert any("the network was trained on these images" in line for line in said) is is_said


def test_so_is_accuracy_on_what_was_packed_and_then_learnt_from(sure: Weights, drawn: Path, tmp_path: Path) -> None:
    assert sure.training is not None
    found = pack(find_images(drawn), tmp_path / "drawn.pack", SHORTER_SIDE)
    learnt = replace(sure, training=msgspec.structs.replace(sure.training, data=str(found.path)))
    loaded = saved(learnt, tmp_path / "weights.safetensors")

    def stop(line: str) -> None:
        # Reported before anything is measured.
        raise StopAsyncIteration(line)

    with pytest.raises(StopAsyncIteration, match="the network was trained on these images"):
        export(
            loaded,
            tmp_path / "a.bundle",
            ExportRequest(precision="int8", data=drawn / "train"),
            observer=BuildObserver(say=stop),
        )
