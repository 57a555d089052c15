"""Time and peak memory of an INT8 export, by the number of calibration images.

    python -m benchmarks.precision.calibration --weights runs/X/weights.safetensors --out RESULT.json

Each export runs in its own process; its peak memory is the kernel's ru_maxrss.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.record import record


def export(weights: Path, num_images: int, options: list[str]) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", "from alexnet_deploy.cli import main; main()", "export", str(weights)]
        command += ["--precision", "int8", "--calibration-images", str(num_images), "--out", f"{folder}/a.bundle"]
        started = time.perf_counter()
        process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"the export of {num_images} images failed")
    return {"calibration_images": num_images, "seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, nargs="+", default=[128, 512, 1024])
    options, others = parser.parse_known_args()
    rows = [export(options.weights, num_images, others) for num_images in options.images]
    result = {
        "architecture": load_weights(options.weights).weights.architecture.name,
        "machine": processor(),
        "tools": tool_versions("torch", "onnxruntime", "openvino"),
        "options": others,
        "rows": rows,
    }
    record(options.out, result)


if __name__ == "__main__":
    main()
