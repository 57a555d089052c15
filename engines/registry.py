"""The registry of backends: packages, devices, names. A new backend is a record here and a file in backends/.

It imports no backend: the command line reads the names for `--help`.
"""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias, get_args

from alexnet_deploy.core.bundle.vocabulary import PlanBackend
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.core.process.installation import Extra, install_command

GraphBackend: TypeAlias = Literal["openvino", "onnxruntime"]
Backend: TypeAlias = Literal[GraphBackend, PlanBackend]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSpec:
    """One library that runs bundles."""

    modules: tuple[str, ...]
    """Import names; the first installed one is used."""
    packages: tuple[str, ...]
    """Distributions that contain it."""
    extra: Extra
    """The extra of this package that installs it."""
    use: str
    """What it does, in a few words."""
    on_cpu: bool
    on_cuda: bool
    saturates: bool = False
    """Whether int8 graphs with 8-bit weights saturate on a CPU without VNNI, with wrong results."""


SPECS: MappingProxyType[Backend, BackendSpec] = MappingProxyType(
    {
        "openvino": BackendSpec(
            modules=("openvino",),
            packages=("openvino",),
            extra="cpu",
            use="runs bundles on the CPU",
            on_cpu=True,
            on_cuda=False,
            saturates=True,
        ),
        "onnxruntime": BackendSpec(
            modules=("onnxruntime",),
            packages=("onnxruntime", "onnxruntime-gpu"),
            extra="cpu",
            use="runs bundles on the CPU",
            on_cpu=True,
            on_cuda=True,
        ),
        "tensorrt": BackendSpec(
            modules=("tensorrt",),
            packages=("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
            extra="gpu",
            use="builds and runs plans on NVIDIA GPUs",
            on_cpu=False,
            on_cuda=True,
        ),
        "tensorrt-rtx": BackendSpec(
            modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
            packages=("tensorrt-rtx-cu13-bindings",),
            extra="rtx",
            use="builds plans, also without a GPU, and runs them on RTX GPUs",
            on_cpu=False,
            on_cuda=True,
        ),
    }
)

BACKENDS: tuple[GraphBackend, ...] = get_args(GraphBackend)
"""Backends that run any bundle's graph, the fastest on a CPU first; the other backends run plans."""


def installed_module(modules: Iterable[str]) -> str | None:
    """Return the first of these names whose module is installed, or None; nothing is imported."""
    return next((name for name in modules if importlib.util.find_spec(name) is not None), None)


def remedy_for(backend: Backend) -> str:
    """Return the command that installs a backend's library."""
    return f"pip install {backend}" if backend in SPECS[backend].packages else install_command(SPECS[backend].extra)


def installed_backends() -> tuple[GraphBackend, ...]:
    """Return the installed backends of BACKENDS, the fastest first; none is imported.

    Raises BackendError if none is installed.
    """
    installed = tuple(backend for backend in BACKENDS if installed_module(SPECS[backend].modules) is not None)
    if not installed:
        raise BackendError(f"no engine is installed; run `{install_command('cpu')}`")
    return installed
