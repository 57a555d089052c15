from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from alexnet_deploy.core.errors import BackendError, BusyError, DataError, UsageError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.process.say import say_nothing
from alexnet_deploy.core.records import seal
from alexnet_deploy.predict.predictor import LoadOptions
from alexnet_deploy.predict.shards.inputs import Shard
from alexnet_deploy.predict.shards.record import InputList, Origin, RowFacts, RowForm, ShardRecord
from alexnet_deploy.predict.shards.sidecar import record_place
from alexnet_deploy.ray import cluster
from alexnet_deploy.ray.cluster import MOST_DEATHS, Crew, Progress, crew_for, run_job
from alexnet_deploy.ray.job import ROWS_PER_SHARD, Job, Settings, open_job
from alexnet_deploy.ray.worker import Greeting


def machine(alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "threads", "on_gpu", "crew"),
    [
        ([machine(CPU=8)], None, False, (1, 8, 0)),
        ([machine(CPU=8)], 2, False, (4, 2, 0)),
        ([machine(CPU=8), machine(CPU=16), machine(alive=False, CPU=8)], None, False, (3, 8, 0)),
        ([machine(), machine(CPU=4)], None, False, (1, 4, 0)),
        ([machine(CPU=3), machine(CPU=4)], 2, False, (3, 2, 0)),
        ([machine(CPU=16, GPU=2), machine(CPU=64)], None, True, (2, 8, 1)),
        ([machine(CPU=1, GPU=4)], None, True, (4, 1, 1)),
        ([machine(CPU=32, GPU=4)], 3, True, (4, 3, 1)),
    ],
)
def test_a_worker_gets_a_machine_a_gpu_or_its_threads(
    nodes: list[dict[str, Any]], threads: int | None, on_gpu: bool, crew: tuple[int, float, float]
) -> None:
    num_workers, num_cpus, num_gpus = crew
    expected = Crew(num_workers=num_workers, num_cpus=num_cpus, num_gpus=num_gpus)
    assert crew_for(nodes, threads, on_gpu=on_gpu) == expected


@pytest.mark.parametrize(
    ("nodes", "threads", "on_gpu", "sentence"),
    [
        ([machine(alive=False, CPU=8)], None, False, "no machine with a CPU"),
        ([machine(CPU=8)], None, True, "no machine with a GPU"),
        ([machine(CPU=8)], 9, False, "no machine of the cluster has 9 CPUs; pass fewer --threads"),
    ],
)
def test_a_cluster_without_room_for_a_worker_is_refused(
    nodes: list[dict[str, Any]], threads: int | None, on_gpu: bool, sentence: str
) -> None:
    with pytest.raises(BackendError, match=sentence):
        crew_for(nodes, threads, on_gpu=on_gpu)


class RayError(Exception):
    """As Ray's: the process of an actor is no more."""


class RayTaskError(RayError):
    """As Ray's: an actor's method raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


class FakeRay:
    """One machine of two processors, whose workers answer at once what a script says.

    `predict` is called for every shard that a worker gets, `open` for every worker that starts; a RayError means that
    the worker's process is no more.
    """

    def __init__(self, predict: Callable[[Shard], None], open_: Callable[[int], Greeting]) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
        self._predict = predict
        self._open = open_
        self.num_started = 0
        self.options: dict[str, Any] = {}

    def nodes(self) -> list[dict[str, Any]]:
        return [machine(CPU=2)]

    def remote(self, **options: Any) -> Callable[[type], Any]:
        self.options = options
        return lambda worker: SimpleNamespace(remote=self._start)

    def _start(self, job: Job) -> Any:
        self.num_started += 1
        number = self.num_started
        return SimpleNamespace(
            open=SimpleNamespace(remote=lambda: Result(lambda: self._open(number))),
            predict=SimpleNamespace(remote=lambda shard: Result(lambda: self._predict(shard))),
        )

    def wait(self, results: list[Any], num_returns: int, timeout: float) -> tuple[list[Any], list[Any]]:
        assert num_returns == 1
        assert timeout == cluster.STARTS_WITHIN_S
        return results[:1], results[1:]

    def get(self, result: "Result") -> object:
        try:
            return result.call()
        except RayError:
            raise
        except Exception as error:
            raise RayTaskError(error) from error


class Result:
    """A result that is computed when it is asked for; every one is a key of its own."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call


