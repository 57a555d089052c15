"""Things that run - the trained network, graphs, plans - and the proof that they agree."""

import os
import sys

# Importing openvino would report to Google Analytics, from a process forked beside running threads. It does without
# the package that does so, as it does where that is not installed.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]

# Importing onnxruntime 1.31 starts Microsoft's telemetry and its thread, for which every forked child waits when it
# ends. An environment that says otherwise is obeyed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
