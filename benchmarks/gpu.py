"""Everything that waits for an NVIDIA GPU, in one go of under ten minutes, offline: scripts/gpu runs it.

    python -m benchmarks.gpu --out RESULT.json
    python -m benchmarks.gpu --device cpu --arch tiny --out RESULT.json     # tries the program itself, without a GPU

Each part runs whatever became of the others, and its result is a record or what went wrong:

- tests: those marked `gpu`.
- numerics: each LRN of the architecture, and its layers' products in half, against float64, on the device.
- training: drawn images; then benchmarks/training/train.py, whose packed rows are held against 20,000 images a second.
- engines: for each precision an export with a TensorRT-RTX plan (and a TensorRT plan where that is installed), `check`
  of every backend on the GPU, which proves it, and `bench`.
- torch: eager and compiled, float32 and half, at the same batches on the same GPU.
- processes: two processes with NCCL, where there are two GPUs.

The file is written after each part, so that a run that is stopped leaves what it has. Exits with 1 if a part failed.
"""

import argparse
import copy
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from alexnet_deploy.core.model.architecture import Conv, Linear, LocalNorm
from alexnet_deploy.core.model.family import architecture_by_name
from alexnet_deploy.core.model.network import LocalNormModule, cut, network_from, preprocess
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.record import record, write
from benchmarks.training.train import synthetic_data

ROOT = Path(__file__).parents[1]
TARGET_IMAGES_PER_SECOND = 20_000


@dataclass(frozen=True, kw_only=True)
class Work:
    """What the parts share."""

    folder: Path
    device: str
    arch: str

    @property
    def has_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def batches(self) -> tuple[int, ...]:
        return (1, 8, 64) if self.has_gpu else (1, 2)

    @property
    def run(self) -> Path:
        return self.folder / "run"


class PartError(Exception):
    """A part could not be done; the message is its record."""


def command(*arguments: object, limit: float = 240.0, codes: tuple[int, ...] = (0,)) -> str:
    """Return what a command of this program, or of the module after `-m`, wrote to stdout."""
    words = [str(word) for word in arguments]
    if words[0] != "-m":
        words = ["-m", "alexnet_deploy", *words]
    try:
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise PartError(f"{' '.join(words)}: stopped after {limit:.0f} s") from error
    if done.returncode not in codes:
        last = "; ".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise PartError(f"{' '.join(words)}: exit code {done.returncode}: {last}")
    return done.stdout


