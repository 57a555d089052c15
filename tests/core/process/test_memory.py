"""A budget of memory, and the allocator in separate processes, because its settings cannot be undone."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import pytest
from commands import HANGS_AFTER_S
from PIL import Image

from alexnet_deploy.core.process.memory import MemoryBudget


class Holder:
    """A thread that reserves some bytes until it is told to let go."""

    def __init__(self, budget: MemoryBudget, num_bytes: int, told: "SimpleQueue[str]", name: str) -> None:
        self._release = threading.Event()
        self._thread = threading.Thread(target=self._hold, args=(budget, num_bytes, told, name), daemon=True)
        self._thread.start()

    def _hold(self, budget: MemoryBudget, num_bytes: int, told: "SimpleQueue[str]", name: str) -> None:
        with budget.reserve(num_bytes):
            told.put(name)
            self._release.wait(HANGS_AFTER_S)

    def let_go(self) -> None:
        self._release.set()
        self._thread.join(HANGS_AFTER_S)
        assert not self._thread.is_alive()


def waiting(budget: MemoryBudget, number: int) -> None:
    """Return when this many threads stand in line."""
    while len(budget._waiting) != number:
        threading.Event().wait(0.001)


def test_what_fits_goes_on_together_and_what_does_not_waits_in_line() -> None:
    budget, told = MemoryBudget(100), SimpleQueue[str]()
    first = Holder(budget, 60, told, "first")
    assert told.get(timeout=HANGS_AFTER_S) == "first"
    second = Holder(budget, 60, told, "second")
    waiting(budget, 1)
    # It would fit, but the second is in front of it.
    third = Holder(budget, 40, told, "third")
    waiting(budget, 2)
    assert told.empty()
    first.let_go()
    assert {told.get(timeout=HANGS_AFTER_S) for _ in range(2)} == {"second", "third"}
    second.let_go()
    third.let_go()


def test_more_than_the_budget_is_had_alone() -> None:
    budget, told = MemoryBudget(100), SimpleQueue[str]()
    small = Holder(budget, 1, told, "small")
    assert told.get(timeout=HANGS_AFTER_S) == "small"
    large = Holder(budget, 1000, told, "large")
    waiting(budget, 1)
    assert told.empty()
    small.let_go()
    assert told.get(timeout=HANGS_AFTER_S) == "large"
    late = Holder(budget, 1, told, "late")
    waiting(budget, 1)
    assert told.empty()
    large.let_go()
    assert told.get(timeout=HANGS_AFTER_S) == "late"
    late.let_go()


def test_a_budget_survives_what_is_raised_inside_it() -> None:
    budget = MemoryBudget(10)
    for _ in range(3):
        try:
            with budget.reserve(10):
                raise ValueError
        except ValueError:
            pass
    with budget.reserve(10):
        pass


FORKED = """
import os, threading
from alexnet_deploy.core.images.decode import _DECODING
held = threading.Event()
def hold():
    with _DECODING.reserve(_DECODING.num_bytes):
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
child = os.fork()
if not child:
    with _DECODING.reserve(_DECODING.num_bytes):
        os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""


def test_a_forked_process_begins_with_the_whole_budget() -> None:
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=HANGS_AFTER_S)
    assert (done.stdout, done.returncode) == ("7\n", 0), done.stderr


def test_many_threads_never_hold_more_than_the_budget() -> None:
    budget, lock, held, most = MemoryBudget(100), threading.Lock(), 0, 0

    def use(number: int) -> None:
        nonlocal held, most
        needed = 1 + number * 37 % 90
        with budget.reserve(needed):
            with lock:
                held += needed
                most = max(most, held)
            with lock:
                held -= needed

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(2000)))
    assert 90 <= most <= 100
    assert held == 0


FREED = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.process.memory import keep_freed_memory
if sys.argv[2] == "keep":
    keep_freed_memory()
def resident_mib():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:")) // 1024
start, together = resident_mib(), Barrier(4)
def decode(path):
    together.wait()
    read_image(path, ImagePolicy(resize="shorter-side"))
with ThreadPoolExecutor(4) as threads:
    for _ in range(2):
        list(threads.map(decode, [Path(sys.argv[1])] * 4))
    print(resident_mib() - start)
"""


@pytest.mark.parametrize(("how", "kept"), [("leave", False), ("keep", True)])
def test_large_images_leave_no_memory_to_their_threads_unless_the_process_keeps_it(
    how: str, kept: bool, tmp_path: Path
) -> None:
    Image.new("RGB", (6000, 6000), (9, 99, 199)).save(tmp_path / "large.jpg")
    command = [sys.executable, "-c", FREED, str(tmp_path / "large.jpg"), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANGS_AFTER_S)
    # Each image takes 144 MB.
    assert (int(done.stdout) > 50) == kept, done.stderr


PROGRAM = """
import resource, sys
import numpy as np
from alexnet_deploy.core.process.memory import keep_freed_memory

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
