"""Throughput from image files to rows: two hand-written loops, `predict`, and this machine's limit; also memory.

    python -m benchmarks.predicting.predict IMAGES... --weights W --fp32 FP32.bundle --int8 INT8.bundle \
        --out RESULT.json

The bundles are exports of the weights. All use the same thousand photographs and ten views, and write rows to a jsonl
file. Ours and the limit alternate, `--rounds` times, and the medians are reported; the hand-written loops take minutes
and run once. `--skip-memory` skips the two long runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from PIL import Image

from alexnet_deploy.core.bundle.store import GRAPH, Bundle, open_bundle
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.inputs.paths import find_inputs
from alexnet_deploy.core.model.network import network_from
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.core.process.ahead import decode_threads, map_ahead
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.pipeline.bench import bench
from alexnet_deploy.predict.predictor import Predictor
from alexnet_deploy.predict.row_formats import RowWriter
from benchmarks.record import record

BATCH = 8
NUM_IMAGES = 1000
MANY_IMAGES = 20_000
MAIN = "from alexnet_deploy.cli import main; main()"
# Not getrusage: there a child's peak is at least its parent's memory.
MEASURED = f"""
import atexit, sys
peak = lambda: next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
atexit.register(lambda: sys.stderr.write(f"{{peak()}}\\n"))
{MAIN}
"""


# By hand: what one writes with only PIL and torch.


def square(path: Path) -> Image.Image:
    """The same as torchvision's Resize(256) and CenterCrop(256)."""
    image = Image.open(path).convert("RGB")
    scale = 256 / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    left, top = (image.width - 256) // 2, (image.height - 256) // 2
    return image.crop((left, top, left + 256, top + 256))


