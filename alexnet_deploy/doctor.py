"""What this machine can run, what is missing, and how to get it."""

import importlib
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from alexnet_deploy.core.machine import processor
from alexnet_deploy.core.versions import installed_version
from alexnet_deploy.engines.device_memory import find_gpu


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the doctor's."""

    state: Literal["ok", "missing", "broken", "fact"]
    """`broken`: installed, and cannot be used."""
    subject: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    subject: str
    module: str
    packages: tuple[str, ...]
    use: str
    remedy: str


_PARTS = (
    _Part(
        subject="openvino",
        module="openvino",
        packages=("openvino",),
        use="runs bundles on the CPU",
        remedy="pip install 'alexnet-deploy[cpu]'",
    ),
    _Part(
        subject="onnxruntime",
        module="onnxruntime",
        packages=("onnxruntime", "onnxruntime-gpu"),
        use="runs bundles on the CPU",
        remedy="pip install 'alexnet-deploy[cpu]'",
    ),
    _Part(
        subject="torch",
        module="torch",
        packages=("torch",),
        use="trains, and is the reference of every proof",
        remedy="pip install 'alexnet-deploy[train]'",
    ),
    _Part(
        subject="onnx",
        module="onnx",
        packages=("onnx",),
        use="exports and audits graphs",
        remedy="pip install 'alexnet-deploy[train]'",
    ),
    _Part(
        subject="tensorrt-rtx",
        module="tensorrt_rtx_bindings",
        packages=("tensorrt-rtx-cu13-bindings",),
        use="builds plans, also without a GPU, and runs them on RTX GPUs",
        remedy="pip install 'alexnet-deploy[rtx]'",
    ),
    _Part(
        subject="tensorrt",
        module="tensorrt",
        packages=("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
        use="builds and runs plans on NVIDIA GPUs",
        remedy="pip install 'alexnet-deploy[gpu]' on a machine with an NVIDIA GPU",
    ),
)


def examine() -> Iterator[Finding]:
    """Yield what there is, part by part; each library is really loaded, since an installed one may not load."""
    yield Finding(state="fact", subject="python", words=f"{platform.python_version()}, {platform.platform()}")
    yield Finding(state="fact", subject="processor", words=processor())
    yield _gpu()
    for part in _PARTS:
        yield _look_at(part)
    yield _cuda()
    if installed_version("onnxruntime") and installed_version("onnxruntime-gpu"):
        words = (
            "both onnxruntime and onnxruntime-gpu are installed, and overwrite each other: uninstall both, install one"
        )
        yield Finding(state="broken", subject="onnxruntime", words=words)


def _cuda() -> Finding:
    """Return what plans would reach a GPU with."""
    versions = {package: version for package in ("pycuda", "cuda-bindings") if (version := installed_version(package))}
    words = ", ".join(f"{package} {version}" for package, version in versions.items())
    gpu = find_gpu() if versions else None
    if gpu is not None:
        return Finding(state="ok", subject="cuda", words=f"{words} reaches {gpu.target}")
    if versions and shutil.which("nvidia-smi") is not None:
        return Finding(state="broken", subject="cuda", words=f"{words} reaches no GPU, though a driver is installed")
    if versions:
        return Finding(state="missing", subject="cuda", words=f"{words} is installed, and there is no GPU to reach")
    return Finding(state="missing", subject="cuda", words="plans run through it: pip install cuda-python")


def _look_at(part: _Part) -> Finding:
    versions = [version for package in part.packages if (version := installed_version(package)) is not None]
    if not versions:
        return Finding(state="missing", subject=part.subject, words=f"{part.use}: {part.remedy}")
    try:
        importlib.import_module(part.module)
    except (ImportError, OSError) as error:
        return Finding(
            state="broken", subject=part.subject, words=f"{versions[0]} is installed and does not load: {error}"
        )
    return Finding(state="ok", subject=part.subject, words=f"{versions[0]} {part.use}")


def _gpu() -> Finding:
    if shutil.which("nvidia-smi") is None:
        words = "no NVIDIA driver was found: plans can be built (tensorrt-rtx) and not run"
        return Finding(state="missing", subject="gpu", words=words)
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return Finding(
            state="broken", subject="gpu", words=f"an NVIDIA driver is installed and does not answer: {error}"
        )
    return Finding(state="ok", subject="gpu", words="; ".join(line.split(" (UUID")[0] for line in listed.splitlines()))
