"""OpenVINO on the CPU."""

import numpy as np
import openvino

from alexnet_deploy.core.bundle.contract import IMAGES
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.core.process.machine import has_vnni
from alexnet_deploy.engines.engine import Device, Engine, GraphSource, Tuning, engine_of_graph, in_one_line


def _arithmetic(source: GraphSource) -> str:
    if source.precision != "int8":
        return "float32"
    return "saturating int8 products" if source.needs_vnni and not has_vnni() else "int8 products"


class _Runner:
    def __init__(self, compiled: openvino.CompiledModel, output: str) -> None:
        self._request = compiled.create_infer_request()
        self._output = output
        # Values that OpenVINO merges share one tensor, which has the names of all.
        self._names = sorted({name for output in compiled.outputs for name in output.get_names()})

    def run(self, images: np.ndarray) -> np.ndarray:
        self._infer(images)
        return self._values(self._output)

    def run_layers(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self._infer(images)
        return {name: self._values(name) for name in self._names}

    def _infer(self, images: np.ndarray) -> None:
        try:
            self._request.infer({IMAGES: images}, share_inputs=True)
        except RuntimeError as error:
            raise BackendError(f"openvino: the graph could not be run: {in_one_line(error)}") from error

    def _values(self, name: str) -> np.ndarray:
        result: np.ndarray = self._request.get_tensor(name).data
        return result

    def close(self) -> None:
        del self._request


def open_graph(source: GraphSource, *, device: Device, threads: int | None, tuned_for: Tuning) -> Engine:
    """Open a graph on OpenVINO's CPU device; raises BackendError."""
    # Without the hint OpenVINO runs even an FP32 graph in bfloat16 on CPUs that support it: an error of 3.8e-3.
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": tuned_for.upper()}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    # The first use fills a table that every run reads. Two concurrent first runs would deadlock: one waits for the
    # table and holds the GIL, the other fills the table and waits for the GIL (3 of 20 processes did).
    openvino.Type.u8.to_dtype()
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(source.data), "CPU", settings)
        num_streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    except RuntimeError as error:
        raise BackendError(f"{source.name}: openvino cannot load the graph: {in_one_line(error)}") from error
    return engine_of_graph(
        source,
        [_Runner(compiled, source.output.name) for _ in range(num_streams)],
        backend="openvino",
        version=openvino.get_version().split("-")[0],
        device=device,
        arithmetic=_arithmetic(source),
        threads=threads,
    )
