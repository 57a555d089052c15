"""Runs of MLPerf's load generator: one scenario, its verdict, and the highest valid rate.

The images are in memory, decoded: as in MLPerf's image classification, decoding is not part of a query.
"""

import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Literal, TypeAlias

import numpy as np
from msgspec import Struct

from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.core.process.installation import install_command
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.pipeline.loadgen.early_stopping import runs_needed
from alexnet_deploy.pipeline.loadgen.system import System

Scenario: TypeAlias = Literal["single-stream", "offline", "server"]

_NAMES = {"single-stream": "SingleStream", "offline": "Offline", "server": "Server"}
_PERCENTILE = 0.99
"""Share of the server's queries that must be within the latency limit."""

# Half of these would do without a single query over the limit.
_SERVER_QUERIES = 2 * runs_needed(_PERCENTILE)

_LONGER = 1.25
_ROUGH_MS = 1000

_ACCURACY_RATE = 1000.0
"""server, accuracy mode: queries per second; latency does not matter there."""

_MOST_TRIES = 16
_CLOSE = 1.05
"""The search ends when the lowest invalid rate is at most this multiple of the highest valid one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadRequest:
    """One run of the load generator."""

    scenario: Scenario
    seconds: float
    """Minimum duration. A submission to MLPerf needs 600."""
    rate: float = 0.0
    """Server: queries per second, at random times."""
    limit_ms: float = 0.0
    """Server: limit of the latency that 99 % of the queries must keep."""


class LoadResult(Struct, frozen=True, kw_only=True):
    """The verdict of one run."""

    scenario: str
    is_valid: bool
    reasons: tuple[str, ...]
    """Why it is invalid; empty if it is valid."""
    num_queries: int
    images_per_second: float
    """Completed images per second."""
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p90_bound_ms: float | None = None
    """single-stream: upper estimate of p90 with 99 % confidence, which MLPerf reports; None with too few queries."""
    p99_bound_ms: float | None = None
    """single-stream: the same for p99."""
    rate: float | None = None
    """server: queries per second that were asked for."""
    limit_ms: float | None = None
    """server: limit of the latency."""
    version: str = ""
    """Version of the load generator."""


def run_load(engine: Engine, images: np.ndarray, request: LoadRequest) -> LoadResult:
    """Drive an engine with queries for N images, uint8 (N, 256, 256, 3), in one scenario, and return the verdict.

    Raises BackendError where the load generator is not installed, and what Engine.run raises.
    """
    loadgen = _loadgen()
    settings = _settings(loadgen, request.scenario)
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = int(1e3 * request.seconds)
    match request.scenario:
        case "single-stream":
            settings.min_query_count = runs_needed(0.9)
            # All queries are made in advance: an expectation that is too long gives too few of them.
            settings.single_stream_expected_latency_ns = int(1e9 * _shortest_seconds(engine, images) / 2)
        case "offline":
            # The expected rate sets the number of images of the one query, which must last long enough.
            settings.offline_expected_qps = _LONGER * _rough_rate(engine, images)
        case "server":
            settings.min_query_count = _SERVER_QUERIES
            settings.server_target_qps = request.rate
            settings.server_target_latency_ns = int(1e6 * request.limit_ms)
            settings.server_target_latency_percentile = _PERCENTILE
    with _run(loadgen, engine, images, settings, request.scenario) as folder:
        return _result(_events(folder / "mlperf_log_detail.txt"), request)


def guesses_under_load(engine: Engine, images: np.ndarray, scenario: Scenario) -> np.ndarray:
    """Return the top-1 classes, int32 (N,), of the accuracy mode, which asks for each image once.

    Raises what run_load raises.
    """
    loadgen = _loadgen()
    settings = _settings(loadgen, scenario)
    settings.mode = loadgen.TestMode.AccuracyOnly
    settings.server_target_qps = _ACCURACY_RATE
    guesses = np.full(len(images), -1, dtype=np.int32)
    with _run(loadgen, engine, images, settings, scenario) as folder:
        for answer in json.loads((folder / "mlperf_log_accuracy.json").read_text()):
            (guesses[answer["qsl_idx"]],) = np.frombuffer(bytes.fromhex(answer["data"]), dtype=np.int32)
    return guesses


def highest_rate(
    engine: Engine, images: np.ndarray, request: LoadRequest, say: Say = say_nothing
) -> tuple[LoadResult | None, tuple[LoadResult, ...]]:
    """Return the server run with the highest valid rate, and all runs; None if no rate was valid.

    The search starts at `request.rate`, or at the engine's throughput, doubles or halves it until it has a valid and an
    invalid rate, and then halves the distance.
    """
    rate = request.rate or _rough_rate(engine, images)
    runs: list[LoadResult] = []
    best: LoadResult | None = None
    lowest_invalid: float | None = None
    while len(runs) < _MOST_TRIES:
        found = run_load(engine, images, replace(request, scenario="server", rate=rate))
        say(f"server at {rate:.1f} queries/s: {describe_verdict(found)}")
        runs.append(found)
        if found.is_valid:
            best = found if best is None or rate > (best.rate or 0) else best
        else:
            lowest_invalid = rate if lowest_invalid is None else min(rate, lowest_invalid)
        valid = None if best is None else best.rate
        if valid is not None and lowest_invalid is not None:
            if lowest_invalid <= _CLOSE * valid:
                break
            rate = (valid + lowest_invalid) / 2
        else:
            rate = 2 * rate if found.is_valid else rate / 2
    return best, tuple(runs)


def describe_verdict(found: LoadResult) -> str:
    """Return VALID, or INVALID with the reasons."""
    return "VALID" if found.is_valid else f"INVALID: {'; '.join(found.reasons)}"


def _loadgen() -> ModuleType:
    try:
        return importlib.import_module("mlperf_loadgen")
    except ModuleNotFoundError as error:
        raise BackendError(f"MLPerf's load generator is not installed; run `{install_command('loadgen')}`") from error


def _settings(loadgen: ModuleType, scenario: Scenario) -> "_Settings":
    settings: _Settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, _NAMES[scenario])
    return settings


class _Settings:
    """The fields of the load generator's settings that are used here."""

    scenario: object
    mode: object
    min_duration_ms: int
    min_query_count: int
    single_stream_expected_latency_ns: int
    offline_expected_qps: float
    server_target_qps: float
    server_target_latency_ns: int
    server_target_latency_percentile: float


