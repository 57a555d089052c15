"""python shard_kills.py FOLDER BUNDLE NAMES KILLS SEED [real]: kill sharded processes, resume, merge and compare.

One run writes the rows of all names. Then four processes write a shard each; one of them at a time is killed and
resumed, until the number of kills is reached. Each process is forked from this one, which takes 10 ms, and runs the
command. Its engine is a stand-in whose answers depend on the pixels alone, unless `real` is given. Some kills
hit a process just before one of its last steps: a sync, a link or a rename. Prints the counts as JSON.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from killing import killed
from standing_in import engine_info

# Loaded once, before the forks.
import alexnet_deploy.core.images.decode
import alexnet_deploy.core.inputs.lists
import alexnet_deploy.predict.features.extraction
import alexnet_deploy.predict.predictor
import alexnet_deploy.predict.shards.merging
import alexnet_deploy.predict.stream
from alexnet_deploy.cli import main
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.predict.row_formats import RowWriter

COUNT = 4

LAST_STEPS = 6
"""The record: sync, rename, sync of the folder; the rows: sync, link, sync of the folder."""

DONE = (0, 1)
"""Exit codes; 1 if some inputs failed."""


class StandIn:
    """An engine whose probabilities are shares of the mean pixel."""

    def __init__(self, bundle: Bundle, *_: object, **__: object) -> None:
        self._num_classes = len(bundle.labels)
        self.info = engine_info(backend="onnxruntime", version="0", batch_size=4, bundle_sha256=bundle.sha256)

    def run(self, images: np.ndarray) -> np.ndarray:
        shares = images.mean(axis=(1, 2, 3), dtype=np.float64)[:, None] + np.arange(1, self._num_classes + 1)
        return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)

    def refuse_fork(self) -> None:
        pass

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def pausing(step: Callable[..., Any], numbers: "count[int]", last: int, marker: Path) -> Callable[..., Any]:
    """Return a step that makes the marker and waits forever to be killed, when it is the last one."""

    def paused(*arguments: Any, **options: Any) -> Any:
        if next(numbers) == last:
            marker.touch()
            signal.pause()
        return step(*arguments, **options)

    return paused


def forked(arguments: list[str], stdin: Path, log: Path, last_step: int = 0, seconds_per_row: float = 0.0) -> int:
    """Run the command in a new process, which stops before step number `last_step` and waits to be killed."""
    if process := os.fork():
        return process
    code: object = 70
    try:
        os.dup2(os.open(stdin, os.O_RDONLY), 0)
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
        steps, row, marker = count(1), RowWriter.row, log.with_name(f"paused {os.getpid()}")
        os.fsync = pausing(os.fsync, steps, last_step, marker)
        os.link = pausing(os.link, steps, last_step, marker)
        Path.replace = pausing(Path.replace, steps, last_step, marker)  # type: ignore[method-assign]

        def slow(self: RowWriter, *rest: Any) -> str:
            time.sleep(seconds_per_row)
            return row(self, *rest)

        RowWriter.row = slow  # type: ignore[method-assign]
        sys.argv = ["alexnet-deploy", *arguments]
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 70)


def ended(process: int, log: Path) -> None:
    """Wait for a process that must do its work; 1 if some inputs failed."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert code in (0, 1), (code, log.read_text())


def work(
    folder: Path, bundle: str, names: Path, num_kills: int, draws: random.Random, longest_s: float
) -> dict[str, int]:
    """Return the numbers of rounds, of kills, and of kills that found rows or a record; raises AssertionError."""
    log = folder / "log"
    common = ["predict", "-", "--bundle", bundle]
    ended(forked([*common, "--output", str(folder / "whole.jsonl")], names, log), log)
    counts = {"rounds": 0, "kills": 0, "steps": 0, "steps with record": 0, "with rows": 0, "with record": 0}
    while counts["kills"] < num_kills:
        place = folder / f"round {counts['rounds']}"
        place.mkdir()
        counts["rounds"] += 1
        places = [place / f"rows-{number}.jsonl" for number in range(1, COUNT + 1)]
        last_steps = dict.fromkeys(range(COUNT), 0)

        def start(number: int, places: list[Path] = places, last_steps: dict[int, int] = last_steps) -> int:
            shard = ["--shard", f"{number + 1}/{COUNT}", "--output", str(places[number]), "--resume"]
            last_steps[number] = draws.randint(1, LAST_STEPS) if draws.random() < 0.3 else 0
            return forked([*common, *shard], names, log, last_steps[number], 0.002)

        def rows_of(number: int, place: Path = place) -> bool:
            return any(path.stat().st_size for path in place.glob(f".rows-{number + 1}.jsonl.*.partial"))

        if counts["rounds"] == 1:
            # The same shard is killed before each of its last steps in turn.
            for step in range(1, LAST_STEPS + 1):
                first = ["--shard", f"1/{COUNT}", "--output", str(places[0]), "--resume"]
                process = forked([*common, *first], names, log, step)
                counts["steps"] += killed(process, (folder / f"paused {process}").exists, log, done=DONE)
                counts["steps with record"] += Path(f"{places[0]}.shard.json").exists()
        running = {number: start(number) for number in range(COUNT)}
        while running and counts["kills"] < num_kills:
            number = draws.choice(sorted(running))
            process, end = running.pop(number), time.monotonic() + draws.uniform(0, longest_s)
            if last_steps[number]:
                is_killed = killed(process, (folder / f"paused {process}").exists, log, done=DONE)
            elif draws.random() < 0.6:
                is_killed = killed(process, lambda: rows_of(number) and time.monotonic() > end, log, done=DONE)  # noqa: B023
            else:
                is_killed = killed(process, lambda: time.monotonic() > end, log, done=DONE)  # noqa: B023
            if is_killed:
                counts["kills"] += 1
                counts["with rows"] += rows_of(number)
                counts["with record"] += Path(f"{places[number]}.shard.json").exists()
                running[number] = start(number)
        for process in running.values():
            # It may wait to be killed.
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        for number in range(COUNT):
            shard = ["--shard", f"{number + 1}/{COUNT}", "--output", str(places[number]), "--resume"]
            ended(forked([*common, *shard], names, log), log)
        ended(forked(["merge", *map(str, places), "--output", str(place / "all.jsonl")], names, log), log)
        assert (place / "all.jsonl").read_bytes() == (folder / "whole.jsonl").read_bytes()
        kept = {path.name for path in place.iterdir() if not path.name.endswith(".partial")}
        assert kept == {"all.jsonl", *(path.name for path in places), *(f"{path.name}.shard.json" for path in places)}
    return counts


if __name__ == "__main__":
    folder, bundle, names, kills, seed, *engine = sys.argv[1:]
    if engine != ["real"]:
        alexnet_deploy.predict.predictor.open_engine = StandIn  # type: ignore[assignment]
    # A real engine takes more than a second to open.
    longest_s = 2.0 if engine == ["real"] else 0.2
    print(json.dumps(work(Path(folder), bundle, Path(names), int(kills), random.Random(int(seed)), longest_s)))
