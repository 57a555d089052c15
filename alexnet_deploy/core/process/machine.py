"""What this process runs on."""

import os
import platform

from alexnet_deploy.core.process.say import counted

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def processor() -> str:
    """Return what the processor calls itself, and how much of it this process may use: `AMD EPYC, 2 threads`."""
    return f"{_processor_name()}, {counted(num_processors(), 'thread')}"


def num_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_vnni() -> bool:
    """Return whether int8 products are summed in 32 bits here, as VNNI and AMX do; other x86 processors use 16.

    ONEDNN_MAX_CPU_ISA, with which OpenVINO is kept from what the processor has, counts as the processor's own. Other
    families of processors have no such difference.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    if os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in ("SSE41", "AVX", "AVX2", "AVX512_CORE"):
        return False
    return not _VNNI.isdisjoint(word for line in _cpu_info("flags") for word in line.split())


def _processor_name() -> str:
    # Not every kind of processor says its name there.
    return next(iter(_cpu_info("model name")), platform.machine())


def _cpu_info(field: str) -> list[str]:
    """Return what Linux says of each processor under this heading; nothing on other systems."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            return [line.split(":", 1)[1].strip() for line in file if line.startswith(field)]
    except OSError:
        return []