ORIGIN = Origin(bundle_sha256="0" * 64, backend="openvino", arithmetic="float32", limits="", decoding_version=1)
OTHER = Origin(bundle_sha256="0" * 64, backend="onnxruntime", arithmetic="float32", limits="", decoding_version=1)
GREETING = Greeting(machine="one", origin=ORIGIN, engine="openvino, float32")


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job of four shards."""
    settings = Settings(
        bundle=tmp_path,
        bundle_sha256="0" * 64,
        options=LoadOptions(threads=1),
        form=RowForm(row_format="jsonl", topk=1, reject=None),
        limits=DEFAULT_LIMITS,
        batch_size=None,
        retries=3,
    )
    inputs = (Input(name=f"{number}.jpg") for number in range(3 * ROWS_PER_SHARD + 1))
    with open_job(tmp_path / "rows.jsonl", settings, inputs, resume=False, say=say_nothing) as opened:
        yield opened


def partial(job: Job, shard: Shard) -> Path:
    """Where the rows so far of a shard are."""
    return job.folder / f".{job.place(shard).name}.0123456789ab.partial"


class Said:
    """What a job reports."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.counts: list[tuple[int, int]] = []
        self.progress = Progress(say=self.lines.append, count=lambda done, total: self.counts.append((done, total)))


def run_with(
    job: Job, predict: Callable[[Shard], None], open_: Callable[[int], Greeting] = lambda number: GREETING
) -> tuple[FakeRay, Said]:
    ray, said = FakeRay(predict, open_), Said()
    run_job(job, cast("Any", ray), said.progress)
    return ray, said


def test_every_shard_is_predicted_once(job: Job) -> None:
    done: list[Shard] = []
    ray, said = run_with(job, done.append)
    assert done == list(job.shards)
    assert ray.num_started == 2
    assert ray.options["num_cpus"] == 1
    assert said.counts == [(193, 769), (385, 769), (577, 769), (769, 769)]


def test_the_shard_of_a_worker_that_ended_is_continued_by_another(job: Job) -> None:
    done: list[Shard] = []

    def predict(shard: Shard) -> None:
        place = partial(job, shard)
        written = place.stat().st_size if place.exists() else 0
        # Five ends, but each with more rows than before.
        if shard.number == 2 and written < 5:
            place.write_bytes(b"." * (written + 1))
            raise RayError("The actor died.")
        done.append(shard)

    ray, said = run_with(job, predict)
    assert sorted(done, key=lambda shard: shard.number) == list(job.shards)
    assert said.lines.count("a worker ended; another one continues shard 2/4") == 5
    assert ray.num_started == 7


def test_workers_that_end_at_the_same_row_end_the_job(job: Job) -> None:
    ends = 0

    def predict(shard: Shard) -> None:
        nonlocal ends
        if shard.number == 3:
            ends += 1
            partial(job, shard).write_bytes(b"the same row")
            raise RayError("The actor died.\nLong explanations.")

    with pytest.raises(
        BackendError, match=r"3 workers ended at the same row of shard 3/4: The actor died\.; the rows so"
    ):
        run_with(job, predict)
    assert ends == MOST_DEATHS


def test_workers_that_end_before_they_are_ready_end_the_job(job: Job) -> None:
    def end(number: int) -> Greeting:
        raise RayError("The actor died.")

    with pytest.raises(BackendError, match=r"3 workers ended before they were ready: The actor died\."):
        run_with(job, lambda shard: None, end)


