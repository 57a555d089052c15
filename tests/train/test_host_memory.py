"""In processes of their own, since it cannot be undone."""

import subprocess
import sys

PROGRAM = """
import resource, sys
import numpy as np
from alexnet_deploy.train.host_memory import keep_freed_memory

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
    # Twenty blocks of 80 MB; a page may have 2 MiB.
    assert without > 20 * 80_000_000 / 2**21 / 2
    kept, number = faults("keep")
    assert kept == "True"
    assert number < without / 10
