"""Decodes each of many inputs twice, in a separate process: a crash, hang or memory leak does not stop the test run.

    python -W error decode_each.py folder FOLDER        each file below it
    python -W error decode_each.py mutants SEED NUMBER

Prints the name of each input, then its error code or the digest of its pixels; at the end the memory growth in MiB.
"""

import faulthandler
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from images import outcome
from mutations import first_mutants

from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits

# Far longer than any input takes, even on a busy machine.
HANGS_AFTER_S = 60

# 4 million pixels: headers that declare more are refused, as above the default limit.
SMALL = DecodeLimits(max_pixels=2**22)


def inputs() -> Iterator[tuple[str, bytes, DecodeLimits]]:
    if sys.argv[1] == "folder":
        folder = Path(sys.argv[2])
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            yield str(path.relative_to(folder)), path.read_bytes(), DEFAULT_LIMITS
    else:
        for name, data in first_mutants(int(sys.argv[2]), int(sys.argv[3])):
            yield name, data, SMALL


def described(data: bytes, limits: DecodeLimits) -> str:
    result = outcome(data, limits)
    if not isinstance(result, np.ndarray):
        return str(result)
    assert (result.shape, result.dtype) == ((256, 256, 3), np.uint8)
    return hashlib.sha256(result).hexdigest()


def peak_mib() -> int:
    # Not getrusage: it also counts the parent's peak.
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kib) // 1024


before = 0
for number, (name, data, limits) in enumerate(inputs()):
    if number == 0:
        before = peak_mib()
    faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
    print(number, name, flush=True)
    first = described(data, limits)
    assert described(data, limits) == first, "the second result differs from the first"
    print(first)
faulthandler.cancel_dump_traceback_later()
print(peak_mib() - before)
