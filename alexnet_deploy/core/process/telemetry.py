"""Inference libraries that report usage to their makers, silenced before they are imported."""

import os
import sys


def disable_telemetry() -> None:
    """Keep ONNX Runtime and OpenVINO from reporting from this process and its children.

    A process that imports either before this package has made its own choice. ORT_DISABLE_TELEMETRY is left as the user
    set it.
    """
    # ONNX Runtime 1.29 and later, on Linux: an id of this machine in ~/.cache, events sent to Microsoft, and a thread
    # for which every forked child waits when it ends. It is silent where CI is set, so that no CI run shows it.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    # Importing openvino sends to Google Analytics, from a process forked beside running threads. It does without the
    # package that does so, as it does where that is not installed.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
