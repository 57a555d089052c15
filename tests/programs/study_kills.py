"""python study_kills.py FOLDER DATA STUDY KILLS SEED: kill a study, run it again, and compare with one undisturbed run.

Each process is forked from this one, which has one thread and has imported everything. Half of the kills hit a process
just before one of its steps on the disk (a sync, a rename, a removal), the others as soon as a number of files is
there. Prints the counts as JSON.
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from killing import killed, stop_before
from training import ALWAYS

from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.pipeline.study.plan import StudyRequest
from alexnet_deploy.pipeline.study.running.runs import Workplace
from alexnet_deploy.pipeline.study.study import run_study

COMPARED = ("plan.json", "results.csv", "curves.csv", "study.json")


def forked(data: Path, study: Path, out: Path, marker: Path, last_step: int) -> int:
    """Study in a new process, which stops before its step number `last_step`; with 0, the marker counts the steps."""
    if process := os.fork():
        return process
    code = 70
    try:
        stop_before(last_step, marker)
        request = StudyRequest(study=str(study), data=data, settings={}, seeds=2)
        run_study(request, out, Workplace(say=print, pace=ALWAYS))
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def contents(out: Path) -> dict[str, object]:
    """Return what must not depend on interruptions: the bytes of the results, and the tensors of every run."""
    tensors = {
        str(path.relative_to(out)): {
            name: values.tobytes() for name, values in load_weights(path).weights.tensors.items()
        }
        for path in sorted(out.glob("*/*/weights.safetensors"))
    }
    return {name: (out / name).read_bytes() for name in COMPARED} | tensors


def has_files(out: Path, number: int) -> Callable[[], bool]:
    """Return a function that tells whether this many runs have a file."""
    return lambda: len(list(out.glob("*/*/*"))) >= number


def work(folder: Path, data: Path, study: Path, num_kills: int, draws: random.Random) -> dict[str, int]:
    """Return the numbers of kills, of kills at a step, and of steps of an undisturbed study; raises AssertionError."""
    whole, marker = folder / "whole", folder / "marker"
    log = marker.with_suffix(".log")
    assert not killed(forked(data, study, whole, marker, 0), lambda: False, log, done=(0,))
    num_steps, num_files = int(marker.read_text()), len(list(whole.glob("*/*/*")))
    expected = contents(whole)
    counts = {"kills": 0, "at steps": 0, "steps": num_steps, "rounds": 0}
    while counts["kills"] < num_kills:
        counts["rounds"] += 1
        out, was_killed = folder / f"killed {counts['rounds']}", True
        while was_killed:
            may_kill = counts["kills"] < num_kills
            marker.unlink(missing_ok=True)
            is_step = may_kill and draws.random() < 0.5
            process = forked(data, study, out, marker, draws.randint(1, num_steps // 2) if is_step else -1)
            # A number that it does not have yet, or it would be killed before it did anything.
            num_there = len(list(out.glob("*/*/*")))
            by_files = has_files(out, draws.randint(num_there + 1, max(num_there + 1, num_files)))
            has_come = marker.exists if is_step else by_files if may_kill else lambda: False
            was_killed = killed(process, has_come, log, done=(0,))
            counts["kills"] += was_killed
            counts["at steps"] += was_killed and is_step
        assert contents(out) == expected
    return counts


if __name__ == "__main__":
    torch.set_num_threads(1)
    # The first optimiser imports more of torch, which takes a second.
    torch.optim.SGD([torch.zeros(1)])
    arguments = [Path(name) for name in sys.argv[1:4]]
    print(json.dumps(work(*arguments, int(sys.argv[4]), random.Random(int(sys.argv[5])))))
