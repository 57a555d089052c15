"""The machine: CPU model, usable processors, VNNI."""

import math
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from alexnet_deploy.core.process.say import counted

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def processor() -> str:
    """Return the CPU model and the number of usable threads: `AMD EPYC, 2 threads`."""
    return f"{_processor_name()}, {counted(num_processors(), 'thread')}"


def num_processors() -> int:
    """Return the number of processors that this process may use: by its affinity, and by its cgroup's quota."""
    return processor_quota() or _affinity()


def processor_quota() -> int | None:
    """Return the processors that a cgroup (version 1 or 2) allows this process, rounded up; None if it allows all.

    A container with `--cpus 1.5` sees all processors of its machine, but is stopped when it has used that share of
    their time. OpenVINO, ONNX Runtime and OpenMP do not know the quota, and would start a thread for each processor.
    """
    quotas = [quota for folder in _cgroup_folders() if (quota := _quota_of(folder)) is not None]
    allowed = max(1, math.ceil(min(quotas, default=_affinity())))
    return allowed if allowed < _affinity() else None


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_vnni() -> bool:
    """Return whether int8 products are summed in 32 bits, as VNNI and AMX do; other x86 processors use 16.

    ONEDNN_MAX_CPU_ISA, which limits the instructions that OpenVINO uses, is respected. Other processor families always
    return True.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2", "AVX512_CORE"):
        return False
    return not _VNNI.isdisjoint(word for line in _cpu_info("flags") for word in line.split())


def _cgroup_folders() -> Iterator[Path]:
    """Yield the folders of this process's processor cgroups, from its own up to the root."""
    try:
        lines = _MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # A container may name its place on the host and see its own cgroup as the root.
        for root in (_CGROUPS / "cpu", _CGROUPS / "cpu,cpuacct") if controllers else (_CGROUPS, _CGROUPS / "unified"):
            own = root / place.lstrip("/")
            yield own
            yield from (parent for parent in own.parents if parent.is_relative_to(root))


def _quota_of(folder: Path) -> float | None:
    """Return the processors that one cgroup allows, in parts of one; None without a clear quota."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip() for name in ("quota", "period")
            )
        # Sandboxes that imitate these files may leave them empty, or the period 0.
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _processor_name() -> str:
    # Not every processor family reports its name there.
    return next(iter(_cpu_info("model name")), platform.machine())


def _cpu_info(field: str) -> list[str]:
    """Return this field of /proc/cpuinfo for each processor; empty on systems other than Linux."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return [line.split(":", 1)[1].strip() for line in file if line.startswith(field)]
    except OSError:
        return []
