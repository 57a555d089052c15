"""The machine: CPU model, usable processors, VNNI."""

import os
import platform

from alexnet_deploy.core.process.say import counted

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})


def processor() -> str:
    """Return the CPU model and the number of usable threads: `AMD EPYC, 2 threads`."""
    return f"{_processor_name()}, {counted(num_processors(), 'thread')}"


def num_processors() -> int:
    """Return the number of processors that this process may use."""
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
