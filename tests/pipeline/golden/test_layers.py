"""check --layers: the layer at fault of a running engine is named, and no layer of a sound one is."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import HANGS_AFTER_S, Run
from graphs import quantization_of, source_of
from layer_faults import (
    Disturb,
    biased,
    clipped,
    dropped,
    mirrored,
    moved_by_a_pixel,
    plant,
    swapped,
    times,
    without_border,
)
from networks import narrowed, separating_weights, shipped

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.bundle.vocabulary import Precision, Rest
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import ViewsName, views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights, Weights
from alexnet_deploy.engines.backends.torch import open_reference
from alexnet_deploy.engines.engine import GraphSource
from alexnet_deploy.engines.proof.layers import LIMITS, Difference, LayerTable
from alexnet_deploy.engines.registry import BACKENDS, GraphBackend
from alexnet_deploy.pipeline.golden.layers import run_layers

Kind = tuple[Precision, Rest]

FP32: Kind = ("fp32", "fp32")
FP16: Kind = ("fp16", "fp16")
INT8: Kind = ("int8", "fp32")
HALF_INT8: Kind = ("int8", "fp16")

FAULTS: dict[str, tuple[Kind, GraphBackend, str, Disturb]] = {
    "red and blue swapped": (FP32, "openvino", "pixels", swapped(0, 2)),
    "every view mirrored": (FP32, "onnxruntime", "views", mirrored),
    "first convolution 2 % too large": (FP32, "openvino", "conv1", times(1.02)),
    "LRN dropped": (FP32, "onnxruntime", "norm1", dropped),
    "border of a pool zeroed": (FP32, "openvino", "pool2", without_border),
    "bias added to one channel": (FP32, "onnxruntime", "conv3", biased(0.1)),
    "two outputs swapped": (FP32, "openvino", "fc6", swapped(0, 1)),
    "softmax 2 % too large": (FP32, "onnxruntime", "softmax", times(1.02)),
    "convolution in halves 2 % too large": (FP16, "openvino", "conv2", times(1.02)),
    "ReLU dropped": (FP16, "onnxruntime", "relu4", dropped),
    "LRN dropped in an island": (FP16, "openvino", "norm2", dropped),
    "pool moved by a pixel": (FP16, "onnxruntime", "pool5", moved_by_a_pixel),
    "two channels swapped": (FP16, "openvino", "conv5", swapped(3, 4)),
    "bias added to one output": (FP16, "onnxruntime", "fc7", biased(0.1)),
    "convolution in int8 2 % too large": (INT8, "openvino", "conv4", times(1.02)),
    "ReLU dropped before int8": (INT8, "onnxruntime", "relu3", dropped),
    "spatial norm dropped": (INT8, "openvino", "spatial_norm2", dropped),
    "border of a convolution zeroed": (INT8, "onnxruntime", "conv1", without_border),
    "last layer 2 % too large": (HALF_INT8, "openvino", "fc8", times(1.02)),
    "pool saturates": (HALF_INT8, "onnxruntime", "pool1", clipped(2.0)),
}

PRODUCTS = ("conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
TESTS = Path(__file__).parents[2]

FEW = ("red and blue swapped", "LRN dropped", "bias added to one output", "convolution in int8 2 % too large")


def graph_of(weights: Weights, views: ViewsName, kind: Kind) -> GraphSource:
    precision, rest = kind
    quantization = quantization_of(weights, rest=rest) if precision == "int8" else None
    return source_of(weights, views_by_name(views, weights.architecture.input_size), precision, quantization)


def layers_of(weights: Weights, source: GraphSource, backend: GraphBackend, images: int = 1) -> LayerTable:
    return run_layers(source, weights.architecture, golden_images()[:images], None, backend)


@pytest.mark.parametrize(
    "fault", [pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in FAULTS]
)
def test_layer_at_fault_is_named(fault: str, weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, backend, tensor, disturb = FAULTS[fault]
    source = graph_of(weights, "center", kind)
    plant(monkeypatch, tensor, disturb)
    table = layers_of(weights, source, backend)
    assert [row.name for row in table.rows if not row.passed] == [tensor]
    assert table.fault is not None
    assert f": {tensor} (" in table.fault


def sound_networks() -> list[tuple[str, Kind, ViewsName, int]]:
    """30 networks: every architecture in every precision, ten views in one of four, each with weights of its own."""
    pairs = list(itertools.product(ARCHITECTURES, (HALF_INT8, INT8, FP16, FP32)))
    views: tuple[ViewsName, ...] = ("ten", "center", "center", "center")
    networks = [(name, kind, views[seed % 4], seed) for seed, (name, kind) in enumerate(pairs)]
    return [*networks, ("original", HALF_INT8, "center", 100), ("caffe", INT8, "center", 101)]


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(network, marks=[] if network[3] == 9 else [pytest.mark.slow], id=f"{network[0]}-{network[3]}")
        for network in sound_networks()
    ],
)
def test_no_layer_of_a_sound_network_is_named(network: tuple[str, Kind, ViewsName, int]) -> None:
    name, kind, views, seed = network
    sound = separating_weights(narrowed(ARCHITECTURES[name], 2 if name == "tiny" else 8), seed)
    source = graph_of(sound, views, kind)
    for backend in BACKENDS:
        table = layers_of(sound, source, backend, images=2)
        assert table.fault is None
        assert [row.name for row in table.rows if not row.passed] == []


SATURATING = """
import sys
sys.path[:0] = sys.argv[1].split(":")
from graphs import quantization_of, source_of
from networks import narrowed, separating_weights
from alexnet_deploy.core.bundle.quantization import MAX_LEVEL
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.pipeline.golden.layers import run_layers

