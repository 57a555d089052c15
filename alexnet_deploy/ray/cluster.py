"""Run a job on a Ray cluster: one worker for each machine, GPU or share of processors, one shard at a time each."""

import logging
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from alexnet_deploy.core.errors import BackendError, BusyError, UsageError
from alexnet_deploy.core.process.installation import install_command
from alexnet_deploy.core.process.say import Say, counted
from alexnet_deploy.predict.output import interrupted_rows
from alexnet_deploy.predict.shards.inputs import Shard
from alexnet_deploy.predict.shards.record import Origin
from alexnet_deploy.ray.job import Job
from alexnet_deploy.ray.worker import Greeting, Worker

MOST_DEATHS = 3
"""Workers that may end at the same row of a shard, until the job ends."""

STARTS_WITHIN_S = 300.0
"""Time in which a worker must start where none is at work."""

_ANSWERS_WITHIN_S = 10.0
_BUSY_FOR_S = 60.0
_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Crew:
    """How many workers a cluster has room for, and what each of them takes."""

    num_workers: int
    num_cpus: float
    num_gpus: float


def import_ray() -> ModuleType:
    """Return the ray module; raises BackendError if it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise BackendError(f"--ray needs ray: {install_command('ray')}") from error
    return ray


@contextmanager
def connected(address: str) -> Iterator[ModuleType]:
    """Connect this process to a cluster, or to one that runs on this machine until the end of the block: `local`.

    Raises BackendError if there is no cluster at the address.
    """
    ray = import_ray()
    _refuse_silent(address)
    place = {"address": "local", "include_dashboard": False} if address == "local" else {"address": address}
    try:
        ray.init(**place, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise BackendError(f"--ray {address}: cannot connect: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _refuse_silent(address: str) -> None:
    """Raise BackendError if nothing answers at HOST:PORT, where Ray would try for many minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=_ANSWERS_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise BackendError(f"--ray {address}: cannot connect: {error}") from error


