"""Throughput of `predict` on photographs of 12 million pixels: decoded exactly and scaled, by hand, and the limit.

    python -m benchmarks.predicting.photographs IMAGES --weights W --exact EXACT.bundle \
        --scaled SCALED.bundle --out RESULT.json

The bundles are INT8 exports, ten views, of the same weights with `decode` exact and scaled. The photographs are IMAGES
enlarged to 4032 x 3024, with noise so that they weigh what a camera's weigh. All runs alternate, `--rounds` times, and
the medians are reported; the hand-written loop runs once. The limit is the time of the network alone plus that of
decoding alone, both on all cores. Where two threads share a core, work of two kinds overlaps, and `predict` can be
faster than this limit.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.inputs.paths import find_inputs
from alexnet_deploy.core.process.ahead import map_ahead
from alexnet_deploy.core.process.machine import num_processors, processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.predicting.enlarging import enlarged
from benchmarks.predicting.predict import (
    by_hand_torch,
    decoding_alone,
    network_alone,
    ours,
    peak_bytes,
    seconds,
    top1_labels,
)
from benchmarks.record import record

SIZE = (4032, 3024)


def draw_photographs(sources: Sequence[Path], number: int, folder: Path) -> list[Path]:
    numbered = list(enumerate(islice(cycle(sources), number)))
    files = [folder / f"{index:03}.jpg" for index, _ in numbered]
    drawn = map_ahead(lambda item: enlarged(item[1], SIZE, seed=item[0]), numbered, threads=num_processors(), ahead=8)
    for path, file in zip(files, drawn, strict=True):
        path.write_bytes(file)
    return files


def compare(
    files: Sequence[Path], weights: Path, exact: Bundle, scaled: Bundle, rounds: int, folder: Path
) -> dict[str, object]:
    """Time everything on the same files; opening an engine, a fifth of a second, is included."""
    images = np.stack(list(decoding_alone(files, scaled)))
    found: dict[str, list[float]] = {}
    rows = {name: folder / f"{name}.jsonl" for name in ("exact", "scaled", "by hand")}
    runs: dict[str, Callable[[], object]] = {
        "exact": lambda: ours(files, exact, rows["exact"]),
        "scaled": lambda: ours(files, scaled, rows["scaled"]),
        "network": lambda: network_alone(images, scaled),
        "exact decoding": lambda: sum(1 for _ in decoding_alone(files, exact)),
        "scaled decoding": lambda: sum(1 for _ in decoding_alone(files, scaled)),
        "by hand": lambda: by_hand_torch(files, weights, rows["by hand"]),
    }
    for number in range(rounds):
        for name, run in runs.items():
            if name == "by hand" and number:
                continue
            found.setdefault(name, []).append(seconds(run))
            print(f"{name}: {found[name][-1]:.1f} s", file=sys.stderr)
    median = {name: statistics.median(times) for name, times in found.items()}
    guesses = {name: top1_labels(path) for name, path in rows.items()}
    limits = [a + b for a, b in zip(found["network"], found["scaled decoding"], strict=True)]
    return {
        "rounds": rounds,
        "images_per_second": {name: len(files) / time for name, time in median.items()},
        "limit_images_per_second": len(files) / statistics.median(limits),
        "scaled_against_exact": statistics.median(
            [a / b for a, b in zip(found["exact"], found["scaled"], strict=True)]
        ),
        "scaled_against_by_hand": found["by hand"][0] / median["scaled"],
        "scaled_share_of_limit": statistics.median([a / b for a, b in zip(limits, found["scaled"], strict=True)]),
        "first_guess_scaled_as_exact": statistics.fmean(
            a == b for a, b in zip(guesses["exact"], guesses["scaled"], strict=True)
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--exact", type=Path, required=True)
    parser.add_argument("--scaled", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    exact, scaled = open_bundle(options.exact), open_bundle(options.scaled)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = draw_photographs([found.path for found in find_inputs(options.images)], options.number, folder)
        result: dict[str, object] = {
            "architecture": scaled.manifest.architecture.name,
            "images": len(files),
            "size": SIZE,
            "mean_bytes": sum(path.stat().st_size for path in files) // len(files),
            "machine": processor(),
            "tools": tool_versions("torch", "openvino"),
            "compared": compare(files, options.weights, exact, scaled, options.rounds, folder),
            "memory": {
                name: peak_bytes(bundle.path, files, len(files))
                for name, bundle in (("exact", exact), ("scaled", scaled))
            },
        }
    record(options.out, result)


if __name__ == "__main__":
    main()
