"""Compare C++ with Python on damaged PNG and JPEG files: `python tests/fuzz/compare_cpp.py SEED FIRST LAST`.

Prints one line of JSON for each difference and one with the counts at the end.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/programs"), str(ROOT / "tests/support")]

from cpp_library import outcome  # noqa: E402
from png_and_jpeg import mutants  # noqa: E402

from alexnet_deploy.core.errors import ImageError  # noqa: E402
from alexnet_deploy.core.images.decode import DecodeLimits, decode_image  # noqa: E402
from alexnet_deploy.core.model.preprocessing import ResizePolicy  # noqa: E402

MOST_PIXELS = 2**22


def python_outcome(data: bytes, policy: ResizePolicy) -> np.ndarray | str:
    """Return the pixels, or the code of the error."""
    try:
        return decode_image(data, policy, DecodeLimits(max_pixels=MOST_PIXELS))
    except ImageError as error:
        return str(error.code)


def difference(data: bytes, policy: ResizePolicy) -> tuple[str, str | None]:
    """Return the kind of outcome in C++, and what differs from Python's; None for the same outcome."""
    found, expected = outcome(data, policy, max_pixels=MOST_PIXELS), python_outcome(data, policy)
    kind = found if isinstance(found, str) else "pixels"
    wanted = expected if isinstance(expected, str) else "pixels"
    if kind == "unsupported_format" and not data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")):
        return "another format", None
    if kind != wanted:
        return kind, f"C++ {kind}, Python {wanted}"
    if isinstance(found, np.ndarray) and isinstance(expected, np.ndarray) and not np.array_equal(found, expected):
        most = int(np.abs(found.astype(int) - expected.astype(int)).max())
        return kind, f"other pixels, by up to {most}"
    return kind, None


def main() -> None:
    seed, first, last = map(int, sys.argv[1:])
    counts: Counter[str] = Counter()
    num_different = 0
    for name, data in mutants(seed, range(first, last)):
        kind, what = difference(data, "warp")
        counts[kind] += 1
        if what is not None:
            num_different += 1
            print(json.dumps({"name": name, "what": what}), flush=True)
    print(json.dumps({"files": last - first, "different": num_different, "outcomes": counts}))


if __name__ == "__main__":
    main()
