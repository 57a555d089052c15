"""Tested in separate processes, because the setting cannot be undone."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import Run

from alexnet_deploy.train import run as training
from alexnet_deploy.train.runtime import malloc as host_memory

PROGRAM = """
import resource, sys
import numpy as np
from alexnet_deploy.train.runtime.malloc import keep_freed_memory

kept = keep_freed_memory() if sys.argv[1] == "keep" else None

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def fill():
    np.ones(20_000_000, dtype=np.float32)
    np.ones(10_000_000, dtype=np.float64)

fill()
before = faults()
for _ in range(10):
    fill()
print(kept, faults() - before)
"""


def faults(how: str) -> tuple[str, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True, text=True)
    kept, number = done.stdout.split()
    return kept, int(number)


def test_memory_that_was_freed_is_used_again_without_the_systems_help() -> None:
    _, without = faults("leave")
    # Twenty blocks of 80 MB; pages may be 2 MiB.
    assert without > 20 * 80_000_000 / 2**21 / 2
    kept, number = faults("keep")
    assert kept == "True"
    assert number < without / 10


def test_the_command_keeps_memory_once_the_images_have_been_looked_over(
    run: Run, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    look_over = training.look_over

    def trained(*arguments: object, **options: object) -> None:
        done.append("trained")
        raise KeyboardInterrupt

    def looked_over(*arguments: object, **options: object) -> object:
        done.append("looked over")
        return look_over(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "look_over", looked_over)
    monkeypatch.setattr(host_memory, "keep_freed_memory", lambda: done.append("kept"))
    monkeypatch.setattr(training, "train", trained)
    run("train", drawn, "--arch", "tiny", "--device", "cpu")
    assert done == ["looked over", "kept", "trained"]