def tests(work: Work) -> object:
    # 5: no test was selected.
    out = command("-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", ROOT / "tests", codes=(0, 1, 5))
    failed = [line for line in out.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if failed:
        raise PartError("; ".join(failed))
    return out.strip().splitlines()[-1]


@torch.inference_mode()
def numerics(work: Work) -> object:
    """Return the largest errors, relative to the largest value of the result in float64."""
    table = architecture_by_name(work.arch)
    generator = torch.Generator().manual_seed(0)
    found: dict[str, dict[str, float | str]] = {}
    for cost in table.costs():
        layer, in_shape = cost.layer, cost.in_shape
        if isinstance(layer, LocalNorm):
            # As large as activations after a ReLU on pixels of 0..255 are.
            values = 100 * torch.rand((8, *in_shape), generator=generator)
            module: nn.Module = LocalNormModule(layer)
        elif isinstance(layer, Conv | Linear):
            values = torch.rand((8, *in_shape), generator=generator)
            module = nn.Conv2d(in_shape[0], 16, layer.kernel) if isinstance(layer, Conv) else nn.Linear(in_shape[0], 16)
        else:
            continue
        truth = copy.deepcopy(module).double()(values.double())
        found[cost.layer.name] = {
            name: relative_error(module, values, truth, work.device, dtype)
            for name, dtype in (("float32", torch.float32), ("float16", torch.float16), ("bfloat16", torch.bfloat16))
        }
    return found


def relative_error(
    module: nn.Module, values: torch.Tensor, truth: torch.Tensor, device: str, dtype: torch.dtype
) -> float | str:
    try:
        result = copy.deepcopy(module).to(device, dtype)(values.to(device, dtype)).double().cpu()
    except NotImplementedError as error:
        return str(error)
    return float((result - truth).abs().max() / truth.abs().max())


def training(work: Work) -> object:
    data = synthetic_data(work.folder / "data")
    command(
        "train",
        data,
        "--arch",
        work.arch,
        "--recipe",
        "folder",
        "--epochs",
        2,
        "--device",
        work.device,
        "--out",
        work.run,
    )
    pack, out = work.folder / "images.pack", work.folder / "train.json"
    command("pack", data, pack)
    steps = ("--steps", 60, "--batch-size", 256) if work.has_gpu else ("--steps", 2, "--batch-size", 8)
    places = ("--data", data, "--pack", pack, "--device", work.device, "--arch", work.arch)
    command("-m", "benchmarks.training.train", *places, *steps, "--repeats", 3, "--out", out)
    result = json.loads(out.read_text())
    result["packed_against_target"] = {
        row["precision"]: row["images_per_second"] / TARGET_IMAGES_PER_SECOND
        for row in result["rows"]
        if row["loop"] == "packed"
    }
    return result


def engines(work: Work) -> object:
    plans = [name for name, module in (("tensorrt-rtx", "tensorrt_rtx"), ("tensorrt", "tensorrt")) if is_there(module)]
    found = {}
    for precision in ("fp32", "fp16", "int8"):
        bundle = work.folder / f"{precision}.bundle"
        options: list[object] = ["--precision", precision]
        options += (
            ["--plan", plans[0], "--max-batch", max(work.batches)] if plans and work.has_gpu else ["--plan", "none"]
        )
        if precision == "int8":
            options += ["--calibrate", work.folder / "data" / "val"]
        command("export", work.run, *options, "--out", bundle)
        if work.has_gpu and "tensorrt" in plans:
            built = work.folder / f"{precision}-tensorrt.bundle"
            command("build", bundle, "--plan", "tensorrt", "--max-batch", max(work.batches), "--out", built)
            bundle = built
        batches = [word for size in work.batches for word in ("--batch-size", size)]
        found[precision] = {
            "check": json.loads(command("check", bundle, "--weights", work.run, "--device", work.device, "--json")),
            "bench": json.loads(command("bench", bundle, "--device", work.device, *batches, "--json")),
        }
    return found


@torch.inference_mode()
def by_torch(work: Work) -> object:
    """Return milliseconds of the median run, uint8 images on the device to mean probabilities, ten views."""
    weights = load_weights(work.run / "weights.safetensors").weights
    views = views_by_name("ten", weights.architecture.input_size)
    rows = []
    for dtype in (torch.float32, torch.float16):
        network = network_from(weights.architecture, weights.tensors).to(work.device, dtype)

        def probabilities(
            images: torch.Tensor, network: nn.Module = network, dtype: torch.dtype = dtype
        ) -> torch.Tensor:
            pixels = preprocess(images, weights.preprocessing, weights.mean_image).to(dtype)
            logits = network(torch.cat([cut(pixels, view, weights.architecture.input_size) for view in views]))
            return torch.softmax(logits.float(), 1).view(len(views), len(images), -1).mean(0)

        for name, run in (("eager", probabilities), ("compile", torch.compile(probabilities))):
            for size in work.batches:
                images = torch.randint(0, 256, (size, 256, 256, 3), dtype=torch.uint8).to(work.device)
                milliseconds = 1e3 * median_seconds(partial(run, images), work.device)
                rows.append({"torch": name, "type": str(dtype), "batch": size, "p50_ms": milliseconds})
    return rows


def median_seconds(run: Callable[[], object], device: str, repeats: int = 20) -> float:
    times = []
    for number in range(repeats + 3):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= 3:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def processes(work: Work) -> object:
    if not work.has_gpu or torch.cuda.device_count() < 2:
        return f"not run: two GPUs are needed, {torch.cuda.device_count()} found"
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "alexnet_deploy")
    options = ("--arch", work.arch, "--recipe", "folder", "--epochs", 2, "--device", "cuda")
    return command(*launcher, "train", work.folder / "data", *options, "--out", work.folder / "two")


def is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


PARTS: dict[str, Callable[[Work], object]] = {
    "tests": tests,
    "numerics": numerics,
    "training": training,
    "engines": engines,
    "torch": by_torch,
    "processes": processes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--arch", default="paper")
    parser.add_argument("--part", choices=PARTS, action="append", help="Run only these.")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device; --device cpu tries the program without one")
    found: dict[str, dict[str, object]] = {}
    result: dict[str, object] = {
        "architecture": options.arch,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "machine": processor(),
        "tools": tool_versions("torch", "onnxruntime", "tensorrt", "tensorrt-rtx"),
        "parts": found,
    }
    with tempfile.TemporaryDirectory() as place:
        work = Work(folder=Path(place), device=options.device, arch=options.arch)
        for name in options.part or PARTS:
            started = time.perf_counter()
            try:
                done: dict[str, object] = {"result": PARTS[name](work)}
            except Exception as error:  # noqa: BLE001 - a part has failed, whatever went wrong; the others still run
                done = {"failed": str(error) if isinstance(error, PartError) else f"{type(error).__name__}: {error}"}
            found[name] = {"seconds": round(time.perf_counter() - started, 1), **done}
            write(options.out, result)
            print(name, found[name].get("failed", "done"), f"{found[name]['seconds']} s", file=sys.stderr)
    record(options.out, result)
    sys.exit(any("failed" in part for part in found.values()))


if __name__ == "__main__":
    main()
