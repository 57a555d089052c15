"""INT8 on CPUs without VNNI, simulated with oneDNN's settings: the products are those of the graph on each CPU."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from graphs import quantization_of, source_of
from networks import narrowed, separating_weights

from alexnet_deploy.core.bundle.quantization import MAX_LEVEL, WEIGHT_LEVEL
from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.core.process import machine
from alexnet_deploy.engines import engine as engines
from alexnet_deploy.engines.backends import openvino as openvino_engine
from alexnet_deploy.engines.engine import GraphSource, open_graph
from alexnet_deploy.engines.proof.tolerances import int8_graph_tolerance

# oneDNN uses the nearest instruction set of the CPU; all other tests run on the CPU's best.
INSTRUCTION_SETS = ("SSE41", "AVX2", "AVX512_CORE")

ALONE = 1e-3
"""Tolerance of a network with one layer in int8: float32 sums in another order moved it by at most 1.2e-4, saturating
sums or halved weights by 4e-3 to 4e-2 (AVX2, conv1 to fc7)."""

TESTS = Path(__file__).parents[1]

PROGRAM = """
import sys
sys.path[:0] = sys.argv[1].split(":")
import msgspec, numpy as np
from graphs import RESTS, quantization_of, source_of
from networks import narrowed, separating_weights
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.architecture import Relu, Tanh
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.engines.engine import open_graph
from alexnet_deploy.export.reference import exact_answers

images = golden_images()[:2]

def error_of(weights, quantization):
    views = views_by_name("ten", weights.architecture.input_size)
    source = source_of(weights, views, "int8", quantization)
    with open_graph(source, "openvino") as engine:
        actual = engine.run(images)
    own = exact_answers(source.data, images)
    return float(np.abs(actual - own).max()), float(np.abs(np.log(actual) - np.log(own)).max())

table = narrowed(ARCHITECTURES[sys.argv[2]])
if sys.argv[3] == "tanh":
    layers = tuple(Tanh(name=layer.name) if isinstance(layer, Relu) else layer for layer in table.layers)
    table = msgspec.structs.replace(table, name="own", layers=layers)
weights, weight_level = separating_weights(table), int(sys.argv[4])
found = {}
for rest in RESTS:
    found[f"all, {rest}"] = error_of(weights, quantization_of(weights, rest=rest, weight_level=weight_level))
for layer in quantization_of(weights).ranges:
    found[layer] = error_of(weights, quantization_of(weights, layer, weight_level=weight_level))
print(msgspec.json.encode(found).decode())
"""


def errors(isa: str, name: str, activation: str, weight_level: int = WEIGHT_LEVEL) -> dict[str, tuple[float, float]]:
    """The errors of OpenVINO against its own int8 graphs, with all layers in int8 and with each alone."""
    folders = f"{TESTS}/support:{TESTS}/programs"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, folders, name, activation, str(weight_level)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return msgspec.json.decode(done.stdout, type=dict[str, tuple[float, float]])


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_int8_is_what_the_graph_says_on_every_instruction_set(isa: str) -> None:
    check_errors(errors(isa, "original", "relu"))


@pytest.mark.slow
@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
def test_int8_after_tanh_is_what_the_graph_says_on_every_instruction_set(isa: str) -> None:
    # After tanh the inputs of products are signed.
    check_errors(errors(isa, "paper", "tanh"))


def check_errors(found: dict[str, tuple[float, float]]) -> None:
    assert len(found) == 2 + 8
    tolerance = int8_graph_tolerance(10)
    for what, (error, log_error) in found.items():
        if "," in what:
            assert error <= tolerance.probability, what
            assert log_error <= tolerance.log_probability, what
        else:
            assert error <= ALONE, what


@pytest.mark.slow
def test_signed_inputs_need_weights_of_seven_bits_on_avx2() -> None:
    found = errors("AVX2", "paper", "tanh", MAX_LEVEL)
    assert all(error > ALONE for what, (error, _) in found.items() if "," not in what)


# Graphs of older bundles with 8-bit weights


@pytest.fixture(scope="module")
def older() -> GraphSource:
    weights = separating_weights(narrowed(ARCHITECTURES["paper"]))
    source = source_of(weights, views_by_name("ten", 227), "int8", quantization_of(weights, weight_level=MAX_LEVEL))
    return replace(source, needs_vnni=True)


@pytest.mark.parametrize(("has_vnni", "backend"), [(True, "openvino"), (False, "onnxruntime")])
def test_auto_takes_what_computes_an_older_graph_right(
    older: GraphSource, has_vnni: bool, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "has_vnni", lambda: has_vnni)
    with open_graph(older) as engine:
        assert engine.info.backend == backend
    with open_graph(replace(older, needs_vnni=False)) as engine:
        assert engine.info.backend == "openvino"


def test_without_another_engine_an_older_graph_is_refused(older: GraphSource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "has_vnni", lambda: False)
    monkeypatch.setattr(engines, "installed_backends", lambda: ("openvino",))
    with pytest.raises(BackendError, match=r"has 8-bit weights, which openvino computes wrongly on a CPU without VNNI"):
        open_graph(older)
    # An explicit backend is used, and reports its arithmetic.
    monkeypatch.setattr(openvino_engine, "has_vnni", lambda: False)
    with open_graph(older, "openvino") as engine:
        assert engine.info.arithmetic == "saturating int8 products"
    with open_graph(replace(older, needs_vnni=False), "openvino") as engine:
        assert engine.info.arithmetic == "int8 products"


def test_a_bundle_says_which_weights_it_has(int8_shipment: tuple[LoadedWeights, Bundle]) -> None:
    quantization = open_bundle(int8_shipment[1].path).manifest.quantization
    assert quantization is not None
    assert not quantization.needs_vnni
    assert msgspec.structs.replace(quantization, weight_level=MAX_LEVEL).needs_vnni


# Detection of the CPU


@pytest.mark.parametrize(
    ("architecture", "flags", "isa", "expected"),
    [
        ("x86_64", "fpu avx2", "", False),
        ("x86_64", "fpu avx2 avx512f avx512_vnni", "", True),
        ("AMD64", "fpu avx_vnni", "", True),
        ("x86_64", "fpu avx512_vnni", "AVX512_CORE", False),
        ("x86_64", "fpu avx512_vnni", "avx2", False),
        ("x86_64", "fpu avx512_vnni", "AVX512_CORE_VNNI", True),
        ("aarch64", "", "AVX2", True),
    ],
)
def test_vnni_is_what_the_processor_has_and_onednn_may_use(
    architecture: str, flags: str, isa: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: architecture)
    monkeypatch.setattr(machine, "_cpu_info", lambda field: [flags] if field == "flags" else [])
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert machine.has_vnni() is expected
