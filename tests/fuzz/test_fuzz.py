"""A few damaged files for every reader; `python -m tests.fuzz` runs any number."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import READERS, fuzz
from readers import Reader

from alexnet_deploy.core.errors import UsageError

NUM_MUTATIONS = -(-2000 // len(READERS))
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table() -> dict[str, list[str]]:
    """The output of a run of 2,000 mutations, by reader: its row of the table and its failures."""
    command = [sys.executable, "-m", "tests.fuzz", "--mutations", "2000", "--seed", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return {
        name: [line for line in done.stdout.splitlines() if line.startswith((f"{name} ", f"--reader {name} "))]
        for name in READERS
    }


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_in_one_sentence(name: str, table: dict[str, list[str]]) -> None:
    row, *failures = table[name]
    assert row.split()[-6] == str(NUM_MUTATIONS)
    assert failures == []


def _raise() -> None:
    raise KeyError("undeclared")


def _say_two_lines() -> None:
    raise UsageError("one\ntwo")


def _hang() -> None:
    while True:
        pass


def _take_memory() -> None:
    # More than a long-lived process could reuse from freed memory.
    bytearray(16 << 30)


@pytest.mark.parametrize(
    ("fail", "told"),
    [
        (_raise, "KeyError at tests/fuzz/test_fuzz.py"),
        (_say_two_lines, "several lines"),
        (_hang, "hangs: 1 s of CPU"),
        (_take_memory, "MemoryError at tests/fuzz/test_fuzz.py"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "ends by signal 9"),
        (lambda: os._exit(3), "exits with"),
    ],
    ids=["error", "two lines", "hang", "memory", "crash", "exit"],
)
def test_what_the_harness_looks_for_is_found(
    fail: Callable[[], None], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader fails on every damaged file; each failure is reported and the next mutation still runs."""
    monkeypatch.setattr("harness.MOST_SECONDS", 1)

    def read(folder: Path) -> None:
        if (folder / "x").read_bytes() != bytes(1000):
            fail()

    reader = Reader(make=lambda folder: (folder / "x").write_bytes(bytes(1000)), read=read, targets={"x": ()})
    found = fuzz(reader, "broken", range(3))
    assert found.counts.total() == 3
    assert found.counts["failed"] == len(found.failures) >= 2
    assert all(failure.startswith(told) for failure in found.failures.values())
