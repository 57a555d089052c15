"""ONNX Runtime on the CPU."""

import inspect

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from alexnet_deploy.core.bundle import GRAPH, Bundle
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.engines.engine import Engine, engine_of_bundle, in_one_line

# Its CPU kernels have no half Conv or Gemm: they convert to float32 and back.
_ARITHMETIC = {"fp32": "float32", "fp16": "float32, rounded to float16 between layers"}

# Its own exceptions have no base of their own.
_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        kind
        for _, kind in inspect.getmembers(onnxruntime_pybind11_state, inspect.isclass)
        if issubclass(kind, Exception)
    ),
)


class _Runner:
    def __init__(self, session: onnxruntime.InferenceSession, input_name: str, output_name: str) -> None:
        self._session = session
        self._input = input_name
        self._output = output_name

    def run(self, images: np.ndarray) -> np.ndarray:
        try:
            (probabilities,) = self._session.run([self._output], {self._input: images})
        except _ERRORS as error:
            raise BackendError(f"onnxruntime: the graph could not be run: {in_one_line(error)}") from error
        result: np.ndarray = probabilities
        return result

    def close(self) -> None:
        del self._session


def open_onnxruntime(bundle: Bundle, threads: int | None) -> Engine:
    """Open a bundle on ONNX Runtime's CPU provider; raises BackendError, IntegrityError."""
    manifest = bundle.manifest
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    graph = bundle.read(GRAPH)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except _ERRORS as error:
        raise BackendError(f"{bundle.path}: onnxruntime cannot load the graph: {in_one_line(error)}") from error
    return engine_of_bundle(
        bundle,
        _Runner(session, manifest.contract.input.name, manifest.contract.output.name),
        backend="onnxruntime",
        version=onnxruntime.__version__,
        arithmetic=_ARITHMETIC[manifest.precision],
        threads=threads,
    )
