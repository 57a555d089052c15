"""`alexnet-deploy bench`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.cli.options import (
    BackendOption,
    BundleArgument,
    DeviceOption,
    JsonOption,
    ThreadsOption,
    print_json,
)
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import find_bundle
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.pipeline.bench import Benchmark, Timing
    from alexnet_deploy.pipeline.loadgen.bench import LoadBenchmark


LoadgenOption = Annotated[
    Literal["single-stream", "offline", "server"] | None,
    typer.Option(help="Run this scenario of MLPerf's load generator instead, for --seconds, and print its verdict."),
]
RateOption = Annotated[
    float | None,
    typer.Option(min=0.01, help="server: queries per second. Default: search the highest rate that is VALID."),
]
LimitOption = Annotated[
    float, typer.Option("--latency-ms", min=0.01, help="server: 99 % of the queries must take at most this long.")
]
AccuracyOption = Annotated[
    bool, typer.Option("--accuracy", help="loadgen: run its accuracy mode, and compare its guesses with predict's.")
]


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
    loadgen: LoadgenOption = None,
    rate: RateOption = None,
    limit_ms: LimitOption = 100.0,
    accuracy: AccuracyOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the latency of every stage of a prediction, and the throughput, with each installed backend."""
    from alexnet_deploy.cli.terminal import show, stages
    from alexnet_deploy.core.bundle.store import open_bundle
    from alexnet_deploy.pipeline.bench import bench as bench_bundle

    if loadgen is None and (rate is not None or accuracy):
        raise UsageError("--rate and --accuracy are options of the load generator; pass --loadgen too")
    if rate is not None and loadgen != "server":
        raise UsageError(f"--rate is an option of the scenario server, not of {loadgen}")
    opened = open_bundle(find_bundle(bundle))
    if loadgen is not None:
        if batch_size:
            raise UsageError("--batch-size does not apply to --loadgen: the scenario decides")
        from alexnet_deploy.pipeline.loadgen.bench import bench_under_load
        from alexnet_deploy.pipeline.loadgen.run import LoadRequest
        from alexnet_deploy.predict.predictor import LoadOptions

        options = LoadOptions(backend=backend, device=device, threads=threads)
        request = LoadRequest(scenario=loadgen, seconds=seconds, rate=rate or 0.0, limit_ms=limit_ms)
        with stages() as stage:
            found = bench_under_load(opened, options, data, request, accuracy=accuracy, say=stage)
        if as_json:
            print_json(found)
        else:
            show("\n".join(_load_lines(found)))
        if not found.passed:
            raise typer.Exit(1)
        return
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


def _load_lines(found: "LoadBenchmark") -> Iterator[str]:
    from alexnet_deploy.inspection.table import or_dash
    from alexnet_deploy.pipeline.loadgen.run import describe_verdict

    yield (
        f"{found.bundle} on {found.backend} {found.version}, {found.device}, {found.arithmetic}; "
        f"{counted(found.num_images, 'image')} in memory; {found.processor}"
    )
    if found.num_equal is not None:
        guesses = counted(found.num_images, "guess", "guesses")
        yield f"accuracy mode: {found.num_equal:,} of {guesses} equal to predict's"
        return
    if (result := found.result) is None:
        yield f"server: no rate was VALID in {counted(len(found.tries), 'run')}"
        return
    asked = "" if result.rate is None else f" at {result.rate:.1f} queries/s, limit {result.limit_ms:g} ms"
    yield f"{result.scenario}{asked}: {describe_verdict(result)}"
    yield (
        f"{result.images_per_second:,.1f} images/s, {counted(result.num_queries, 'query', 'queries')}; p50 "
        f"{result.p50_ms:.2f} ms, p90 {result.p90_ms:.2f} ms, p99 {result.p99_ms:.2f} ms"
    )
    if result.scenario == "single-stream":
        yield (
            f"with 99 % confidence at most: p90 {or_dash(result.p90_bound_ms, '.2f')} ms, "
            f"p99 {or_dash(result.p99_bound_ms, '.2f')} ms"
        )
    yield f"MLPerf load generator {result.version}; a submission needs 600 s"


def _lines(result: "Benchmark") -> Iterator[str]:
    from alexnet_deploy.pipeline.bench import STAGES
    from alexnet_deploy.pipeline.loadgen.early_stopping import runs_needed

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
    yield (
        f"{'p95, p99':<10} upper estimates with 99 % confidence; they need {runs_needed(0.95)} and {runs_needed(0.99)} "
        "runs, and a larger --seconds gives more"
    )


def _line(timing: "Timing") -> str:
    from alexnet_deploy.inspection.table import or_dash

    times = " ".join(f"{or_dash(value, '.2f'):>9}" for value in (timing.p50_ms, timing.p95_ms, timing.p99_ms))
    return f"{timing.stage:<10} {timing.batch:>5} {times} {timing.num_runs:>6}"
