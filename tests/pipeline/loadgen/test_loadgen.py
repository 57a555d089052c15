"""The load generator on engines that answer at once, that stall and that fail, and on a bundle."""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from commands import Run

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.pipeline.loadgen.run import LoadRequest, guesses_under_load, highest_rate, run_load

IMAGES = np.zeros((40, 256, 256, 3), dtype=np.uint8)
IMAGES[:, 0, 0, 0] = np.random.default_rng(1).permutation(40)
NO_LIMIT_MS = 600_000.0


@dataclass
class Info:
    num_streams: int = 2
    batch_size: int = 4


@dataclass
class Quick:
    """Answers with the number in an image's first pixel."""

    info: Info = field(default_factory=Info)
    num_runs: int = 0

    def run(self, images: np.ndarray) -> np.ndarray:
        self.num_runs += 1
        return np.eye(40, dtype=np.float32)[images[:, 0, 0, 0]]


class Stalling(Quick):
    """Stalls for 300 ms in every hundredth run."""

    def run(self, images: np.ndarray) -> np.ndarray:
        if self.num_runs % 100 == 50:
            time.sleep(0.3)
        return super().run(images)


class Failing(Quick):
    def run(self, images: np.ndarray) -> np.ndarray:
        if self.num_runs == 3:
            raise BackendError("the device was lost")
        return super().run(images)


def engine(fake: Quick) -> Engine:
    return cast("Engine", fake)


def server(limit_ms: float) -> LoadRequest:
    return LoadRequest(scenario="server", seconds=0.1, rate=1000.0, limit_ms=limit_ms)


def test_every_scenario_has_a_verdict() -> None:
    for request in (
        LoadRequest(scenario="single-stream", seconds=0.1),
        LoadRequest(scenario="offline", seconds=0.0),
        server(NO_LIMIT_MS),
    ):
        found = run_load(engine(Quick()), IMAGES, request)
        assert (found.scenario, found.is_valid, found.reasons) == (request.scenario, True, ())
        assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms
        assert found.images_per_second > 0


def test_a_stall_in_every_hundredth_run_makes_the_server_invalid() -> None:
    request = LoadRequest(scenario="server", seconds=0.1, rate=1000.0, limit_ms=100.0)
    found = run_load(engine(Stalling(info=Info(num_streams=1, batch_size=1))), IMAGES, request)
    assert not found.is_valid
    assert "queries took over 100 ms, at most 1% may" in found.reasons[0]


def test_the_accuracy_mode_asks_for_each_image_once_and_returns_its_guess() -> None:
    for scenario in ("single-stream", "offline", "server"):
        assert guesses_under_load(engine(Quick()), IMAGES, scenario).tolist() == IMAGES[:, 0, 0, 0].tolist()


def test_an_error_of_the_engine_ends_the_run_and_is_raised() -> None:
    for scenario in ("single-stream", "offline"):
        with pytest.raises(BackendError, match="the device was lost"):
            run_load(engine(Failing()), IMAGES, LoadRequest(scenario=scenario, seconds=0.0))


def test_the_search_stops_between_a_valid_and_an_invalid_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet_deploy.pipeline.loadgen import run

    honest = run.run_load(engine(Quick()), IMAGES, server(NO_LIMIT_MS))

    def verdict(_: Engine, __: np.ndarray, request: LoadRequest) -> object:
        from msgspec.structs import replace

        is_valid = request.rate <= 73
        return replace(honest, rate=request.rate, is_valid=is_valid, reasons=() if is_valid else ("late",))

    monkeypatch.setattr(run, "run_load", verdict)
    for start in (1.0, 73.0, 900.0):
        best, tries = highest_rate(engine(Quick()), IMAGES, LoadRequest(scenario="server", seconds=0, rate=start))
        assert best is not None
        assert best.rate is not None
        assert best.rate <= 73 <= min(each.rate or 0 for each in tries if not each.is_valid) <= 1.05 * best.rate
    best, tries = highest_rate(engine(Quick()), IMAGES, LoadRequest(scenario="server", seconds=0, rate=1e9))
    assert (best, len(tries)) == (None, 16)


def test_a_bundle_under_load_gives_the_guesses_of_predict(bundle: Bundle, images: Path, run: Run) -> None:
    done = run("bench", bundle.path, "--loadgen", "offline", "--accuracy", "--data", images, "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert (found["num_images"], found["num_equal"], found["result"]) == (12, 12, None)
    done = run("bench", bundle.path, "--loadgen", "single-stream", "--data", images, "--seconds", 0)
    assert done.code == 0, done
    assert "single-stream: VALID" in done.out
    assert "with 99 % confidence at most: p90 " in done.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--rate", 5), "--rate and --accuracy are options of the load generator; pass --loadgen too"),
        (("--accuracy",), "--rate and --accuracy are options of the load generator; pass --loadgen too"),
        (("--loadgen", "offline", "--rate", 5), "--rate is an option of the scenario server, not of offline"),
        (
            ("--loadgen", "offline", "--batch-size", 5),
            "--batch-size does not apply to --loadgen: the scenario decides",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    options: tuple[object, ...], sentence: str, bundle: Bundle, run: Run
) -> None:
    assert run("bench", bundle.path, *options).refused(2) == sentence


def test_without_the_load_generator_one_sentence_says_how_to_get_it(
    bundle: Bundle, images: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", None)
    said = run("bench", bundle.path, "--loadgen", "offline", "--data", images).refused(3)
    assert said.startswith("MLPerf's load generator is not installed; run `pip install ")
