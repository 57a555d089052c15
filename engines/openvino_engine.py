"""OpenVINO on the CPU."""

import numpy as np
import openvino

from alexnet_deploy.core.bundle import GRAPH, Bundle
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.engines.engine import Engine, engine_of_bundle, in_one_line

_ARITHMETIC = {"fp32": "float32", "fp16": "float32"}


class _Runner:
    def __init__(self, compiled: openvino.CompiledModel, input_name: str, output_name: str) -> None:
        self._request = compiled.create_infer_request()
        self._input = input_name
        self._output = output_name

    def run(self, images: np.ndarray) -> np.ndarray:
        try:
            self._request.infer({self._input: images}, share_inputs=True)
        except RuntimeError as error:
            raise BackendError(f"openvino: the graph could not be run: {in_one_line(error)}") from error
        result: np.ndarray = self._request.get_tensor(self._output).data
        return result

    def close(self) -> None:
        del self._request


def open_openvino(bundle: Bundle, threads: int | None) -> Engine:
    """Open a bundle on OpenVINO's CPU device; raises BackendError, IntegrityError."""
    manifest = bundle.manifest
    # Without the hint it runs even an FP32 graph in bfloat16 where the processor can: an error of 3.8e-3.
    settings: dict[str, object] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    if threads is not None:
        settings["INFERENCE_NUM_THREADS"] = threads
    graph = bundle.read(GRAPH)
    try:
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    except RuntimeError as error:
        raise BackendError(f"{bundle.path}: openvino cannot load the graph: {in_one_line(error)}") from error
    return engine_of_bundle(
        bundle,
        _Runner(compiled, manifest.contract.input.name, manifest.contract.output.name),
        backend="openvino",
        version=openvino.get_version().split("-")[0],
        arithmetic=_ARITHMETIC[manifest.precision],
        threads=threads,
    )
