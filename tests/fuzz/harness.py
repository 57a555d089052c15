"""python -m tests.fuzz --mutations 20000 --seed 0: damage the files of every reader; only declared errors may result.

A failed mutation is reported with its reader, seed and number; `--reader NAME --seed SEED --first NUMBER --mutations 1`
repeats it. A mutation fails if it raises anything but an AlexNetDeployError, takes more than 5 s of CPU time or 60 s in
total, needs 1 GiB more memory than the readers alone, or ends the process.

Each reader runs in a separate process, forked from one that has imported everything; after a hang or a crash a new
process continues with the next mutation.
"""

import argparse
import contextlib
import json
import os
import random
import resource
import select
import signal
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from changes import BYTES
from import_readers import IMPORT_READERS
from readers import OWN_READERS, Reader

from alexnet_deploy.core.errors import AlexNetDeployError

READERS = {**OWN_READERS, **IMPORT_READERS}
"""Every reader, by name."""

_ROOT = Path(__file__).resolve().parents[2]

MOST_SECONDS = 5
MOST_WAIT = 60
MOST_BYTES = 1 << 30


_UNCHANGEABLE = (
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    OSError,
    EOFError,
    RecursionError,
    MemoryError,
    OverflowError,
    zlib.error,
    zipfile.BadZipFile,
)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Results of the mutations of one reader."""

    counts: Counter[str] = field(default_factory=Counter)
    """Number of mutations that were `read`, `refused` and `failed`."""
    failures: dict[int, str] = field(default_factory=dict)
    """Reasons, by mutation number."""
    peak_bytes: int = 0
    """Peak memory of reading, beyond that of the process before."""
    slowest_s: float = 0.0
    """CPU time of the slowest mutation."""


def mutate(reader: Reader, sound: dict[str, bytes], chance: random.Random) -> tuple[dict[str, bytes], bool]:
    """Return damaged files by name, and whether to update their digests."""
    name = chance.choice(list(sound))
    data = sound[name]
    for _ in range(chance.choice((1, 1, 2, 3))):
        # Files that are not valid JSON or headers any more are damaged as bytes only.
        with contextlib.suppress(*_UNCHANGEABLE):
            data = chance.choice((*BYTES, *reader.targets[name]))(chance, data)
    return {name: data}, chance.random() < 0.7


def run_one(reader: Reader, folder: Path, sound: dict[str, bytes], chance: random.Random) -> None:
    """Read damaged files, then restore the valid ones."""
    damaged, is_sealed = mutate(reader, sound, chance)
    try:
        for name, data in damaged.items():
            (folder / name).write_bytes(data)
        if is_sealed:
            with contextlib.suppress(Exception):
                reader.seal(folder)
        reader.read(folder)
    finally:
        for name, data in sound.items():
            (folder / name).write_bytes(data)


def _child(reader: Reader, label: str, numbers: range, write: int) -> None:
    """Run mutations, and report each on a descriptor before it starts."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reader.make(folder)
        reader.read(folder)
        sound = {name: (folder / name).read_bytes() for name in reader.targets}
        (pages, *_) = map(int, Path("/proc/self/statm").read_text().split())
        limit = pages * resource.getpagesize() + MOST_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        for number in numbers:
            _tell(write, at=number)
            signal.setitimer(signal.ITIMER_PROF, MOST_SECONDS)
            begun = time.process_time()
            try:
                run_one(reader, folder, sound, random.Random(f"{label}/{number}"))
                kind, what = "read", ""
            except AlexNetDeployError as error:
                kind, what = (
                    ("refused", "") if "\n" not in str(error).strip() else ("failed", f"several lines: {error!r}")
                )
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is what is looked for
                what = f"{type(error).__name__} at {_where(error)}: {str(error)[:200]}"
                kind = "failed"
            signal.setitimer(signal.ITIMER_PROF, 0)
            grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
            _tell(write, kind=kind, what=what, seconds=time.process_time() - begun, peak=grown)
        _tell(write, end=True)


def _where(error: BaseException) -> str:
    """Return the last line of this package in an error's traceback."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(_ROOT))]
    return f"{Path(ours[-1].filename).relative_to(_ROOT)}:{ours[-1].lineno}"


def _tell(write: int, **message: object) -> None:
    os.write(write, json.dumps(message).encode() + b"\n")


def _messages(read: int) -> Iterator[dict[str, object]]:
    """Yield the messages of a child until it ends; raises TimeoutError if it stops sending."""
    rest = b""
    while True:
        ready, _, _ = select.select([read], [], [], MOST_WAIT)
        if not ready:
            raise TimeoutError
        data = os.read(read, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from map(json.loads, lines)


def fuzz(reader: Reader, label: str, numbers: range) -> Outcome:
    """Run these mutations of a reader in separate processes; label and number alone determine each mutation."""
    outcome = Outcome()
    while numbers:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            with contextlib.suppress(BrokenPipeError):
                try:
                    _child(reader, label, numbers, write)
                except BaseException:  # noqa: BLE001 - told, and then the process ends
                    traceback.print_exc()
                    os._exit(1)
            os._exit(0)
        os.close(write)
        at, has_ended, how = None, False, ""
        try:
            for message in _messages(read):
                if "at" in message:
                    at = int(str(message["at"]))
                elif "end" in message:
                    has_ended = True
                else:
                    _count(outcome, at, message)
                    at = None
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            how = f"hangs: nothing for {MOST_WAIT} s"
        os.close(read)
        _, status = os.waitpid(child, 0)
        if has_ended:
            return outcome
        if at is None:
            raise RuntimeError(f"{label}: its process ended between mutations, {status}")
        if not how and os.WIFSIGNALED(status):
            signum = os.WTERMSIG(status)
            how = f"hangs: {MOST_SECONDS} s of CPU" if signum == signal.SIGPROF else f"ends by signal {signum}"
        outcome.counts["failed"] += 1
        outcome.failures[at] = how or f"exits with {status}"
        numbers = range(at + 1, numbers.stop)
    return outcome


def _count(outcome: Outcome, at: int | None, message: dict[str, object]) -> None:
    outcome.counts[str(message["kind"])] += 1
    outcome.slowest_s = max(outcome.slowest_s, float(str(message["seconds"])))
    outcome.peak_bytes = max(outcome.peak_bytes, int(str(message["peak"])))
    if message["kind"] == "failed" and at is not None:
        outcome.failures[at] = str(message["what"])


def main() -> int:
    """Fuzz every reader, or one; return 1 if a mutation failed."""
    parser = argparse.ArgumentParser(description="Damage the files of every reader.")
    parser.add_argument("--mutations", type=int, default=2000, help="total number, divided among the readers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", choices=READERS, help="fuzz only this reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    options = parser.parse_args()
    names = [options.reader] if options.reader else list(READERS)
    each = -(-options.mutations // len(names))
    print(f"{'reader':<18} {'mutations':>9} {'read':>7} {'refused':>8} {'failed':>7} {'peak MB':>8} {'slowest ms':>11}")
    failures = []
    for name in names:
        found = fuzz(READERS[name], f"{name}/{options.seed}", range(options.first, options.first + each))
        counts = found.counts
        print(
            f"{name:<18} {counts.total():>9,} {counts['read']:>7,} {counts['refused']:>8,} {counts['failed']:>7,} "
            f"{found.peak_bytes / 1e6:>8.0f} {1000 * found.slowest_s:>11.0f}",
            flush=True,
        )
        failures += [f"--reader {name} --seed {options.seed} --first {at}: {how}" for at, how in found.failures.items()]
    print("\n".join(failures))
    return 1 if failures else 0
