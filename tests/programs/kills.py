"""python kills.py FOLDER SEED: train once without interruption, then with repeated SIGKILLs; print the counts as JSON.

torch is imported once, and each process to kill is forked from this one: that takes 10 ms, where starting Python takes
two seconds. This process uses one thread and runs no network, so there is no thread pool that a fork would lose.
"""

import itertools
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from training import NARROW, RECIPE, memory_set

from alexnet_deploy.train.loop.checkpoint import CHECKPOINT
from alexnet_deploy.train.loop.record import Observer
from alexnet_deploy.train.loop.trainer import Pace
from alexnet_deploy.train.run import Resume
from alexnet_deploy.train.run import train as train_run

MOST_KILLS = 26
IMAGES = memory_set()
KILLED_RECIPE = msgspec.structs.replace(
    RECIPE,
    epochs=6,
    batch_size=4,
    learning_rate=0.001,
    optimiser="adamw",
    ema_decay=0.9,
    min_scale=0.5,
    color_jitter=0.2,
    random_erasing=0.3,
    seed=5,
)


def train(out: Path, notice: Callable[[bytes], None], least_seconds: float, last_write: int) -> None:
    fsync, writes = os.fsync, itertools.count(1)

    def noted(descriptor: int) -> None:
        notice(b"w")
        if next(writes) == last_write:
            # Wait to be killed.
            signal.pause()
        fsync(descriptor)

    os.fsync = noted
    pace = Pace(share=float("inf"), least_seconds=least_seconds)
    resume = (out / CHECKPOINT).exists()
    if out.exists() and not resume:
        # It was killed before there was a checkpoint to resume.
        for path in out.iterdir():
            path.unlink()
        out.rmdir()
    notice(b"s")
    how = Resume.SAME_MACHINE if resume else Resume.NO
    observer = Observer(on_progress=lambda progress: notice(b"p"))
    train_run(IMAGES, NARROW, KILLED_RECIPE, out, resume=how, pace=pace, observer=observer)


def forked(out: Path, least_seconds: float, last_write: int = 0) -> tuple[int, int]:
    """Start training in a new process; return it and a pipe that reports its start, steps and writes.

    In write number `last_write` it stops and waits to be killed.
    """
    reader, writer = os.pipe()
    if (process := os.fork()) == 0:
        code = 1
        try:
            os.close(reader)
            train(out, lambda what: os.write(writer, what) and None, least_seconds, last_write)
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    return process, reader


def wait_for(reader: int, what: bytes, number: int) -> None:
    """Wait until `what` was reported `number` times, or the process has ended."""
    while number > 0 and (reported := os.read(reader, 1)):
        number -= reported == what


def killed(out: Path, draws: random.Random) -> tuple[bool, bool]:
    """Train until a random event, then kill; return whether the kill ended the training, and whether during a write."""
    kind, number = draws.random(), draws.randint(1, 8)
    process, reader = forked(out, draws.choice((0.0, 0.05)), number if kind < 0.4 else 0)
    known = set(out.glob(".*.partial")) if out.exists() else set()
    if kind < 0.4:
        wait_for(reader, b"w", number)
    elif kind < 0.9:
        # It continues until the kill, which can hit it anywhere.
        wait_for(reader, b"p", number)
    else:
        wait_for(reader, b"s", number % 2)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    os.close(reader)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the training failed without a kill"
    return os.WIFSIGNALED(status), bool(set(out.glob(".*.partial")) - known)


def main(folder: Path, seed: int) -> None:
    torch.set_num_threads(1)
    # The first optimiser imports more of torch, which takes a second.
    torch.optim.SGD([torch.zeros(1)])
    draws = random.Random(seed)
    process, reader = forked(folder / "whole", 0.0)
    assert os.waitpid(process, 0)[1] == 0
    os.close(reader)
    num_kills = num_in_writes = num_runs = 0
    while num_kills < MOST_KILLS:
        out = folder / f"killed {num_runs}"
        num_runs += 1
        was_killed = True
        while was_killed and num_kills < MOST_KILLS:
            was_killed, in_write = killed(out, draws)
            num_kills += was_killed
            num_in_writes += in_write
        if was_killed:
            process, reader = forked(out, 0.0)
            assert os.waitpid(process, 0)[1] == 0
            os.close(reader)
    print(json.dumps({"kills": num_kills, "in_writes": num_in_writes, "runs": num_runs}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
