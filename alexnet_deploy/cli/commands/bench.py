"""`alexnet-deploy bench`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.cli.options import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    ThreadsOption,
    print_json,
)
from alexnet_deploy.core.names import find_bundle
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.pipeline.bench import Benchmark, Timing


def bench(
    bundle: BundleArgument = None,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    batch_size: Annotated[
        list[int] | None, typer.Option(min=1, help="Batch size to measure; can be repeated. Default: 1.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Images to measure with. Default: drawn images.")] = None,
    threads: ThreadsOption = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="Duration of each measurement.")] = 2.0,
    as_json: JsonOption = False,
) -> None:
    """Measure the latency of every stage of a prediction, and the throughput, with each installed backend."""
    from alexnet_deploy.cli.terminal import show, stages
    from alexnet_deploy.core.bundle.store import open_bundle
    from alexnet_deploy.pipeline.bench import bench as bench_bundle

    opened = open_bundle(find_bundle(bundle))
    with stages() as stage:
        result = bench_bundle(
            opened,
            backends=None if backend == "auto" else [backend],
            data=data,
            batch_sizes=batch_size or (1,),
            device=device,
            threads=threads,
            seconds=seconds,
            say=stage,
        )
    if as_json:
        print_json(result)
    else:
        show("\n".join(_lines(result)))


def _lines(result: "Benchmark") -> Iterator[str]:
    from alexnet_deploy.pipeline.bench import STAGES

    yield f"{result.bundle}: {result.precision}, {result.views} views; {result.processor}"
    yield f"images: {result.images}, {counted(result.mean_bytes, 'byte')} each"
    yield ""
    yield f"{'stage':<10} {'batch':>5} {'p50 ms':>9} {'p95 ms':>9} {'p99 ms':>9} {'runs':>6}"
    yield from map(_line, result.decoding)
    for engine in result.engines:
        yield f"{engine.backend} {engine.version}, {engine.device}, {engine.arithmetic}"
        yield f"{'open':<10} {'':>5} {engine.open_ms:>9.1f} {'':>9} {'':>9} {1:>6}"
        yield f"{'first run':<10} {1:>5} {engine.first_ms:>9.1f} {'':>9} {'':>9} {1:>6}"
        yield from map(_line, engine.stages)
        yield (
            f"{engine.images_per_second:,.1f} images/s from files to predictions, "
            f"{counted(engine.num_streams, 'stream')} of batch {engine.batch_size}; the engine was idle "
            f"{engine.engine_idle:.1%} of the time"
        )
    yield ""
    timed = {"open", "first run", "images/s"} | {
        timing.stage for timing in (*result.decoding, *(line for each in result.engines for line in each.stages))
    }
    yield from (f"{stage:<10} {words}" for stage, words in STAGES.items() if stage in timed)


def _line(timing: "Timing") -> str:
    times = " ".join(f"{value:>9.2f}" for value in (timing.p50_ms, timing.p95_ms, timing.p99_ms))
    return f"{timing.stage:<10} {timing.batch:>5} {times} {timing.num_runs:>6}"
