"""Throughput of our training loop and of a plain PyTorch loop, their waits for images, and the compute ceiling.

    python -m benchmarks.training.train --out RESULT.json
    python -m benchmarks.training.train --data images --pack images.pack --batch-size 256 --steps 200 --workers 16 \
        --out RESULT.json

Runs on the CPU and, if available, on CUDA; in float32 and in bfloat16 (autocast). Both loops train the same network on
the same files with the same batch size; their runs alternate, `--repeats` times, each in its own process. Each figure
is the median, without the warm-up steps. "packed" is our loop on the packed set --pack. The plain loop is a usual first
version: DataLoader, PIL, the common transforms, SGD. "network" is its step on one batch that is already in memory.

Waiting is the time on the host in which a loop waits for its next batch. On CUDA our loop reads its loss every twenty
steps and is timed there, so its warm-up is twenty steps.

FLOP/s count two operations per multiply-add, three times: forward, backward to the inputs, and backward to the weights;
twice for the first layer, because the gradient of the image is not computed. The ceiling is the fastest of several
matrix products of the same type. Without --data, the images are synthetic JPEGs of 500 x 375 pixels.
"""

import argparse
import contextlib
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.family import PUBLISHED_PREPROCESSING, architecture_by_name, preprocessing_for
from alexnet_deploy.core.model.network import Network
from alexnet_deploy.core.process.ahead import decode_threads
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.memory import keep_freed_memory
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.train.data.batches import Batches
from alexnet_deploy.train.data.folder import ImageFile
from alexnet_deploy.train.data.loader import training_set
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.loop.record import Observer, Progress
from alexnet_deploy.train.recipe import Recipe, TrainingPrecision
from alexnet_deploy.train.run import look_over, train
from alexnet_deploy.train.runtime.placement import placed
from benchmarks.record import record

