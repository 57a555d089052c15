"""What a bundle says of a plan: a serialised TensorRT engine, its bytes untouched, in plans/."""

import re
from typing import Literal

from msgspec import Struct

from alexnet_deploy.core.bundle.vocabulary import PlanBackend

AHEAD_OF_TIME = "aot"
"""The target of a plan that is for no GPU in particular, and needs none to be built."""

_FILE = re.compile(r"plans/[A-Za-z0-9][A-Za-z0-9.-]*\.engine")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Batch sizes, in images, that a plan takes, and the one it is fastest at."""

    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise ValueError(
                f"batches of {self.min_batch}, {self.opt_batch}, {self.max_batch} are no profile; "
                "needed is 1 <= min <= opt <= max"
            )


class PlanOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a builder is told; no precision, which is the graph's."""

    workspace_bytes: int | None = None
    """Most that a layer may take for scratch; None leaves it to the library."""
    is_version_compatible: bool = False
    """Runs on later releases of the library, at some cost in speed. Such a plan holds code that opening it runs."""
    is_hardware_compatible: bool = False
    """Runs on GPUs of Ampere and later, not only on the one it was built on, at some cost in speed."""

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise ValueError(f"{self.workspace_bytes} bytes of workspace are too few; 1 or more are needed")


class PlanRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Identity of one plan: what it was built from, by what, for what."""

    file: str
    """Its path below the bundle; see plan_file."""
    backend: PlanBackend
    version: str
    """The library's own."""
    target: str
    """The GPU it was built on, as `sm_90 NVIDIA H100`, or `aot`."""
    graph_sha256: str
    """Digest of the ONNX file. The plan's own bytes hold it too, as the name of the network."""
    profile: Profile
    options: PlanOptions
    build_seconds: float
    layers: dict[str, int]
    """How many layers of each kind and result type, as `LRN float32`, the library read from the graph; no constants."""
    proof: Literal["pending", "proved"]
    """`pending`: it could not run where it was built; every opening runs the golden images and refuses on failure."""

    def __post_init__(self) -> None:
        if not _FILE.fullmatch(self.file):
            raise ValueError(f"{self.file!r} is no name of a plan; needed is plans/NAME.engine")
        if not _SHA256.fullmatch(self.graph_sha256):
            raise ValueError(f"{self.file}: the graph's SHA-256 needs 64 hexadecimal digits")


def plan_file(backend: PlanBackend, version: str, target: str) -> str:
    """Return the path below the bundle: plans/<backend>-<version>-<target>.engine, in plain characters."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", target).strip("-").lower()
    return f"plans/{backend}-{version}-{plain}.engine"