def test_workers_that_start_late_in_a_long_job_may_end_again(job: Job) -> None:
    ends = {1, 2, 4, 5, 7, 8}

    def open_(number: int) -> Greeting:
        if number in ends:
            raise RayError("The actor died.")
        return GREETING

    def predict(shard: Shard) -> None:
        if shard.number < 3 and not (place := partial(job, shard)).exists():
            place.write_bytes(b"a row")
            raise RayError("The actor died.")

    ray, _ = run_with(job, predict, open_)
    assert ray.num_started > max(ends)


def complete(job: Job, shard: Shard, origin: Origin) -> None:
    """Leave a complete shard; only its record is read here."""
    job.place(shard).write_bytes(b"rows")
    record = ShardRecord(
        number=shard.number,
        count=shard.count,
        origin=origin,
        form=job.settings.form,
        inputs=InputList(num_inputs=job.num_inputs, sha256="0" * 64),
        rows=RowFacts(sha256="0" * 64, outcomes={"ok": shard.num_rows(job.num_inputs)}, num_rejected=0),
        earlier=None,
    )
    record_place(job.place(shard)).write_bytes(msgspec.json.encode(seal(record, "deterministic")))


def test_shards_of_another_engine_are_refused_before_the_work(job: Job) -> None:
    first, *others = job.shards
    complete(job, first, ORIGIN)
    with pytest.raises(UsageError, match="resume: openvino, float32 gave its rows, but this run has onnxruntime"):
        run_with(job, lambda shard: None, lambda number: Greeting(machine="two", origin=OTHER, engine="onnxruntime"))
    # Also where no worker starts any more.
    for shard in others:
        complete(job, shard, ORIGIN)
    asked = replace(job.settings, options=LoadOptions(backend="onnxruntime", threads=1))
    with pytest.raises(UsageError, match="but this run has --backend onnxruntime; pass the --backend of the interrupt"):
        run_with(replace(job, settings=asked), lambda shard: None)
    ray, _ = run_with(job, lambda shard: None)
    assert not ray.num_started


def test_a_worker_that_computes_otherwise_ends_the_job(job: Job) -> None:
    greetings = {1: GREETING, 2: Greeting(machine="two", origin=OTHER, engine="onnxruntime, float32")}
    with pytest.raises(BackendError, match="two computes with onnxruntime, float32, one with openvino, float32"):
        run_with(job, lambda shard: None, greetings.__getitem__)


def test_a_shard_that_an_ended_run_still_holds_is_tried_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(cluster.time, "sleep", waits.append)
    done: list[Shard] = []

    def predict(shard: Shard) -> None:
        if shard.number == 1 and len(waits) < 3:
            raise BusyError("rows-1: another run is writing it")
        done.append(shard)

    run_with(job, predict)
    assert sorted(done, key=lambda shard: shard.number) == list(job.shards)
    assert len(waits) == 3


def test_a_shard_that_stays_held_ends_the_job(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(cluster.time, "sleep", sleep)
    monkeypatch.setattr(cluster.time, "monotonic", lambda: now)

    def predict(shard: Shard) -> None:
        raise BusyError("another run is writing it")

    with pytest.raises(BusyError, match=r"rows-\d-of-4\.jsonl: another run is writing it; wait for it to end"):
        run_with(job, predict)


@pytest.mark.parametrize("error", [DataError("a damaged record"), UsageError("another bundle gave its rows")])
def test_what_a_worker_raises_is_raised(error: Exception, job: Job) -> None:
    def predict(shard: Shard) -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        run_with(job, predict)


def test_no_worker_that_starts_ends_the_job(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRay, "wait", lambda self, results, num_returns, timeout: ([], results))
    with pytest.raises(BackendError, match=r"no worker started within 300 s: each needs 1 free CPUs and 0 GPUs"):
        run_with(job, lambda shard: None)