def crew_for(nodes: Iterable[dict[str, Any]], threads: int | None, *, on_gpu: bool) -> Crew:
    """Return the workers for the machines of a cluster, as ray.nodes() describes them.

    A worker gets a GPU or, without GPUs, `threads` processors or all of a machine. Raises BackendError if there is no
    machine for one.
    """
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    wanted = "GPU" if on_gpu else "CPU"
    machines = [machine for machine in machines if machine.get(wanted, 0) >= 1]
    if not machines:
        raise BackendError(f"the cluster has no machine with a {wanted}")
    if on_gpu:
        share = min(machine.get("CPU", 0) / machine["GPU"] for machine in machines)
        cpus = float(threads or max(1, int(share)))
        return Crew(num_workers=sum(int(machine["GPU"]) for machine in machines), num_cpus=cpus, num_gpus=1.0)
    cpus = float(threads or int(min(machine["CPU"] for machine in machines)))
    num_workers = sum(int(machine["CPU"] // cpus) for machine in machines)
    if not num_workers:
        raise BackendError(f"no machine of the cluster has {counted(int(cpus), 'CPU')}; pass fewer --threads")
    return Crew(num_workers=num_workers, num_cpus=cpus, num_gpus=0.0)


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a job is."""

    say: Say
    count: Callable[[int, int], None]
    """Called with the number of complete rows and of all."""


def run_job(job: Job, ray: ModuleType, progress: Progress) -> None:
    """Predict all shards of a job that are not complete; afterwards all of them are.

    A worker that ends, with its machine or by itself, is replaced, and another one continues its shard. Raises what a
    worker raises; BackendError if no worker can start, if workers compute differently, or if they end again and again
    at the same row.
    """
    options, records = job.settings.options, {shard: job.record(shard) for shard in job.shards}
    origin = next((record.origin for record in records.values() if record is not None), None)
    if origin is not None and options.backend not in ("auto", origin.backend):
        raise UsageError(_other_engine(job, origin, f"--backend {options.backend}"))
    left = deque(shard for shard, record in records.items() if record is None)
    num_left = sum(shard.num_rows(job.num_inputs) for shard in left)
    if not left:
        return
    crew = crew_for(ray.nodes(), options.threads, on_gpu=options.device == "cuda")
    run = _Run(
        job=job, ray=ray, crew=crew, progress=progress, left=left, num_done=job.num_inputs - num_left, earlier=origin
    )
    run.start_workers(min(crew.num_workers, len(left)))
    run.until_done()


def _other_engine(job: Job, earlier: Origin, now: str) -> str:
    return (
        f"{job.folder}: cannot resume: {earlier.backend}, {earlier.arithmetic} gave its rows, but this run has {now}; "
        "pass the --backend of the interrupted run, or remove the folder to start again"
    )


@dataclass(slots=True, kw_only=True)
class _Run:
    """The state of a job that is running; keys of the dicts are Ray's references to results."""

    job: Job
    ray: ModuleType
    crew: Crew
    progress: Progress
    left: deque[Shard]
    starting: dict[Any, Any] = field(default_factory=dict)
    """Workers that open their engine, by their greeting."""
    working: dict[Any, tuple[Any, Shard]] = field(default_factory=dict)
    """Workers with their shards, by the end of the shard."""
    greeting: Greeting | None = None
    """Of the first worker; all others must compute the same."""
    earlier: Origin | None
    """What computed the shards of an interrupted run; None if none is complete."""
    num_done: int
    """Number of rows in complete shards."""
    deaths: Counter[tuple[Shard | None, int]] = field(default_factory=Counter)
    """Number of workers that ended, by shard and the bytes that it had; None for those that were starting."""
    busy_since: dict[Shard, float] = field(default_factory=dict)

    def start_workers(self, number: int) -> None:
        """Start workers that the cluster has room for now, or later."""
        actor = self.ray.remote(
            num_cpus=self.crew.num_cpus, num_gpus=self.crew.num_gpus, max_restarts=0, scheduling_strategy="SPREAD"
        )(Worker)
        for _ in range(number):
            worker = actor.remote(self.job)
            self.starting[worker.open.remote()] = worker

    def until_done(self) -> None:
        """Return when all shards are complete."""
        while self.left or self.working:
            ready, _ = self.ray.wait([*self.starting, *self.working], num_returns=1, timeout=STARTS_WITHIN_S)
            if not ready and not self.working:
                raise BackendError(
                    f"no worker started within {STARTS_WITHIN_S:.0f} s: each needs {self.crew.num_cpus:g} free CPUs "
                    f"and {self.crew.num_gpus:g} GPUs; `ray status` shows what is free"
                )
            for result in ready:
                if result in self.starting:
                    self._started(result)
                else:
                    self._finished(result)

    def _started(self, result: Any) -> None:
        worker = self.starting.pop(result)
        try:
            found: Greeting = self._result(result)
        except _EndedError as error:
            self._replace(None, error)
            return
        del self.deaths[None, 0]
        if self.earlier not in (None, found.origin):
            raise UsageError(_other_engine(self.job, self.earlier, found.engine))
        if self.greeting is None:
            self.greeting = found
            self.progress.say(f"up to {counted(self.crew.num_workers, 'worker')}: {found.engine}")
        if found.origin != self.greeting.origin:
            raise BackendError(
                f"{found.machine} computes with {found.engine}, {self.greeting.machine} with {self.greeting.engine}: "
                "their rows would differ; pass --backend, or use machines of one kind"
            )
        self._give_work(worker)

    def _give_work(self, worker: Any) -> None:
        """Give a worker the next shard; without one it ends, because nothing refers to it any longer."""
        if self.left:
            shard = self.left.popleft()
            self.working[worker.predict.remote(shard)] = worker, shard

    def _finished(self, result: Any) -> None:
        worker, shard = self.working.pop(result)
        try:
            self._result(result)
        except BusyError:
            self._put_back(shard)
        except _EndedError as error:
            self._replace(shard, error)
            return
        else:
            self.num_done += shard.num_rows(self.job.num_inputs)
            self.progress.count(self.num_done, self.job.num_inputs)
        self._give_work(worker)

    def _result(self, result: Any) -> Any:
        """Return a worker's answer; raises what it raised, or _EndedError if its process is no more."""
        errors = self.ray.exceptions
        try:
            return self.ray.get(result)
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            raise _EndedError(str(error).partition("\n")[0]) from error

    def _put_back(self, shard: Shard) -> None:
        """Try a shard again later: a worker of a killed run may not have noticed yet that its run has ended."""
        since = self.busy_since.setdefault(shard, time.monotonic())
        if time.monotonic() - since > _BUSY_FOR_S:
            raise BusyError(f"{self.job.place(shard)}: another run is writing it; wait for it to end")
        time.sleep(_WAIT_S)
        self.left.append(shard)

    def _replace(self, shard: Shard | None, error: "_EndedError") -> None:
        rows = None if shard is None else interrupted_rows(self.job.place(shard))
        key = shard, 0 if rows is None else rows.stat().st_size
        self.deaths[key] += 1
        where = "before they were ready" if shard is None else f"at the same row of shard {shard}"
        if self.deaths[key] == MOST_DEATHS:
            raise BackendError(
                f"{MOST_DEATHS} workers ended {where}: {error}; the rows so far are in {rows or self.job.folder}"
            )
        if shard is not None:
            self.progress.say(f"a worker ended; another one continues shard {shard}")
            self.left.appendleft(shard)
        self.start_workers(1)


class _EndedError(Exception):
    """A worker's process is no more."""
