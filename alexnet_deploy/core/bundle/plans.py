"""Records of plans: serialised TensorRT engines, stored unchanged in a bundle's plans/."""

import re
from typing import Literal

from msgspec import Struct

from alexnet_deploy.core.bundle.vocabulary import PlanBackend
from alexnet_deploy.core.records import Sha256

AHEAD_OF_TIME = "aot"
"""Target of a plan that is built without a GPU and is not specific to one."""

_FILE = re.compile(r"plans/[A-Za-z0-9][A-Za-z0-9.-]*\.engine")


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Range of batch sizes, in images, that a plan accepts, and the batch size that it is optimised for."""

    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise ValueError(
                f"batch sizes must be 1 <= min <= opt <= max, got min {self.min_batch}, opt {self.opt_batch}, "
                f"max {self.max_batch}"
            )


class PlanOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the builder; the precision is not one of them, it is a property of the graph."""

    workspace_bytes: int | None = None
    """Limit on scratch memory per layer; None uses the library's default."""
    is_version_compatible: bool = False
    """Run on later releases of the library, with some loss of speed. Opening such a plan executes code stored in it."""
    is_hardware_compatible: bool = False
    """Run on all GPUs of Ampere and later, not only on the build GPU, with some loss of speed."""

    def __post_init__(self) -> None:
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise ValueError(f"workspace_bytes must be 1 or more, got {self.workspace_bytes}")


class PlanRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Identity of one plan: its graph, library and target."""

    file: str
    """Path relative to the bundle; see plan_file."""
    backend: PlanBackend
    version: str
    """Version of the library."""
    target: str
    """The GPU it was built on, as `sm_90 NVIDIA H100`, or `aot`."""
    graph_sha256: Sha256
    """Digest of the ONNX file. It is also the network's name inside the plan."""
    profile: Profile
    options: PlanOptions
    build_seconds: float
    layers: dict[str, int]
    """Number of layers by kind and output type, as `LRN float32`, that the library parsed; constants not counted."""
    proof: Literal["pending", "proved"]
    """`pending`: the build machine could not run it; each opening runs the golden images and refuses on failure."""

    def __post_init__(self) -> None:
        if not _FILE.fullmatch(self.file):
            raise ValueError(f"invalid plan path {self.file!r}: it must be plans/NAME.engine")


def plan_file(backend: PlanBackend, version: str, target: str) -> str:
    """Return the path relative to the bundle: plans/<backend>-<version>-<target>.engine, in plain characters."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", target).strip("-").lower()
    return f"plans/{backend}-{version}-{plain}.engine"
