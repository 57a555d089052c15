"""Throughput of packing, and of reading images: decoded from a folder, and copied from its pack.

    python -m benchmarks.training.pack --data images --out RESULT.json

Each row is the median of its runs, in images per second of wall time and of CPU time. For `cold` the file is first
dropped from the page cache.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.core.process.machine import num_processors, processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.train.data.batches import Batches, in_batches
from alexnet_deploy.train.data.loader import batches_of
from alexnet_deploy.train.data.scan import find_images, survey
from alexnet_deploy.train.pack.format import IMAGES, open_pack, survey_of, verify
from alexnet_deploy.train.pack.writer import pack
from benchmarks.record import record

BATCH_SIZE = 128


def timed(work: Callable[[], int], num_runs: int, before: Callable[[], object] = lambda: None) -> dict[str, float]:
    """Images per second; `work` returns the number of images."""
    by_clock, by_processor = [], []
    for _ in range(num_runs):
        before()
        clock, processor = time.perf_counter(), time.process_time()
        num_images = work()
        by_clock.append(num_images / (time.perf_counter() - clock))
        by_processor.append(num_images / (time.process_time() - processor))
    return {"a_second": statistics.median(by_clock), "a_processor_second": statistics.median(by_processor)}


def drop_cache(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    source, cpu = find_images(options.data), torch.device("cpu")
    num_images = len(source.train) + len(source.validation)
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(dir=options.out.parent) as folder:
        out = Path(folder) / "one.pack"

        def packed(threads: int) -> int:
            pack(source, out, SHORTER_SIDE, threads=threads)
            return num_images

        for threads in sorted({1, num_processors()}):
            rows[f"pack, {threads} threads"] = timed(
                lambda threads=threads: packed(threads),
                options.runs,
                lambda: shutil.rmtree(out, ignore_errors=True),
            )
        rows["verify"] = timed(lambda: list(verify(open_pack(out)))[-1], options.runs)
        surveyed = survey(source, SHORTER_SIDE)

        def epoch(batches: Batches) -> int:
            order = in_batches(torch.randperm(len(batches)), BATCH_SIZE)
            return sum(len(images) for images, _ in batches.batches(order))

        for threads in (1, 2):
            decoded = batches_of(surveyed.folder.train, SHORTER_SIDE, cpu, threads=threads)
            rows[f"folder, {threads} threads"] = timed(lambda decoded=decoded: epoch(decoded), options.runs)

        def opened_epoch() -> int:
            # Opened each time: pages of a mapped file stay in the page cache.
            side = survey_of(open_pack(out), SHORTER_SIDE).folder.train
            return epoch(batches_of(side, SHORTER_SIDE, cpu))

        rows["pack"] = timed(opened_epoch, options.runs)
        rows["pack, cold"] = timed(opened_epoch, options.runs, lambda: drop_cache(out / IMAGES))
    result = {
        "machine": processor(),
        "load_average": os.getloadavg()[0],
        "tools": tool_versions("torch"),
        "images": num_images,
        "runs": options.runs,
        "batch_size": BATCH_SIZE,
        "images_a_second": rows,
    }
    record(options.out, result)


if __name__ == "__main__":
    main()