WARM_UP = {"cpu": 3, "cuda": 20}
DTYPES: dict[TrainingPrecision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


Fetched = TypeVar("Fetched")


class Timer:
    """Times the steps and the waits for their images, in the same way in every loop."""

    def __init__(self, warm_up: int, batch_size: int) -> None:
        self.warm_up = warm_up
        self.batch_size = batch_size
        self.ends: dict[int, float] = {}
        self.waits: list[float] = []

    def steps_done(self, number: int) -> None:
        self.ends[number] = time.perf_counter()

    def watched(self, batches: Iterator[Fetched]) -> Iterator[Fetched]:
        while True:
            started = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self.waits.append(time.perf_counter() - started)
            yield batch

    def result(self) -> dict[str, float]:
        last = max(self.ends)
        seconds = self.ends[last] - self.ends[self.warm_up]
        return {
            "images_per_second": (last - self.warm_up) * self.batch_size / seconds,
            "waiting_share": sum(self.waits[self.warm_up : last]) / seconds,
        }


# The plain loop


class PlainImages(Dataset[tuple[torch.Tensor, int]]):
    """Shorter side to 256, a random crop and mirror, then float channels minus the mean, divided by the deviation."""

    def __init__(self, examples: Sequence[ImageFile], num_images: int, size: int) -> None:
        self.examples = examples
        self.num_images = num_images
        self.size = size

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        example = self.examples[index % len(self.examples)]
        image = Image.open(example.path).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
        left = int(torch.randint(image.width - self.size + 1, ()))
        top = int(torch.randint(image.height - self.size + 1, ()))
        image = image.crop((left, top, left + self.size, top + self.size))
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float() / 255
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        return (pixels - mean[:, None, None]) / deviation[:, None, None], example.label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    architecture: Architecture
    found: Survey
    batch_size: int
    steps: int
    workers: int
    device: str
    precision: TrainingPrecision
    pack: Survey | None

    @property
    def warm_up(self) -> int:
        return WARM_UP[self.device]

    @property
    def num_images(self) -> int:
        return self.batch_size * (self.warm_up + self.steps)

    def arithmetic(self) -> contextlib.AbstractContextManager[object]:
        return torch.autocast(self.device, dtype=DTYPES[self.precision], enabled=self.precision != "fp32")

    @property
    def flop_per_image(self) -> int:
        first, *_ = self.table.costs()
        return 2 * (3 * self.table.num_multiply_adds - first.num_multiply_adds)

    @property
    def table(self) -> Architecture:
        return self.architecture.with_num_classes(len(self.found.folder.class_names))


def plain_step(case: Case) -> Callable[[torch.Tensor, torch.Tensor], float]:
    network = Network(case.table).to(case.device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9, weight_decay=5e-4)

    def step(images: torch.Tensor, labels: torch.Tensor) -> float:
        with case.arithmetic():
            loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def plain(case: Case, timer: Timer) -> None:
    loader = DataLoader(
        PlainImages(case.found.folder.train, case.num_images, case.architecture.input_size),
        batch_size=case.batch_size,
        shuffle=True,
        num_workers=case.workers,
        pin_memory=case.device == "cuda",
    )
    step = plain_step(case)
    for number, (images, labels) in enumerate(timer.watched(iter(loader)), 1):
        step(images.to(case.device, non_blocking=True), labels.to(case.device, non_blocking=True))
        timer.steps_done(number)


def network(case: Case, timer: Timer) -> None:
    size = case.architecture.input_size
    images = torch.randn((case.batch_size, 3, size, size), device=case.device)
    labels = torch.arange(case.batch_size, device=case.device) % case.table.num_classes
    step = plain_step(case)
    for number in range(1, case.warm_up + case.steps + 1):
        step(images, labels)
        timer.steps_done(number)


# Ours


class Repeated:
    """`num_images` images, repeated if there are fewer; the timer, if any, records the waits for them."""

    def __init__(self, images: Batches, num_images: int, timer: Timer | None) -> None:
        self.images = images
        self.num_images = num_images
        self.timer = timer

    def __len__(self) -> int:
        return self.num_images

    def batches(self, numbers: Sequence[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        batches = self.images.batches([batch % len(self.images) for batch in numbers])
        return batches if self.timer is None else self.timer.watched(batches)


def train_ours(case: Case, timer: Timer, found: Survey) -> None:
    recipe = Recipe(
        name="benchmark", epochs=1, batch_size=case.batch_size, learning_rate=0.001, precision=case.precision
    )
    policy = PUBLISHED_PREPROCESSING[case.architecture.name].image_policy
    data = training_set(found, policy, torch.device(case.device), threads=case.workers)
    data = dataclasses.replace(
        data, train=Repeated(data.train, case.num_images, timer), validation=Repeated(data.validation, 1, None)
    )

    def note(now: Progress) -> None:
        if now.finished is None:
            timer.steps_done(now.num_images // case.batch_size)

    if case.device == "cpu":
        # As the train command does.
        keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        observer = Observer(on_progress=note)
        train(data, case.architecture, recipe, Path(folder) / "run", placement=placed(case.device), observer=observer)


def ours(case: Case, timer: Timer) -> None:
    train_ours(case, timer, case.found)


def packed(case: Case, timer: Timer) -> None:
    assert case.pack is not None
    train_ours(case, timer, case.pack)


LOOPS = {"ours": ours, "packed": packed, "plain": plain, "network": network}


# The ceiling


def products(device: str, dtype: torch.dtype) -> Iterator[tuple[int, Callable[[], torch.Tensor]]]:
    """Matrix products and their FLOP, by `@` and by a 1 x 1 convolution: on a CPU two libraries of different speed."""
    for side in (2048, 4096, 8192) if device == "cuda" else (512, 1024, 2048):
        one, other = (torch.randn((side, side), device=device).to(dtype) for _ in range(2))
        yield 2 * side**3, lambda one=one, other=other: one @ other  # type: ignore[misc]
    for channels in (384, 512, 1024):
        pixels = torch.randn((16, channels, 32, 32), device=device).to(dtype).to(memory_format=torch.channels_last)
        kernel = torch.randn((channels, channels, 1, 1), device=device).to(dtype)
        flop = 2 * channels**2 * 16 * 32 * 32
        yield flop, lambda pixels=pixels, kernel=kernel: functional.conv2d(pixels, kernel)  # type: ignore[misc]


@torch.inference_mode()
def ceiling(device: str, dtype: torch.dtype) -> float:
    """Largest FLOP/s of the products; on CUDA, float32 products may use TF32, as torch's convolutions do."""
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device == "cuda" else kept)
    most = 0.0
    for flop, product in products(device, dtype):
        seconds = []
        for _ in range(12):
            started = time.perf_counter()
            product()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        most = max(most, flop / statistics.median(seconds[2:]))
    torch.set_float32_matmul_precision(kept)
    return most


def synthetic_data(root: Path, num_train: int = 128) -> Path:
    """Two classes of JPEGs as large as ImageNet's, about 110 KB each: smooth colours with some grain."""
    rng = np.random.default_rng(0)
    for label in ("one", "two"):
        for side, number in (("train", num_train // 2), ("val", 1)):
            (root / side / label).mkdir(parents=True)
            for n in range(number):
                coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8)).resize((500, 375))
                grain = rng.normal(0, 9, (375, 500, 3))
                pixels = np.asarray(coarse.filter(ImageFilter.GaussianBlur(4))) + grain
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(root / side / label / f"{n}.jpg", quality=90)
    return root


def timed(name: str, case: Case) -> dict[str, float]:
    timer = Timer(case.warm_up, case.batch_size)
    LOOPS[name](case, timer)
    wanted = case.warm_up + case.steps
    if max(timer.ends) != wanted or len(timer.waits) != (0 if name == "network" else wanted):
        raise SystemExit(f"{name}: took {max(timer.ends)} steps and waited {len(timer.waits)} times")
    return timer.result()


def measure(case: Case, repeats: int) -> list[dict[str, object]]:
    results: dict[str, list[dict[str, float]]] = {name: [] for name in LOOPS if name != "packed" or case.pack}
    for _ in range(repeats):
        for name in results:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
                results[name].append(process.submit(timed, name, case).result())
            print(case.device, case.precision, name, results[name][-1], file=sys.stderr)
    most = ceiling(case.device, DTYPES[case.precision])
    rows: list[dict[str, object]] = []
    for name, measured in results.items():
        speed = statistics.median(result["images_per_second"] for result in measured)
        flops = speed * case.flop_per_image
        ratios = [
            a["images_per_second"] / b["images_per_second"] for a, b in zip(measured, results["plain"], strict=True)
        ]
        rows.append(
            {
                "device": case.device,
                "precision": case.precision,
                "loop": name,
                "images_per_second": speed,
                "speed_against_plain": statistics.median(ratios),
                "waiting_share": statistics.median(result["waiting_share"] for result in measured),
                "flop_per_second": flops,
                "ceiling_flop_per_second": most,
                "share_of_ceiling": flops / most,
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="labelled folder; default: synthetic images")
    parser.add_argument("--pack", type=Path, help="packed set, to time our loop on it too")
    parser.add_argument("--arch", default="paper")
    parser.add_argument("--device", choices=["cpu", "cuda"], action="append", help="default: all available")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=decode_threads())
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    architecture = architecture_by_name(options.arch)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found = look_over(
            options.data or synthetic_data(Path(folder) / "data"), preprocessing_for(architecture.name).image_policy
        )
        pack = (
            None if options.pack is None else look_over(options.pack, preprocessing_for(architecture.name).image_policy)
        )
        for device in options.device or ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
            for precision in DTYPES:
                case = Case(
                    architecture=architecture,
                    found=found,
                    batch_size=options.batch_size,
                    steps=options.steps,
                    workers=options.workers,
                    device=device,
                    precision=precision,
                    pack=pack,
                )
                rows += measure(case, options.repeats)
    result = {
        "architecture": options.arch,
        "batch": options.batch_size,
        "steps": options.steps,
        "repeats": options.repeats,
        "workers": options.workers,
        "images": "made up" if options.data is None else options.data.name,
        "multiply_adds_per_image": case.table.num_multiply_adds,
        "machine": processor(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": load,
        "tools": tool_versions("torch"),
        "rows": rows,
    }
    record(options.out, result)


if __name__ == "__main__":
    main()