def _shortest_seconds(engine: Engine, images: np.ndarray) -> float:
    """Return the shortest time of five runs of one image, after one untimed run."""
    engine.run(images[:1])
    times = []
    for _ in range(5):
        started = time.perf_counter()
        engine.run(images[:1])
        times.append(time.perf_counter() - started)
    return min(times)


def _rough_rate(engine: Engine, images: np.ndarray) -> float:
    """Return images per second of two short runs in the offline scenario; the first fills no pipeline."""
    loadgen = _loadgen()
    rate = 1.0
    for _ in range(2):
        settings = _settings(loadgen, "offline")
        settings.mode = loadgen.TestMode.PerformanceOnly
        settings.min_duration_ms = _ROUGH_MS
        settings.offline_expected_qps = rate
        with _run(loadgen, engine, images, settings, "offline") as folder:
            events = _events(folder / "mlperf_log_detail.txt")
        rate = max(1.0, float(events["result_samples_per_second"]))  # type: ignore[arg-type]
    return rate


@contextmanager
def _run(
    loadgen: ModuleType, engine: Engine, images: np.ndarray, settings: _Settings, scenario: Scenario
) -> Iterator[Path]:
    """Run a test, and yield the folder of its logs; raises the first error of the engine."""
    batch_size = 1 if scenario == "single-stream" else engine.info.batch_size
    with TemporaryDirectory() as name, System(loadgen, engine, images, batch_size) as system:
        sut = loadgen.ConstructSUT(system.issue, system.flush)
        library = loadgen.ConstructQSL(len(images), len(images), _nothing, _nothing)
        output = loadgen.LogOutputSettings()
        output.outdir = name
        output.copy_summary_to_stdout = False
        logs = loadgen.LogSettings()
        logs.log_output = output
        logs.enable_trace = False
        # In a thread of its own, so that Ctrl-C reaches this one. The last argument is a file of audit settings.
        _in_thread(lambda: loadgen.StartTestWithLogSettings(sut, library, settings, logs, ""))
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)
        if system.error is not None:
            raise system.error
        yield Path(name)


def _nothing(indices: list[int]) -> None:
    """Load or unload images: all of them are in memory."""


def _in_thread(run: Callable[[], None]) -> None:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)


def _events(log: Path) -> dict[str, object]:
    """Return the last value of each key in the load generator's detailed log."""
    found: dict[str, object] = {}
    for line in log.read_text().splitlines():
        _, marker, record = line.partition(":::MLLOG ")
        if marker:
            event = json.loads(record)
            found[event["key"]] = event["value"]
    return found


def _result(events: dict[str, object], request: LoadRequest) -> LoadResult:
    def ms(key: str) -> float:
        return float(events[key]) / 1e6  # type: ignore[arg-type]

    rates = ("result_samples_per_second", "result_completed_samples_per_sec", "result_qps_with_loadgen_overhead")
    is_server, is_stream = request.scenario == "server", request.scenario == "single-stream"
    # 0 means that there were too few queries for the estimate.
    bounds = (
        [ms(key) or None for key in ("early_stopping_latency_ss", "early_stopping_latency_ms")] if is_stream else []
    )
    return LoadResult(
        scenario=request.scenario,
        is_valid=events["result_validity"] == "VALID",
        reasons=tuple(_reasons(events, request)),
        num_queries=int(events["result_query_count"]),  # type: ignore[call-overload]
        images_per_second=float(next(events[key] for key in rates if key in events)),  # type: ignore[arg-type]
        p50_ms=ms("result_50.00_percentile_latency_ns"),
        p90_ms=ms("result_90.00_percentile_latency_ns"),
        p99_ms=ms("result_99.00_percentile_latency_ns"),
        p90_bound_ms=bounds[0] if bounds else None,
        p99_bound_ms=bounds[1] if bounds else None,
        rate=request.rate if is_server else None,
        limit_ms=request.limit_ms if is_server else None,
        version=str(events["loadgen_version"]).split(" ", 1)[0],
    )


def _reasons(events: dict[str, object], request: LoadRequest) -> Iterator[str]:
    if events["result_validity"] == "VALID":
        return
    num_queries = int(events["result_query_count"])  # type: ignore[call-overload]
    late = int(events.get("result_overlatency_query_count", 0))  # type: ignore[call-overload]
    if events.get("result_perf_constraints_met") is False:
        yield (
            f"{late:,} of {counted(num_queries, 'query', 'queries')} took over {request.limit_ms:g} ms, "
            f"at most {1 - _PERCENTILE:.0%} may"
        )
    if events.get("result_min_duration_met") is False:
        yield "the run was shorter than the minimum duration"
    if events.get("result_min_queries_met") is False:
        yield "the run had fewer queries than the minimum"
    if events.get("early_stopping_met") is False and events.get("result_perf_constraints_met") is not False:
        yield (
            f"{counted(num_queries, 'query', 'queries')}, {late:,} of them over the limit, are too few to claim the "
            "percentile with 99 % confidence"
        )
