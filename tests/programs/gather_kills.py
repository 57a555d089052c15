"""python gather_kills.py FOLDER LIST KILLS SEED: kill `gather`, run it again, and compare with one undisturbed run.

Each process is forked from this one, which has one thread and has imported everything. Half of the kills hit a process
just before one of its steps on the disk (a sync, a rename, a removal), the others as soon as a number of URLs is done.
Prints the counts as JSON.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

from killing import killed, stop_before

# Loaded once, before the forks.
import alexnet_deploy.train.data.folder
import alexnet_deploy.train.gather.run  # noqa: F401
from alexnet_deploy.cli import main

OPTIONS = ("--allow-private", "--delay", "0", "--per-host", "4", "--val", "0.3", "--max-bytes", "100000")

DONE = (1,)
"""Exit codes: some of the URLs give no image."""


def forked(urls: Path, out: Path, marker: Path, last_step: int) -> int:
    """Gather in a new process, which stops before its step number `last_step`; with 0, the marker counts the steps."""
    if process := os.fork():
        return process
    code: object = 70
    try:
        stop_before(last_step, marker)
        sys.argv = ["alexnet-deploy", "gather", str(urls), str(out), *OPTIONS]
        try:
            main()
        except SystemExit as left:
            code = left.code or 0
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 70)


def content_of(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() if path.is_file() else b"" for path in out.rglob("*")}


def is_done(journal: Path, num_urls: int) -> Callable[[], bool]:
    """Return a function that tells whether this many URLs are done."""
    return lambda: num_urls == 0 or (journal.exists() and journal.read_bytes().count(b"\n") >= num_urls)


def work(folder: Path, urls: Path, num_kills: int, draws: random.Random) -> dict[str, int]:
    """Return the numbers of rounds, of kills, and of kills at a step; raises AssertionError."""
    whole, marker = folder / "whole", folder / "marker"
    assert not killed(forked(urls, whole, marker, 0), lambda: False, marker.with_suffix(".log"), done=DONE)
    num_steps, num_urls = int(marker.read_text()), len(urls.read_text().splitlines()) - 1
    counts = {"rounds": 0, "kills": 0, "at steps": 0, "steps": num_steps}
    while counts["kills"] < num_kills or counts["rounds"] == 0:
        counts["rounds"] += 1
        place = folder / f"round {counts['rounds']}"
        place.mkdir()
        was_killed = True
        while was_killed:
            may_kill = counts["kills"] < num_kills
            marker.unlink(missing_ok=True)
            is_step = may_kill and draws.random() < 0.6
            # Half of the steps are the last ones, when the folder gets its final form.
            first = num_steps // 2 if draws.random() < 0.5 else 1
            process = forked(urls, place / "out", marker, draws.randint(first, num_steps) if is_step else -1)
            wanted = draws.randint(0, num_urls) if may_kill else num_urls + 1
            has_come = marker.exists if is_step else is_done(place / ".out.partial/journal.jsonl", wanted)
            was_killed = killed(process, has_come, marker.with_suffix(".log"), done=DONE)
            counts["kills"] += was_killed
            counts["at steps"] += was_killed and is_step
            if was_killed and (place / "out").exists():
                # It was killed after the rename.
                break
        assert [path.name for path in place.iterdir()] == ["out"], list(place.iterdir())
        assert content_of(place / "out") == content_of(whole)
    return counts


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), random.Random(int(sys.argv[4])))))
