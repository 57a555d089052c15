"""Time of `predict one.jpg` as started from a shell, in total and by part.

    python -m benchmarks.predicting.start IMAGE BUNDLE... --out RESULT.json
    python -m benchmarks.predicting.start IMAGE BUNDLE... --before FOLDER --out RESULT.json

The files are in the system's cache. With `--before`, an installation of an earlier version in that folder (pip install
--target) runs too, alternating, and its parts are left out.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.predicting.predict import MAIN
from benchmarks.record import record

PARTS = """
import sys, time
marks = [("interpreter", time.time())]
mark = lambda name: marks.append((name, time.time()))
import alexnet_deploy.cli, alexnet_deploy.predict.row_formats, alexnet_deploy.predict.output; mark("imports")
from pathlib import Path
from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.engines.engine import open_engine, source_of
bundle = open_bundle(Path(sys.argv[1])); source_of(bundle); mark("verify the graph")
import openvino; mark("import openvino")
import alexnet_deploy.engines.engine as opening
opening.source_of = lambda bundle, found=source_of(bundle): found; mark("verify again, not counted")
from alexnet_deploy.predict.predictor import Predictor
engine = open_engine(bundle, tuned_for="throughput"); mark("compile")
list(Predictor(bundle, engine).predict(sys.argv[2])); mark("decode, first run")
import json; print(json.dumps(marks))
"""


def whole(bundle: Path, image: Path, installation: Path | None) -> float:
    environment = os.environ if installation is None else os.environ | {"PYTHONPATH": str(installation)}
    command = [sys.executable, "-c", MAIN, "predict", str(image), "--bundle", str(bundle)]
    started = time.perf_counter()
    subprocess.run(command, env=environment, cwd=image.parent, capture_output=True, check=True)
    return time.perf_counter() - started


def parts(bundle: Path, image: Path) -> dict[str, float]:
    started = time.time()
    done = subprocess.run([sys.executable, "-c", PARTS, str(bundle), str(image)], capture_output=True, check=True)
    found: dict[str, float] = {}
    for name, at in json.loads(done.stdout):
        found[name], started = at - started, at
    found.pop("verify again, not counted")
    return found


def cold(bundle: Path, image: Path, before: Path | None, rounds: int) -> dict[str, object]:
    installations = {"now": None, **({"before": before} if before else {})}
    times: dict[str, list[float]] = {name: [] for name in installations}
    by_part: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, installation in installations.items():
            times[name].append(whole(bundle, image, installation))
        for name, seconds in parts(bundle, image).items():
            by_part.setdefault(name, []).append(seconds)
    return {
        "precision": open_bundle(bundle).manifest.precision,
        "median_seconds": {name: statistics.median(found) for name, found in times.items()},
        "worst_seconds": {name: max(found) for name, found in times.items()},
        "parts_seconds": {name: statistics.median(found) for name, found in by_part.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--before", type=Path, help="Installation of an earlier version.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    image, before = options.image.resolve(), options.before and options.before.resolve()
    result: dict[str, object] = {
        "machine": processor(),
        "tools": tool_versions("openvino"),
        "rounds": options.rounds,
        "bundles": {path.name: cold(path.resolve(), image, before, options.rounds) for path in options.bundles},
    }
    record(options.out, result)


if __name__ == "__main__":
    main()