def ten_crops(image: Image.Image, size: int) -> list[torch.Tensor]:
    """The same as torchvision's TenCrop and PILToTensor."""
    right, bottom = image.width - size, image.height - size
    corners = [(0, 0), (right, 0), (0, bottom), (right, bottom), (right // 2, bottom // 2)]
    crops = [image.crop((x, y, x + size, y + size)) for x, y in corners]
    crops += [crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for crop in crops]
    return [torch.from_numpy(np.array(crop)).permute(2, 0, 1).float() for crop in crops]


@torch.inference_mode()
def by_hand_torch(files: Sequence[Path], weights: Path, rows: Path) -> None:
    trained = load_weights(weights).weights
    network = network_from(trained.architecture, trained.tensors).eval()
    mean = torch.tensor(trained.preprocessing.mean).view(3, 1, 1)
    scale = torch.tensor(trained.preprocessing.scale).view(3, 1, 1)
    size = trained.architecture.input_size
    with rows.open("w") as file:
        for paths in in_batches(files, BATCH):
            crops = [crop for path in paths for crop in ten_crops(square(path), size)]
            logits = network((torch.stack(crops) - mean) * scale)
            probabilities = torch.softmax(logits, 1).view(len(paths), 10, -1).mean(1)
            write(file, paths, probabilities.numpy(), trained.labels)


def by_hand_onnxruntime(files: Sequence[Path], bundle: Bundle, rows: Path) -> None:
    """The bundle's graph, which includes the crops, in a session with default options."""
    session = onnxruntime.InferenceSession(bundle.read(GRAPH))
    with rows.open("w") as file:
        for paths in in_batches(files, BATCH):
            images = np.stack([np.array(square(path)) for path in paths])
            (probabilities,) = session.run(None, {"images": images})
            write(file, paths, probabilities, bundle.labels)


def write(file, paths: Sequence[Path], probabilities: np.ndarray, labels: Sequence[str]) -> None:
    for path, row in zip(paths, probabilities, strict=True):
        top = [{"label": labels[index], "probability": float(row[index])} for index in np.argsort(-row)[:5]]
        file.write(json.dumps({"path": str(path), "top": top}) + "\n")


def in_batches(files: Sequence[Path], size: int) -> Iterator[Sequence[Path]]:
    return (files[start : start + size] for start in range(0, len(files), size))


# Ours.


def ours(files: Sequence[Path], bundle: Bundle, rows: Path) -> float:
    """Write the rows; return the engine's idle share between the first file and the last row."""
    with open_engine(bundle, tuned_for="throughput") as engine, rows.open("w", buffering=1) as file:
        writer, predictor = RowWriter("jsonl", 5), Predictor(bundle, engine)
        next(predictor.predict(files[0]))
        busy, started = engine.busy_seconds, time.perf_counter()
        for prediction in predictor.predict(files):
            file.write(writer.row(prediction))
        elapsed = time.perf_counter() - started
        return 1 - (engine.busy_seconds - busy) / (elapsed * engine.info.num_streams)


def network_alone(images: np.ndarray, bundle: Bundle) -> None:
    with open_engine(bundle, tuned_for="throughput") as engine:
        streams, size = engine.info.num_streams, engine.info.batch_size
        for _ in map_ahead(engine.run, in_batches(images, size), threads=streams, ahead=streams):
            pass


def decoding_alone(files: Sequence[Path], bundle: Bundle) -> Iterator[np.ndarray]:
    read = partial(read_image, policy=bundle.manifest.preprocessing.image_policy)
    return map_ahead(read, files, threads=decode_threads(), ahead=64)


def top1_labels(rows: Path) -> list[str]:
    return [json.loads(line)["top"][0]["label"] for line in rows.read_text().splitlines()]


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def compare(files: Sequence[Path], weights: Path, fp32: Bundle, int8: Bundle, rounds: int) -> dict[str, object]:
    """Time a to d and the limit, alternating in each round; opening an engine, a fifth of a second, is included."""
    images = np.stack(list(decoding_alone(files, int8)))
    found: dict[str, list[float]] = {}
    idle: dict[str, list[float]] = {"c": [], "d": []}
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: Path(folder) / name for name in "abcd"}
        runs: dict[str, Callable[[], object]] = {
            "a": lambda: by_hand_torch(files, weights, rows["a"]),
            "b": lambda: by_hand_onnxruntime(files, fp32, rows["b"]),
            "c": lambda: idle["c"].append(ours(files, fp32, rows["c"])),
            "d": lambda: idle["d"].append(ours(files, int8, rows["d"])),
            "network": lambda: network_alone(images, int8),
            "decoding": lambda: sum(1 for _ in decoding_alone(files, int8)),
        }
        for round_number in range(rounds):
            for name, run in runs.items():
                if round_number and name in "ab":
                    continue
                found.setdefault(name, []).append(seconds(run))
                print(f"{name}: {found[name][-1]:.1f} s", file=sys.stderr)
        guesses = {name: top1_labels(path) for name, path in rows.items()}
    median = {name: statistics.median(times) for name, times in found.items()}
    limits = [network + decoding for network, decoding in zip(found["network"], found["decoding"], strict=True)]
    agree = {
        f"first_guess_{one}_as_{other}": statistics.fmean(
            x == y for x, y in zip(guesses[one], guesses[other], strict=True)
        )
        for one, other in ("ca", "dc")
    }
    return {
        "rounds": rounds,
        "images_per_second": {name: len(files) / time for name, time in median.items()},
        "limit_images_per_second": len(files) / statistics.median(limits),
        "against_a": {name: median["a"] / median[name] for name in "abcd"},
        "share_of_limit": statistics.median([e / d for e, d in zip(limits, found["d"], strict=True)]),
        "engine_idle": {name: statistics.median(shares) for name, shares in idle.items()},
        **agree,
    }


# Separate processes.


def peak_bytes(bundle: Path, files: Sequence[Path], num_images: int) -> dict[str, float]:
    """Peak memory and time of a `predict` process."""
    names = b"".join(os.fsencode(path) + b"\n" for path in islice(cycle(files), num_images))
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "list"
        listed.write_bytes(names)
        command = [sys.executable, "-c", MEASURED, "predict", "-", "--bundle", str(bundle), "--format", "jsonl"]
        started = time.perf_counter()
        with listed.open("rb") as stdin:
            done = subprocess.run(
                [*command, "--output", f"{folder}/rows"], stdin=stdin, stderr=subprocess.PIPE, text=True, check=True
            )
        assert (Path(folder) / "rows").read_bytes().count(b"\n") == num_images
    elapsed = time.perf_counter() - started
    return {
        "peak_bytes": 1024 * int(done.stderr.split()[-1]),
        "seconds": elapsed,
        "images_per_second": num_images / elapsed,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--fp32", type=Path, required=True)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--center", type=Path, help="An INT8 bundle of the centre view.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-memory", action="store_true")
    options = parser.parse_args()
    files = [found.path for found in islice(find_inputs(options.images), NUM_IMAGES)]
    fp32, int8 = open_bundle(options.fp32), open_bundle(options.int8)
    result: dict[str, object] = {
        "architecture": int8.manifest.architecture.name,
        "images": len(files),
        "mean_bytes": sum(path.stat().st_size for path in files) // len(files),
        "machine": processor(),
        "tools": tool_versions("torch", "onnxruntime", "openvino"),
        "compared": compare(files, options.weights, fp32, int8, options.rounds),
    }
    timed = [fp32, int8, *([open_bundle(options.center)] if options.center else [])]
    result["bench"] = [bench(bundle, data=options.images[0], batch_sizes=(1, 8), seconds=5.0) for bundle in timed]
    if not options.skip_memory:
        result["memory"] = {number: peak_bytes(int8.path, files, number) for number in (NUM_IMAGES, MANY_IMAGES)}
    record(options.out, result)


if __name__ == "__main__":
    main()
