"""The layers of running engines on the golden images: which one is at fault."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import onnx

from alexnet_deploy.core.bundle.contract import IMAGES, Output
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import WrongAnswerError
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.engines.engine import Device, Engine, GraphSource, open_graph, source_of
from alexnet_deploy.engines.proof.features import relative_errors
from alexnet_deploy.engines.proof.layers import LIMITS, Difference, LayerRow, LayerTable, layer_table, nearest
from alexnet_deploy.engines.registry import BACKENDS, Backend, GraphBackend
from alexnet_deploy.export.layers.definition import Definition
from alexnet_deploy.export.layers.taps import Step, halves_of, steps_of, with_steps

_IMAGES_AT_ONCE = 2
"""Keeps every layer of a full-size network, ten views, in float64, below a gigabyte."""


def check_layers(
    bundle: Bundle,
    weights: Weights | None,
    backends: Sequence[Backend],
    device: Device | Literal["auto"] = "auto",
    say: Say = say_nothing,
) -> Iterator[LayerTable]:
    """Yield the layers of each backend that opens graphs, run on the golden images; plans are skipped.

    The graph must have passed the audit. With `weights`, each layer is compared with the trained network's too. Raises
    what open_engine and Engine.run raise.
    """
    source = source_of(bundle)
    images = bundle.read_tensor(bundle.manifest.golden.images)
    with _trained(weights, bundle) as trained:
        for backend in BACKENDS:
            if backend in backends:
                say(f"running each layer on {backend}")
                yield run_layers(source, bundle.manifest.architecture, images, trained, backend, device)


def run_layers(
    source: GraphSource,
    architecture: Architecture,
    images: np.ndarray,
    trained: Engine | None,
    backend: GraphBackend,
    device: Device | Literal["auto"] = "auto",
) -> LayerTable:
    """Return the layers of one backend on images, uint8 (N, 256, 256, 3).

    The graph is run twice, as it is and with the output of each layer added. `trained` is the trained network as an
    engine, with the same views. Raises what open_graph and Engine.run raise.
    """
    model = onnx.load_model_from_string(source.data)
    found = _Layers(
        steps=steps_of(model.graph, architecture, source.output),
        definitions=_definitions(model.graph),
        output=source.output,
    )
    tapped = replace(source, data=with_steps(model, found.steps).SerializeToString())
    with open_graph(source, backend, device) as usual, open_graph(tapped, backend, device) as engine:
        for start in range(0, len(images), _IMAGES_AT_ONCE):
            batch = images[start : start + _IMAGES_AT_ONCE]
            found.add(batch, engine.run_layers(batch), {} if trained is None else trained.run_layers(batch))
            found.compare_unfused(_run(usual, batch))
        return layer_table(
            found.rows(),
            engine,
            num_images=len(images),
            num_views=source.num_views,
            unfused_error=found.unfused_error,
        )


def _trained(weights: Weights | None, bundle: Bundle) -> AbstractContextManager[Engine | None]:
    if weights is None:
        return nullcontext()
    from alexnet_deploy.engines.backends.torch import open_reference

    manifest = bundle.manifest
    return open_reference(weights, manifest.views.crops, output_layer=manifest.output.layer)


def _run(engine: Engine, images: np.ndarray) -> np.ndarray:
    """Return the output for a batch; NaN, which fails every comparison, where it breaks the contract."""
    try:
        return engine.run(images)
    except WrongAnswerError:
        return np.full((1, 1), np.nan, dtype=np.float32)


def _definitions(graph: onnx.GraphProto) -> tuple[Definition, ...]:
    """Return what float16 may mean: rounded, as ONNX says, or computed wider; an engine does the one or the other."""
    rounded = Definition(graph, rounds=True)
    return (rounded, Definition(graph, rounds=False)) if halves_of(graph) else (rounded,)


@dataclass(slots=True, kw_only=True)
class _Layers:
    """The differences of each step so far."""

    steps: Sequence[Step]
    definitions: Sequence[Definition]
    output: Output
    """What the graph returns."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    network: dict[str, Difference] = field(default_factory=dict)
    own: dict[str, tuple[Difference, ...]] = field(default_factory=dict)
    """Against each of the definitions."""
    outputs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    """Of the last batch."""
    unfused_error: float = 0.0

    def add(self, images: np.ndarray, outputs: Mapping[str, np.ndarray], trained: Mapping[str, np.ndarray]) -> None:
        """Compare the outputs for a batch with the definitions, and with the outputs of the trained network."""
        known = {IMAGES: images}
        for step in self.steps:
            actual = outputs[step.output]
            self.shapes[step.name] = actual.shape[1:]
            own = self.own.setdefault(step.name, tuple(Difference() for _ in self.definitions))
            for difference, definition in zip(own, self.definitions, strict=True):
                difference.add(definition.value_of(step.value, known), actual)
            if step.name in trained:
                self.network.setdefault(step.name, Difference()).add(trained[step.name], actual)
            known[step.value] = actual
        self.outputs = outputs[self.output.name]

    def compare_unfused(self, usual: np.ndarray) -> None:
        """Compare the outputs for the last batch with those of the engine without added outputs."""
        if self.output.layer is None:
            error = np.abs(self.outputs.astype(np.float64) - usual).max()
        else:
            error = relative_errors(usual, self.outputs).max()
        # np.maximum keeps NaN.
        self.unfused_error = float(np.maximum(self.unfused_error, error))

    def rows(self) -> tuple[LayerRow, ...]:
        """Return the row of each step."""
        return tuple(
            LayerRow(
                name=step.name,
                kind=step.kind,
                numbers=step.numbers,
                shape=self.shapes[step.name],
                network=self.network[step.name].error() if step.name in self.network else None,
                own=nearest(self.own[step.name]),
                limit=LIMITS[step.numbers],
            )
            for step in self.steps
        )
