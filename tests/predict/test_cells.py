"""Every published architecture in every precision on every backend: the cells of one table."""

import functools
import gc
import importlib.util
from collections.abc import Callable, Iterator

import msgspec
import numpy as np
import pytest
from graphs import quantization_of, source_of
from networks import narrowed, separating_weights

from alexnet_deploy.core.bundle.manifest import GOLDEN_SET, ParityRow
from alexnet_deploy.core.bundle.plans import PlanOptions, Profile
from alexnet_deploy.core.bundle.vocabulary import Precision, Rest
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.engines.backends.torch import open_reference
from alexnet_deploy.engines.engine import GraphSource, open_graph
from alexnet_deploy.engines.proof.parity import INT8_TIE, TIE, compare
from alexnet_deploy.engines.proof.tolerances import int8_graph_tolerance
from alexnet_deploy.engines.registry import BACKENDS, GraphBackend
from alexnet_deploy.export.reference import exact_answers
from alexnet_deploy.inspection.describe import parity_table

NAMES = [name for name in ARCHITECTURES if name != "tiny"]
CELLS: dict[str, tuple[Precision, Rest | None]] = {
    "fp32": ("fp32", None),
    "fp16": ("fp16", None),
    "int8": ("int8", "fp32"),
    "int8, rest fp16": ("int8", "fp16"),
}
IMAGES = golden_images()

_REPORTED = ("CONVOLUTION", "MATRIX_MULTIPLY", "LRN", "QUANTIZE", "DEQUANTIZE")
"""Kinds of plan layers that the slow test reports."""


@functools.cache
def network(name: str) -> tuple[Weights, np.ndarray]:
    """A narrow network and its probabilities for the golden images."""
    weights = separating_weights(narrowed(ARCHITECTURES[name]))
    with open_reference(weights, views_by_name("ten", weights.architecture.input_size)) as reference:
        return weights, reference.run(IMAGES)


@functools.cache
def source(name: str, cell: str) -> GraphSource:
    weights, _ = network(name)
    precision, rest = CELLS[cell]
    views = views_by_name("ten", weights.architecture.input_size)
    return source_of(weights, views, precision, None if rest is None else quantization_of(weights, rest=rest))


@functools.cache
def exact(name: str, cell: str) -> np.ndarray:
    return exact_answers(source(name, cell).data, IMAGES)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", NAMES)
def test_cell_is_accepted_and_agrees(name: str, cell: str, backend: GraphBackend) -> None:
    _, expected = network(name)
    with open_graph(source(name, cell), backend) as engine:
        actual = engine.run(IMAGES)
        tie = INT8_TIE if cell.startswith("int8") else TIE
        row = compare(expected, actual, engine, GOLDEN_SET, tie=tie)
        assert row.passed, row
        # The precision of the graph shows in the error.
        assert (row.max_error > 1e-5) is (cell != "fp32")
        if cell.startswith("int8"):
            row = compare(exact(name, cell), actual, engine, GOLDEN_SET, tolerance=int8_graph_tolerance(10))
            assert row.passed, row


@pytest.mark.rtx
@pytest.mark.parametrize("cell", ["fp32", "int8", "int8, rest fp16"])
@pytest.mark.parametrize("name", NAMES)
def test_cell_becomes_a_plan(name: str, cell: str) -> None:
    """NVIDIA's builder accepts the graph and keeps its types; this needs no GPU. For fp16 see test_half."""
    layers = plan_layers(source(name, cell))
    assert not any(kind.endswith(" int32") and kind.startswith(("CONVOLUTION", "QUANTIZE")) for kind in layers), layers
    rest = "float16" if cell == "int8, rest fp16" else "float32"
    assert layers[f"CONVOLUTION {rest}"] == 5
    if any("LRN" in kind for kind in layers):
        assert {kind for kind in layers if "LRN" in kind} == {"LRN float32"}
    if cell.startswith("int8"):
        assert layers["QUANTIZE int8"] == 8
        assert layers[f"DEQUANTIZE {rest}"] == 16


def plan_layers(of: GraphSource) -> dict[str, int]:
    pytest.importorskip("tensorrt_rtx_bindings", reason="tensorrt-rtx is not installed")
    from alexnet_deploy.engines.tensorrt.build import build_plan

    built = build_plan(of.data, "tensorrt-rtx", Profile(), PlanOptions())
    assert built.record.proof == "pending"
    assert len(built.data) > 100_000
    return built.record.layers


@pytest.mark.slow
@pytest.mark.rtx
@pytest.mark.parametrize("name", NAMES)
def test_cells_at_full_size(name: str, note: Callable[[list[ParityRow], str], None]) -> None:
    """Random weights, every layer in the requested precision: no accuracy gate moves a layer back to float."""
    weights = separating_weights(ARCHITECTURES[name])
    views = views_by_name("ten", weights.architecture.input_size)
    with open_reference(weights, views) as reference:
        expected = reference.run(IMAGES)
    rows = []
    for cell, (precision, rest) in CELLS.items():
        of = source_of(weights, views, precision, None if rest is None else quantization_of(weights, rest=rest))
        own = exact_answers(of.data, IMAGES) if precision == "int8" else None
        found = []
        for backend in BACKENDS:
            with open_graph(of, backend) as engine:
                actual = engine.run(IMAGES)
                tie = INT8_TIE if precision == "int8" else TIE
                found.append(compare(expected, actual, engine, f"{name}, {cell}", tie=tie))
                if own is not None:
                    row = compare(own, actual, engine, f"{name}, {cell}", tolerance=int8_graph_tolerance(10))
                    found.append(msgspec.structs.replace(row, against="graph"))
        note(found, f"{name}, {cell}: tensorrt-rtx {plan_of(of.data)}")
        rows.extend(found)
        # A full-size network is 245 MB, and so is each of its copies.
        del of, own, actual, engine
        gc.collect()
    assert [row for row in rows if not row.passed] == []


def plan_of(graph: bytes) -> str:
    """A plan's size and arithmetic, or a note that there is no builder on this machine."""
    if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
        return "not built: not installed"
    from alexnet_deploy.engines.tensorrt.build import build_plan

    built = build_plan(graph, "tensorrt-rtx", Profile(), PlanOptions())
    products = ", ".join(f"{count} {kind}" for kind, count in built.record.layers.items() if kind.startswith(_REPORTED))
    return f"{len(built.data) / 1e6:.0f} MB in {built.record.build_seconds:.0f} s, {products}"


@pytest.fixture(scope="module")
def note(request: pytest.FixtureRequest) -> Iterator[Callable[[list[ParityRow], str], None]]:
    """Collects the measurements of the slow test and prints them as one table at the end."""
    rows: list[ParityRow] = []
    plans: list[str] = []

    def take(measured: list[ParityRow], plan: str) -> None:
        rows.extend(measured)
        plans.append(plan)

    yield take
    if rows:
        capture = request.config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            print("", parity_table(rows), *plans, sep="\n")
