"""Gather images by class from the web: a list of URLs -> a data folder that `train` reads, and a row for every URL."""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread

import msgspec
from msgspec import Struct

from alexnet_deploy.core.errors import ImageError, OutputError, UsageError
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION
from alexnet_deploy.core.process.ahead import decode_threads
from alexnet_deploy.core.process.interruption import is_interrupted
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.train.gather.listing import Entry
from alexnet_deploy.train.gather.pictures import look_at
from alexnet_deploy.train.gather.rows import Found, rows_of
from alexnet_deploy.train.gather.stage import Stage, open_stage, publish, read_table
from alexnet_deploy.train.gather.web.addresses import Permits, is_public
from alexnet_deploy.train.gather.web.errors import FetchError
from alexnet_deploy.train.gather.web.fetching import Fetched, Fetcher, checked_url, fetching
from alexnet_deploy.train.gather.web.hosts import Manners

OnProgress = Callable[[int, int], None]

TOO_SMALL = "too_small"
"""Error code of a picture with a side under the limit."""

# Raised whenever the same file may get another outcome.
_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherOptions:
    """What is gathered, and how."""

    validation_share: float = 0.1
    """Share of the pictures that go to val/, above 0 and below 1; a class of two or more gets one at least."""
    min_side: int = 64
    """Fewest pixels of the shorter side."""
    max_bytes: int = 32 * 1024 * 1024
    """Most bytes of a file."""
    allow_private: bool = False
    """Whether hosts in private networks, and this machine, may be asked."""
    manners: Manners = field(default_factory=Manners)
    """How servers are asked."""

    def __post_init__(self) -> None:
        # This form also refuses NaN.
        if not 0 < self.validation_share < 1:
            raise UsageError(f"the share for validation must be above 0 and below 1, got {self.validation_share}")
        if self.min_side < 1 or self.max_bytes < 1:
            raise UsageError(f"limits must be 1 or more, got {self.min_side} pixels and {self.max_bytes} bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What a data folder has got, counted in its gathered.csv."""

    statuses: Counter[str]
    """Number of rows by status."""
    splits: Counter[str]
    """Number of pictures by side: TRAIN, VALIDATION."""


class _Plan(Struct, frozen=True, kw_only=True):
    """What the outcome of a URL depends on, besides its server."""

    version: int
    decoding: int
    min_side: int
    max_bytes: int
    allow_private: bool


def gather(
    entries: Sequence[Entry],
    out: Path,
    options: GatherOptions,
    *,
    say: Say = say_nothing,
    on_progress: OnProgress = lambda num_done, num_urls: None,
) -> Gathered:
    """Fetch every URL, and write the data folder `out`.

    `out` gets train/CLASS/, val/CLASS/ and gathered.csv, with one line for each entry. An interrupted or killed process
    leaves `.OUT.partial` beside `out`; the same call, also with a longer list, continues from there. Of a URL that
    stands in the list twice, the file is fetched once.

    Raises UsageError and BusyError like open_stage, OutputError if something cannot be written.
    """
    plan = _Plan(
        version=_VERSION,
        decoding=DECODING_VERSION,
        min_side=options.min_side,
        max_bytes=options.max_bytes,
        allow_private=options.allow_private,
    )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open_stage(out, msgspec.json.encode(plan), entries, say) as stage:
            if stage is not None:
                _fetch_rest(stage, entries, options, say, on_progress)
                publish(stage, rows_of(entries, stage.found, options.validation_share))
        return gathered_in(out)
    except OSError as error:
        partial = hidden_beside(out, ".partial")
        raise OutputError(
            f"{out}: cannot be written: {error.strerror or error}; what was gathered so far is in {partial}: run the "
            "same command again to resume"
        ) from error


def gathered_in(out: Path) -> Gathered:
    """Return the counts of a complete data folder; raises OSError."""
    rows = [(row["status"], row["split"]) for row in read_table(out)]
    return Gathered(statuses=Counter(status for status, _ in rows), splits=Counter(split for _, split in rows if split))


def _fetch_rest(
    stage: Stage, entries: Sequence[Entry], options: GatherOptions, say: Say, on_progress: OnProgress
) -> None:
    urls = dict.fromkeys(entry.url for entry in entries)
    rest = [url for url in urls if url not in stage.found]
    num_urls = len(urls)
    if len(rest) < num_urls:
        say(f"resuming after {num_urls - len(rest):,} of {counted(num_urls, 'URL')}")
    on_progress(num_urls - len(rest), num_urls)
    waiting = len(rest)

    def done() -> None:
        nonlocal waiting
        waiting -= 1
        on_progress(num_urls - waiting, num_urls)

    _in_another_thread(_fetch_all(rest, stage, options, done))


async def _fetch_all(urls: Sequence[str], stage: Stage, options: GatherOptions, done: Callable[[], None]) -> None:
    lanes = _lanes(urls, options.manners.per_host)
    pool = ThreadPoolExecutor(decode_threads(), "decoder")
    loop = asyncio.get_running_loop()

    async def work(fetcher: Fetcher) -> None:
        while lanes:
            lane = lanes.popleft()
            while lane:
                url = lane.popleft()
                fetched = await _fetched(fetcher, url)
                if isinstance(fetched, Fetched):
                    fetched = await loop.run_in_executor(pool, _kept, stage, url, fetched, options.min_side)
                stage.note(fetched)
                done()

    permits: Permits = (lambda address: True) if options.allow_private else is_public
    try:
        async with fetching(options.manners, max_bytes=options.max_bytes, permits=permits) as fetcher:
            workers = [loop.create_task(work(fetcher)) for _ in range(min(options.manners.connections, len(lanes)))]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
    finally:
        # A decoder cannot be stopped and may run for many seconds: an interrupted process does not wait for it.
        pool.shutdown(wait=not is_interrupted(), cancel_futures=True)


def _lanes(urls: Iterable[str], per_host: int) -> deque[deque[str]]:
    """Return the URLs by host; each host's stand there as often as it may be asked at the same time.

    A worker that takes one stays with that host, so that no host keeps all workers waiting.
    """
    by_host: dict[str, deque[str]] = {}
    for url in urls:
        by_host.setdefault(_host_of(url), deque()).append(url)
    return deque(lane for lane in by_host.values() for _ in range(min(per_host, len(lane))))


def _host_of(url: str) -> str:
    try:
        return checked_url(url).host
    except FetchError:
        return ""


async def _fetched(fetcher: Fetcher, url: str) -> Fetched | Found:
    try:
        return await fetcher.fetch(url)
    except FetchError as error:
        return Found(url=url, final_url=error.url, error=error.code, message=str(error))


def _kept(stage: Stage, url: str, fetched: Fetched, min_side: int) -> Found:
    """Return the outcome of a file, after keeping its picture if it can be used; raises OSError."""
    try:
        picture = look_at(fetched.data)
    except ImageError as error:
        return Found(url=url, final_url=fetched.url, error=error.code.value, message=str(error))
    if min(picture.width, picture.height) < min_side:
        words = f"{picture.width} x {picture.height}, the limit is {min_side}; --min-side sets it"
        return Found(url=url, final_url=fetched.url, error=TOO_SMALL, message=words, picture=picture)
    found = Found(url=url, final_url=fetched.url, picture=picture)
    stage.keep(found, fetched.data)
    return found


def _in_another_thread(work: Coroutine[object, object, None]) -> None:
    """Run a coroutine on a loop of its own in another thread.

    A signal then interrupts the wait in this thread, and not a step of the loop, which would stay half-done.
    """
    runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
    loop = runner.get_loop()
    task = loop.create_task(work)
    # Not Thread.join: interrupted once, it takes the thread for ended.
    has_ended = Event()

    def run() -> None:
        with runner:
            # It waits for the task without raising its exception.
            runner.run(asyncio.wait([task]))
        has_ended.set()

    Thread(target=run, name="gather", daemon=True).start()
    try:
        has_ended.wait()
    except BaseException:
        loop.call_soon_threadsafe(task.cancel)
        has_ended.wait()
        raise
    task.result()