weights = separating_weights(narrowed(ARCHITECTURES["paper"]))
quantization = quantization_of(weights, weight_level=MAX_LEVEL)
source = source_of(weights, views_by_name("center", 227), "int8", quantization)
table = run_layers(source, weights.architecture, golden_images()[:1], None, "openvino")
print(*(row.name for row in table.rows if not row.passed))
"""


@pytest.mark.slow
def test_layers_whose_products_saturate_are_named() -> None:
    """A fault that nobody planted: without VNNI OpenVINO adds two products of eight-bit weights in sixteen bits."""
    done = subprocess.run(
        [sys.executable, "-c", SATURATING, f"{TESTS}/support:{TESTS}/programs"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stderr
    named = done.stdout.split()
    assert named[0] == "conv1"
    assert {"conv2", "conv3", "conv4", "conv5", "fc7"} <= set(named) <= {"conv1", *PRODUCTS}


def test_only_the_accumulated_error_grows_behind_the_layer_at_fault(
    weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch, "conv3", times(1.02))
    views = views_by_name("center", weights.architecture.input_size)
    with open_reference(weights, views) as trained:
        source = graph_of(weights, "center", FP32)
        table = run_layers(source, weights.architecture, golden_images()[:1], trained, "openvino")
    names = [row.name for row in table.rows]
    compared = {row.name: row.network.rms for row in table.rows if row.network is not None}
    # The steps up to the scale have no layer in torch.
    assert [name for name in names if name not in compared] == ["to_float", "channels_first", "subtract_mean"]
    place = names.index("conv3")
    assert all(compared[name] < 1e-5 for name in names[3:place])
    assert all(compared[name] > 1e-3 for name in names[place:])
    assert all(row.own.rms < 1e-5 for row in table.rows if row.name != "conv3")


def test_infinity_is_at_fault_where_it_begins(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "conv3", times(1e38))
    table = layers_of(weights, graph_of(weights, "center", FP32), "onnxruntime")
    assert table.at_fault is not None
    assert table.at_fault.name == "conv3"
    # Its probabilities are NaN, with outputs added and without.
    assert not table.rows[-1].passed
    assert not table.unfused_error <= 1.0


def test_fault_that_added_outputs_remove_is_told_as_such(weights: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch, "conv3", times(2.0), only_without_added_outputs=True)
    table = layers_of(weights, graph_of(weights, "center", FP32), "openvino")
    assert table.at_fault is None
    assert table.fault is not None
    assert table.fault.endswith("over 1e-05: the fault is in how the engine fuses layers")


def test_nothing_that_is_not_a_number_is_within_a_limit() -> None:
    difference = Difference()
    difference.add(np.ones(3), np.array([1.0, np.nan, 1.0]))
    difference.add(np.ones(3), np.ones(3))
    error = difference.error()
    limit = LIMITS["int8"]
    assert not error.rms <= limit.rms
    assert not error.max <= limit.max


def test_difference_is_relative_to_all_batches() -> None:
    difference = Difference()
    difference.add(np.array([3.0]), np.array([3.0]))
    difference.add(np.array([-4.0]), np.array([-3.5]))
    assert (difference.error().rms, difference.error().max) == (0.1, 0.125)
    infinite = Difference()
    infinite.add(np.array([1.0, np.inf]), np.array([1.0, np.inf]))
    assert infinite.error().rms == 0.0
    zero = Difference()
    zero.add(np.zeros(2), np.array([0.0, 1e-30]))
    assert zero.error().rms == np.inf


# The command


@pytest.fixture(scope="module")
def centred(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    """A bundle of one view, whose layers take a tenth of the time."""
    return shipped(weights, tmp_path_factory.mktemp("centred"), views="center")


def test_command_prints_the_table_and_ends_with_the_layer(
    run: Run, centred: tuple[LoadedWeights, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded, bundle = centred
    path = bundle.path
    sound = run("check", path, "--layers", "--backend", "onnxruntime")
    assert sound.code == 0, sound.err
    table, verdict = sound.out.split("\n\n")[1], sound.out.splitlines()[-1]
    assert verdict.startswith("onnxruntime ")
    assert verdict.endswith(": no layer is at fault")
    layers = [layer.name for layer in loaded.weights.architecture.layers if not layer.name.startswith("drop")]
    named = [line.split()[0] for line in table.splitlines()[2:-1]]
    assert named == [
        "to_float",
        "channels_first",
        "subtract_mean",
        "pixels",
        "views",
        *layers,
        "softmax",
        "probabilities",
    ]
    plant(monkeypatch, "conv4", times(1.02))
    faulty = run("check", path, "--weights", loaded.path, "--layers", "--backend", "onnxruntime", "--json")
    assert faulty.code == 1
    (answer,) = json.loads(faulty.out)["layers"]
    assert answer["at_fault"] == "conv4"
    assert (
        "conv4 (conv) is at fault: on its own input it differs from ONNX's definition by 0.02 (RMS), limit"
        in answer["fault"]
    )
    (row,) = (row for row in answer["rows"] if row["name"] == "conv4")
    assert row["own"]["rms"] == pytest.approx(0.02, rel=1e-4)
    assert row["network"]["rms"] == pytest.approx(0.02, rel=1e-3)
    assert row["limit"] == msgspec.to_builtins(LIMITS["float32"])


def test_layers_of_a_plan_are_refused(run: Run, centred: tuple[LoadedWeights, Bundle]) -> None:
    outcome = run("check", centred[1].path, "--layers", "--backend", "tensorrt")
    assert outcome.code == 2
    assert "tensorrt: layers need outputs added to the graph, and a plan cannot get any; use openvino or" in outcome.err
