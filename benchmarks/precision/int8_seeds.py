"""Do the default commands publish a bundle in every precision, for many seeds of the demo network?

    python -m benchmarks.precision.int8_seeds --runs /tmp/seeds --seeds 20 --out RESULT.json

Each command runs in its own process, as a user types it: `train --seed N` (unless RUNS/run-N already has weights), then
`export`, `check` and `predict` for each precision. Errors are the largest over all golden images and engines.
"""

import argparse
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.record import record

PRECISIONS = ("fp32", "fp16", "int8")
LINE = [sys.executable, "-c", "from alexnet_deploy.cli import main; main()"]


def typed(folder: Path, *words: object) -> tuple[int, str]:
    """Run a command in `folder`; return its exit code and the last line it wrote to stderr."""
    done = subprocess.run([*LINE, *map(str, words)], cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def worst(bundle: Bundle, against: str) -> dict[str, float] | None:
    """Return the largest errors over the engines that run this bundle's graph."""
    manifest = bundle.manifest
    rows = [row for row in manifest.parity if row.precision == manifest.precision and row.against == against]
    if not rows:
        return None
    return {
        "probability": max(row.max_error for row in rows),
        "log_probability": max(row.max_log_error for row in rows),
        "top1_agreement": min(row.top1_agreement for row in rows),
    }


def exported(folder: Path, weights: Path, seed: int, precision: str, options: list[str]) -> dict[str, object]:
    out = folder / f"seed-{seed}-{precision}.bundle"
    started = time.perf_counter()
    words = ("export", weights, "--precision", precision, "--out", out, "--force", *options)
    code, said = typed(folder, *words)
    row: dict[str, object] = {"published": code == 0, "seconds": time.perf_counter() - started}
    if code:
        return row | {"refused": said}
    bundle = open_bundle(out)
    quantization, gate = bundle.manifest.quantization, bundle.manifest.gate
    row |= {
        "against_network": worst(bundle, "network"),
        "against_graph": worst(bundle, "graph"),
        "weakest_fault": min(bundle.manifest.golden.separation.values()),
        "check_passed": typed(folder, "check", out, "--weights", weights)[0] == 0,
        "predict_passed": typed(folder, "predict", "drawn/val/umbrella/0000.jpg", "--bundle", out)[0] == 0,
    }
    if quantization is not None and gate is not None:
        row |= {"method": quantization.calibration.method, "in_float": [fallback.layer for fallback in gate.fallbacks]}
    return row


def of_seed(folder: Path, seed: int, precisions: list[str], options: list[str]) -> dict[str, object]:
    weights = folder / f"run-{seed}" / "weights.safetensors"
    if not weights.exists():
        code, said = typed(folder, "train", "--seed", seed, "--out", weights.parent)
        if code:
            raise SystemExit(f"seed {seed}: {said}")
    found = {name: exported(folder, weights, seed, name, options if name == "int8" else []) for name in precisions}
    return {"seed": seed, **found}


def summary(rows: list[dict[str, dict[str, dict[str, float]]]]) -> dict[str, object]:
    of_all = {}
    for name in PRECISIONS:
        if not (found := [row[name] for row in rows if name in row]):
            continue
        published = [row for row in found if row["published"]]
        of_all[name] = {
            "published": len(published),
            "of": len(found),
            "checked": sum(bool(row["check_passed"]) for row in published),
            "predicted": sum(bool(row["predict_passed"]) for row in published),
            "worst_against_network": max((row["against_network"]["probability"] for row in published), default=None),
            "worst_against_graph": max(
                (row["against_graph"]["probability"] for row in published if row["against_graph"]), default=None
            ),
        }
    return of_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="directory in which the commands run")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(20)))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--jobs", type=int, default=1, help="number of seeds to run in parallel")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--commit", default="", help="commit of the measured code")
    options, others = parser.parse_known_args()
    folder = options.runs.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for row in pool.map(lambda seed: of_seed(folder, seed, options.precisions, others), options.seeds):
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    result = {
        "machine": processor(),
        "tools": tool_versions("torch", "onnxruntime", "openvino"),
        "commit": options.commit,
        "options": others,
        "summary": summary(rows),
        "rows": rows,
    }
    record(options.out, result)


if __name__ == "__main__":
    main()
