"""ONNX Runtime, on the CPU or an NVIDIA GPU."""

import inspect

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state

from alexnet_deploy.core.bundle.contract import IMAGES
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.engines.engine import Device, Engine, GraphSource, Tuning, cuda_index, engine_of_graph, in_one_line

_INT8 = "float32, rounded to int8"

_ARITHMETIC: dict[bool, dict[Precision, str]] = {
    # The CPU kernels have no half Conv or Gemm: they convert to float32 and back.
    # Nor do they fuse a symmetric int8 product with the ReLU after it: they round to int8 and compute in float32.
    # Key: True on a GPU.
    False: {"fp32": "float32", "fp16": "float32, rounded to float16", "int8": _INT8},
    True: {"fp32": "float32", "fp16": "float16", "int8": _INT8},
}

# ONNX Runtime's exceptions have no common base class.
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
    def __init__(self, session: onnxruntime.InferenceSession, output: str) -> None:
        self._session = session
        self._output = output

    def run(self, images: np.ndarray) -> np.ndarray:
        return self._outputs([self._output], images)[0]

    def run_layers(self, images: np.ndarray) -> dict[str, np.ndarray]:
        names = [output.name for output in self._session.get_outputs()]
        return dict(zip(names, self._outputs(names, images), strict=True))

    def _outputs(self, names: list[str], images: np.ndarray) -> list[np.ndarray]:
        try:
            outputs: list[np.ndarray] = self._session.run(names, {IMAGES: images})
        except _ERRORS as error:
            raise BackendError(f"onnxruntime: the graph could not be run: {in_one_line(error)}") from error
        return outputs

    def close(self) -> None:
        del self._session


def runs_on_cuda() -> bool:
    """Return whether the installed ONNX Runtime has a provider for NVIDIA GPUs."""
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def open_graph(source: GraphSource, *, device: Device, threads: int | None, tuned_for: Tuning) -> Engine:
    """Open a graph on ONNX Runtime's provider for the device, without fallback; raises BackendError.

    The engine has one stream for either tuning.
    """
    index = cuda_index(device)
    # TF32 is on by default and would multiply float32 with eleven bits.
    provider, settings = (
        ("CPUExecutionProvider", {})
        if index is None
        else ("CUDAExecutionProvider", {"device_id": str(index), "use_tf32": "0"})
    )
    if provider not in onnxruntime.get_available_providers():
        raise BackendError(
            f"the installed onnxruntime {onnxruntime.__version__} does not run on {device}; "
            "replace it with `pip install onnxruntime-gpu`"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    # Fatal only: errors are raised, and would also be printed.
    options.log_severity_level = 4
    if index is not None:
        # Otherwise operators that the GPU does not support run on the CPU silently.
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = onnxruntime.InferenceSession(source.data, options, providers=[(provider, settings)])
    except _ERRORS as error:
        where = "" if index is None else f" on {device}"
        raise BackendError(f"{source.name}: onnxruntime cannot load the graph{where}: {in_one_line(error)}") from error
    # Otherwise a run that fails on the GPU is retried on the CPU.
    session.disable_fallback()
    if (used := session.get_providers())[0] != provider:
        raise BackendError(
            f"{source.name}: onnxruntime uses {', '.join(used)} instead of {provider}: it cannot load its CUDA "
            "libraries"
        )
    return engine_of_graph(
        source,
        [_Runner(session, source.output.name)],
        backend="onnxruntime",
        version=onnxruntime.__version__,
        device=device,
        arithmetic=_ARITHMETIC[index is not None][source.precision],
        threads=threads,
    )
