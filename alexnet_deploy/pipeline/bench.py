"""Latency of each stage of a prediction on this machine, and the throughput of the whole pipeline.

Each stage is repeated in this process after one untimed warm-up. The first run of an engine, which pays for lazy
initialisation, is reported separately.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
from msgspec import Struct
from PIL import Image

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.images.batches import look_through
from alexnet_deploy.core.images.decode import decode_image, decode_pixels, read_file
from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_image
from alexnet_deploy.core.images.resize import to_square
from alexnet_deploy.core.inputs.paths import find_files
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.engines.engine import Device, Engine, EngineInfo, Tuning, cuda_index, open_engine
from alexnet_deploy.engines.registry import Backend, installed_backends
from alexnet_deploy.engines.tensorrt.plan import backends_here
from alexnet_deploy.pipeline.loadgen.early_stopping import percentile_bound
from alexnet_deploy.predict.prediction import best_guesses
from alexnet_deploy.predict.predictor import Predictor

DRAWN_SIZE = (500, 375)
"""Width and height of the drawn images: a common size in ImageNet."""

_MOST_IMAGES = 64
_LEAST_RUNS = 20


class Timing(Struct, frozen=True, kw_only=True):
    """Latency percentiles of one stage, in milliseconds."""

    stage: str
    """decode, resize, upload, compute, download or whole; see STAGES."""
    batch: int
    """Images per run."""
    p50_ms: float
    p95_ms: float | None
    """Upper estimate with 99 % confidence; None if there are too few runs. See loadgen/early_stopping.py."""
    p99_ms: float | None
    """The same for the 99th percentile."""
    num_runs: int


STAGES = {
    "decode": "image bytes to pixels, in one thread",
    "resize": "pixels to 256 x 256, in one thread",
    "open": "bundle directory to engine: verify the bytes, import the library, compile the graph",
    "first run": "one image, before any warm-up",
    "upload": "copy to device memory, by the device's clock",
    "compute": "the graph with its views and softmax, all threads on one batch; a larger batch than it takes is split",
    "download": "copy from device memory, by the device's clock",
    "whole": "image bytes to predictions, one image after another",
    "images/s": "as `predict` works: several batches at a time on the engine, decoding in parallel",
}
"""What each stage's time includes."""


class EngineTimes(Struct, frozen=True, kw_only=True):
    """Latency and throughput of one engine."""

    backend: str
    version: str
    device: str
    arithmetic: str
    open_ms: float
    """From the bundle's directory to an engine: verify the bytes, import the library (only on its first use in the
    process), compile the graph."""
    first_ms: float
    """The first run, with one image."""
    stages: tuple[Timing, ...]
    num_streams: int
    """Batches in flight while throughput was measured."""
    batch_size: int
    """Images per batch while throughput was measured."""
    images_per_second: float
    """From files to predictions, with decoding in parallel, over at least as long as a stage is timed."""
    engine_idle: float
    """Share of that time in which a stream of the engine was idle, 0..1."""


class Benchmark(Struct, frozen=True, kw_only=True):
    """All timings of one bundle, with the machine and the images they were measured on."""

    bundle: str
    bundle_sha256: str
    precision: str
    views: str
    processor: str
    images: str
    """Description of the images."""
    mean_bytes: int
    """Mean size of an image file."""
    decoding: tuple[Timing, ...]
    engines: tuple[EngineTimes, ...]


def bench(
    bundle: Bundle,
    *,
    backends: Sequence[Backend] | None = None,
    data: Path | None = None,
    batch_sizes: Sequence[int] = (1,),
    device: Device | Literal["auto"] = "auto",
    threads: int | None = None,
    seconds: float = 2.0,
    say: Say = say_nothing,
) -> Benchmark:
    """Time each backend on up to 64 images of `data`, or on drawn images.

    The default backends are those that run any graph on this CPU or, if `device` is a GPU, all that support it.

    `compute` is timed at `batch_sizes` and at the engine's own batch size. Each stage is timed for `seconds`, and at
    least 20 times. Raises UsageError where `data` does not exist, DataError where no image in it can be read, and what
    open_engine raises.
    """
    with image_files(data, bundle.manifest.preprocessing.image_policy) as files:
        encoded = [read_file(path) for path in files]
        say(f"decoding {counted(len(files), 'image')}")
        decoding = _time_decoding(encoded, bundle, seconds)
        engines = []
        on_gpu = cuda_index(device) is not None
        for backend in backends or (backends_here(bundle, device) if on_gpu else installed_backends()):
            say(f"running on {backend}")
            opener = partial(open_engine, bundle, backend, device, threads)
            engines.append(_time_engine(bundle, opener, files, encoded, batch_sizes, seconds))
    drawn = f"drawn, {DRAWN_SIZE[0]} x {DRAWN_SIZE[1]}, JPEG of quality 90"
    return Benchmark(
        bundle=str(bundle.path),
        bundle_sha256=bundle.sha256,
        precision=bundle.manifest.precision,
        views=bundle.manifest.views.name,
        processor=processor(),
        images=f"{len(files)} of {data}" if data else f"{len(files)} {drawn}",
        mean_bytes=sum(map(len, encoded)) // len(encoded),
        decoding=decoding,
        engines=tuple(engines),
    )


