"""What this process runs on."""

import os
import platform


def processor() -> str:
    """Return what the processor calls itself, and how much of it this process may use: `AMD EPYC, 2 threads`."""
    return f"{_processor_name()}, {num_processors()} threads"


def num_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    # Not every kind of processor says its name there.
    return names[0] if names else platform.machine()
