"""Disable the usage reporting of libraries before they are imported."""

import os
import sys


def disable_telemetry() -> None:
    """Disable the telemetry of ONNX Runtime, OpenVINO and Ray in this process and its children.

    It has no effect on a library that the process has already imported. Environment variables set by the user are kept.
    """
    # ONNX Runtime 1.29 and later on Linux stores a machine id in ~/.cache, sends events to Microsoft, and starts a
    # thread that every forked child waits for at its end. It does nothing if CI is set, so no CI run shows it.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # A Ray cluster that this process starts reports its size and libraries every hour.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Importing openvino sends to Google Analytics, from a process forked while threads run. It works without the
    # package that does this, which is optional.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
