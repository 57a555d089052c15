"""`predict --ray local` against `predict` on the same files: time from the shell to the last row.

    python -m benchmarks.scaling.ray_overhead BUNDLE IMAGES --out RESULT.json

The two alternate. `start` is a job of one image on Ray less the same without it: what every job pays once.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.record import record

PROGRAM = [sys.executable, "-m", "alexnet_deploy", "predict"]


def seconds(images: Path, bundle: Path, output: Path, *options: str) -> float:
    start = time.perf_counter()
    command = [*PROGRAM, str(images), "--bundle", str(bundle), "--output", str(output), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files = sorted(path for path in options.images.rglob("*") if path.is_file())
    plain, on_ray, starts, equal = [], [], [], True
    with tempfile.TemporaryDirectory() as place:
        for number in range(options.rounds):
            outputs = [Path(place) / f"{number}-{kind}.jsonl" for kind in ("plain", "ray", "one", "one-ray")]
            plain.append(seconds(options.images, options.bundle, outputs[0]))
            on_ray.append(seconds(options.images, options.bundle, outputs[1], "--ray", "local"))
            equal = equal and outputs[0].read_bytes() == outputs[1].read_bytes()
            one = seconds(files[0], options.bundle, outputs[2])
            starts.append(seconds(files[0], options.bundle, outputs[3], "--ray", "local") - one)
    start = statistics.median(starts)
    ratios = [ray / alone for ray, alone in zip(on_ray, plain, strict=True)]
    record(
        options.out,
        {
            "machine": processor(),
            "versions": tool_versions("ray", "openvino"),
            "images": len(files),
            "bundle": options.bundle.name,
            "rounds": options.rounds,
            "plain_s": plain,
            "ray_s": on_ray,
            "ratio": statistics.median(ratios),
            "start_s": start,
            "ratio_without_start": statistics.median(
                (ray - start) / alone for ray, alone in zip(on_ray, plain, strict=True)
            ),
            "rows_equal": equal,
        },
    )


if __name__ == "__main__":
    main()
