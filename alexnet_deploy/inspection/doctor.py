"""What this machine can run, what is missing, and how to install it."""

import importlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from msgspec import Struct

from alexnet_deploy.core.bundle.vocabulary import PLAN_BACKENDS
from alexnet_deploy.core.process.installation import SMALL_TORCH, Extra, install_command
from alexnet_deploy.core.process.machine import has_vnni, processor
from alexnet_deploy.core.process.versions import installed_version
from alexnet_deploy.engines.registry import BACKENDS, SPECS, BackendSpec, installed_module
from alexnet_deploy.engines.tensorrt.device_memory import find_gpu


class Finding(Struct, frozen=True, kw_only=True):
    """The state of one component."""

    subject: str
    state: Literal["ok", "missing", "broken", "fact"]
    """`broken`: installed, but unusable."""
    version: str | None = None
    """Installed version; None if nothing is installed, or it has no version."""
    detail: str | None = None
    """What it is, or what it is used for."""
    problem: str | None = None
    """Why it cannot be used."""
    remedy: str | None = None
    """The command that installs it."""
    note: str | None = None
    """What to know before installing it."""

    @property
    def words(self) -> str:
        """The finding as one line of text."""
        known = " ".join(part for part in (self.version, self.detail, self.problem) if part)
        words = ": ".join(part for part in (known, self.remedy) if part)
        return f"{words}; {self.note}" if self.note else words


class Examination(Struct, frozen=True, kw_only=True):
    """All findings, as `doctor --json` prints them."""

    passed: bool
    """True if nothing is broken."""
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The fields of BackendSpec, for a library that is not a backend."""

    modules: tuple[str, ...]
    packages: tuple[str, ...]
    use: str
    extra: Extra


_WITHOUT_VNNI = "no VNNI: int8 graphs with 8-bit weights, exported before 25 November 2026, run on ONNX Runtime"

_PARTS: tuple[tuple[str, _Part | BackendSpec], ...] = (
    *((name, SPECS[name]) for name in BACKENDS),
    ("pillow-heif", _Part(modules=("pillow_heif",), packages=("pillow-heif",), use="HEIC images", extra="heif")),
    (
        "fsspec",
        _Part(modules=("fsspec",), packages=("fsspec",), use="images behind URLs, in object stores", extra="remote"),
    ),
    ("h5py", _Part(modules=("h5py",), packages=("h5py",), use="import of Keras's files", extra="import")),
    (
        "torch",
        _Part(modules=("torch",), packages=("torch",), use="training, and reference of every check", extra="train"),
    ),
    ("onnx", _Part(modules=("onnx",), packages=("onnx",), use="export and audit of graphs", extra="train")),
    *((name, SPECS[name]) for name in reversed(PLAN_BACKENDS)),
)


_NOTES = {
    "tensorrt": "needs a machine with an NVIDIA GPU",
    **({"torch": SMALL_TORCH} if sys.platform == "linux" else {}),
}


def examine() -> Iterator[Finding]:
    """Yield one finding per component; each library is imported, since an installed one may fail to load."""
    yield Finding(subject="python", state="fact", version=platform.python_version(), detail=platform.platform())
    yield Finding(subject="processor", state="fact", detail=processor(), note=None if has_vnni() else _WITHOUT_VNNI)
    yield _gpu()
    for subject, part in _PARTS:
        yield _look_at(subject, part)
    yield _cuda()
    if installed_version("onnxruntime") and installed_version("onnxruntime-gpu"):
        yield Finding(
            subject="onnxruntime",
            state="broken",
            problem="onnxruntime and onnxruntime-gpu are both installed, and overwrite each other's files",
            note="uninstall both, then install one",
        )


def _cuda() -> Finding:
    """Return the state of the CUDA bindings, which plans need to use a GPU."""
    versions = {package: version for package in ("pycuda", "cuda-bindings") if (version := installed_version(package))}
    found = ", ".join(f"{package} {version}" for package, version in versions.items()) or None
    use = "CUDA bindings, needed to run plans"
    if found is None:
        return Finding(subject="cuda", state="missing", detail=use, remedy="pip install cuda-python")
    gpu = find_gpu()
    if gpu is not None:
        return Finding(subject="cuda", state="ok", version=found, detail=f"found GPU {gpu.target}")
    if shutil.which("nvidia-smi") is not None:
        problem = "found no GPU, although a driver is installed"
        return Finding(subject="cuda", state="broken", version=found, problem=problem)
    return Finding(subject="cuda", state="missing", version=found, problem="is installed, but there is no GPU")


def _look_at(subject: str, part: _Part | BackendSpec) -> Finding:
    versions = [version for package in part.packages if (version := installed_version(package)) is not None]
    if not versions:
        remedy, note = install_command(part.extra), _NOTES.get(subject)
        return Finding(subject=subject, state="missing", detail=part.use, remedy=remedy, note=note)
    try:
        importlib.import_module(installed_module(part.modules) or part.modules[0])
    except (ImportError, OSError) as error:
        problem = f"is installed, but does not load: {error}"
        return Finding(subject=subject, state="broken", version=versions[0], problem=problem)
    return Finding(subject=subject, state="ok", version=versions[0], detail=part.use)


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        problem = "no NVIDIA driver found: plans can be built (tensorrt-rtx), but not run"
        return Finding(subject="gpu", state="missing", problem=problem)
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        problem = f"an NVIDIA driver is installed, but nvidia-smi fails: {error}"
        return Finding(subject="gpu", state="broken", problem=problem)
    return Finding(subject="gpu", state="ok", detail="; ".join(line.split(" (UUID")[0] for line in listed.splitlines()))
