"""Throughput and latency of `serve` on this machine, against `predict` on the same files.

    python -m benchmarks.serving.serve BUNDLE IMAGES --out RESULT.json

Each round runs `predict` on the files and then 1, 4 and 16 clients, which post files to /classify one after another.
Clients and server share the machine.
"""

import argparse
import asyncio
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.record import record

PORT = 8127
URL = f"http://127.0.0.1:{PORT}"
CLIENTS = (1, 4, 16)
PROGRAM = [sys.executable, "-m", "alexnet_deploy"]


@contextmanager
def serving(bundle: Path) -> Iterator[int]:
    """Run a server until the end of the block; yields its process id once it is ready."""
    command = [*PROGRAM, "serve", f"m={bundle}", "--port", str(PORT)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        while True:
            assert process.poll() is None, "the server ended"
            try:
                if httpx.get(f"{URL}/v2/health/ready").status_code == httpx.codes.OK:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


async def _ask(files: list[bytes], num_clients: int, seconds: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def one(client: httpx.AsyncClient, number: int) -> None:
        place = number
        while time.perf_counter() < end:
            started = time.perf_counter()
            answer = await client.post(f"{URL}/v2/models/m/classify", content=files[place % len(files)])
            assert answer.status_code == httpx.codes.OK, answer.text
            times.append(time.perf_counter() - started)
            place += num_clients

    async with httpx.AsyncClient(timeout=120) as client:
        await asyncio.gather(*(one(client, number) for number in range(num_clients)))
    return times


def ask(files: list[bytes], num_clients: int, seconds: float) -> list[float]:
    """Return the time of each request, in seconds."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_run, (files, num_clients, seconds))


def _run(files: list[bytes], num_clients: int, seconds: float) -> list[float]:
    return asyncio.run(_ask(files, num_clients, seconds))


def predicted(bundle: Path, images: list[Path]) -> float:
    """Return the images per second of `predict`, without its start: the time of all files less that of one."""

    def seconds(some: list[Path]) -> float:
        started = time.perf_counter()
        names = "\n".join(map(str, some)).encode()
        command = [*PROGRAM, "predict", "-", "--bundle", str(bundle), "--format", "jsonl"]
        subprocess.run(command, input=names, check=True, capture_output=True)
        return time.perf_counter() - started

    return (len(images) - 1) / (seconds(images) - seconds(images[:1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    images = sorted(options.images.rglob("*.jpg"))
    files = [path.read_bytes() for path in images]
    rates: list[float] = []
    served: dict[int, list[list[float]]] = {number: [] for number in CLIENTS}
    for _ in range(options.rounds):
        rates.append(predicted(options.bundle, images))
        with serving(options.bundle):
            ask(files, 4, 3.0)
            for number in CLIENTS:
                served[number].append(ask(files, number, options.seconds))
    manifest = open_bundle(options.bundle).manifest
    rate = float(np.median(rates))
    rows = {}
    for number, rounds in served.items():
        each = [len(times) / options.seconds for times in rounds]
        times_ms = 1e3 * np.concatenate(rounds)
        p50, p99 = np.percentile(times_ms, (50, 99)).tolist()
        rows[str(number)] = {
            "images_per_second": float(np.median(each)),
            "of_predict": float(np.median([one / other for one, other in zip(each, rates, strict=True)])),
            "p50_ms": p50,
            "p99_ms": p99,
            "num_requests": len(times_ms),
        }
    record(
        options.out,
        {
            "processor": processor(),
            "tools": tool_versions("openvino", "onnxruntime", "starlette", "uvicorn"),
            "bundle": f"{manifest.architecture.name}, {manifest.precision}, {manifest.views.name} views",
            "num_files": len(files),
            "rounds": options.rounds,
            "predict_images_per_second": rate,
            "clients": rows,
        },
    )


if __name__ == "__main__":
    main()