@contextmanager
def image_files(data: Path | None, policy: ImagePolicy, most: int = _MOST_IMAGES) -> Iterator[Sequence[Path]]:
    """Yield the first readable images of a file or folder, at most `most`; 64 drawn ones without `data`.

    Raises UsageError where `data` does not exist, DataError where no image in it can be read.
    """
    if data is not None:
        if not data.exists():
            raise UsageError(f"{data}: there is no such file or folder")
        inputs = list(islice(find_files(data), most))
        if not inputs:
            raise UsageError(f"{data}: holds no images to time")
        found = look_through(inputs, policy)
        if not found.sources:
            raise DataError(f"{data}: none of its first {most} files is a readable image; pass a folder of images")
        yield [path for path in found.sources if isinstance(path, Path)]
        return
    with TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.jpg" for number in range(_MOST_IMAGES)]
        for number, path in enumerate(files):
            drawn = draw_image(DRAWN_CLASSES[number % len(DRAWN_CLASSES)], seed=number)
            drawn.resize(DRAWN_SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
        yield files


def _time_decoding(encoded: Sequence[bytes], bundle: Bundle, seconds: float) -> tuple[Timing, ...]:
    policy = bundle.manifest.preprocessing.image_policy
    decoded = [decode_pixels(data, policy.decode) for data in encoded]
    sources, pixels = cycle(encoded), cycle(decoded)
    return (
        _timing("decode", 1, run_times_ms(lambda: decode_pixels(next(sources), policy.decode), seconds)),
        _timing("resize", 1, run_times_ms(lambda: to_square(next(pixels), policy.resize), seconds)),
    )


def _time_engine(
    bundle: Bundle,
    opener: Callable[[Tuning], Engine],
    files: Sequence[Path],
    encoded: Sequence[bytes],
    batch_sizes: Sequence[int],
    seconds: float,
) -> EngineTimes:
    policy = bundle.manifest.preprocessing.image_policy
    images = np.stack([decode_image(data, policy) for data in islice(cycle(encoded), max(_MOST_IMAGES, *batch_sizes))])
    started = time.perf_counter()
    with opener("latency") as engine:
        opened = time.perf_counter()
        engine.run(images[:1])
        first_ms = 1e3 * (time.perf_counter() - opened)
        stages = tuple(_time_stages(engine, images, {*batch_sizes, engine.info.batch_size}, seconds))
        sources = cycle(encoded)

        def whole() -> object:
            (row,) = engine.run(decode_image(next(sources), policy)[None])
            return row if engine.output.layer is not None else best_guesses(row, bundle.labels, topk=5)

        stages += (_timing("whole", 1, run_times_ms(whole, seconds)),)
    info, rate, idle = _time_stream(bundle, opener, files, seconds)
    return EngineTimes(
        backend=info.backend,
        version=info.version,
        device=info.device,
        arithmetic=info.arithmetic,
        open_ms=1e3 * (opened - started),
        first_ms=first_ms,
        stages=stages,
        num_streams=info.num_streams,
        batch_size=info.batch_size,
        images_per_second=rate,
        engine_idle=idle,
    )


def _time_stages(engine: Engine, images: np.ndarray, batch_sizes: set[int], seconds: float) -> Iterator[Timing]:
    for batch in sorted(batch_sizes):
        part = images[:batch]
        if engine.time_stages(part) is None:
            yield _timing("compute", batch, run_times_ms(partial(engine.run, part), seconds))
            continue
        found = [times for _ in range(_LEAST_RUNS) if (times := engine.time_stages(part)) is not None]
        yield _timing("upload", batch, [times.upload_ms for times in found])
        yield _timing("compute", batch, [times.compute_ms for times in found])
        yield _timing("download", batch, [times.download_ms for times in found])


def _time_stream(
    bundle: Bundle, opener: Callable[[Tuning], Engine], files: Sequence[Path], seconds: float
) -> tuple[EngineInfo, float, float]:
    """Return the engine's info, its throughput from files to predictions in images/s, and its idle share, 0..1."""
    with opener("throughput") as engine:
        # One endless stream: the untimed start, in which the engine waits for the first images, is skipped.
        predictor = Predictor(bundle, engine)
        answer = predictor.predict if engine.output.layer is None else predictor.features
        with closing(answer(cycle(files))) as predictions:
            for _ in islice(predictions, 4 * engine.info.num_streams * engine.info.batch_size):
                pass
            started, busy, num_images, elapsed = time.perf_counter(), engine.busy_seconds, 0, 0.0
            while not num_images or elapsed < seconds:
                num_images += sum(1 for _ in islice(predictions, engine.info.batch_size))
                elapsed = time.perf_counter() - started
            busy = engine.busy_seconds - busy
        return engine.info, num_images / elapsed, max(0.0, 1 - busy / (elapsed * engine.info.num_streams))


def run_times_ms(run: Callable[[], object], seconds: float) -> list[float]:
    """Return the time of each run in milliseconds, after one untimed run: for `seconds`, and at least 20 runs."""
    run()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < _LEAST_RUNS or time.perf_counter() < end:
        started = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - started))
    return times


def _timing(stage: str, batch: int, times_ms: Sequence[float]) -> Timing:
    return Timing(
        stage=stage,
        batch=batch,
        p50_ms=float(np.median(times_ms)),
        p95_ms=percentile_bound(times_ms, 0.95),
        p99_ms=percentile_bound(times_ms, 0.99),
        num_runs=len(times_ms),
    )
