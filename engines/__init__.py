"""Things that run - the trained network, graphs, plans - and the proof that they agree."""

import sys

# Importing openvino would report to Google Analytics, from a process forked beside running threads. It does without
# the package that does so, as it does where that is not installed.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
