"""Compare C++ with Python on damaged PNG and JPEG files: `python tests/fuzz/compare_cpp.py SEED FIRST LAST`.

Prints one line of JSON for each difference and one with the counts at the end.
"""

import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests/programs"), str(ROOT / "tests/support")]

from cpp_library import difference  # noqa: E402
from png_and_jpeg import mutants  # noqa: E402

from alexnet_deploy.core.model.preprocessing import WARP  # noqa: E402

MOST_PIXELS = 2**22


def main() -> None:
    seed, first, last = map(int, sys.argv[1:])
    counts: Counter[str] = Counter()
    num_different = 0
    for name, data in mutants(seed, range(first, last)):
        kind, what = difference(data, WARP, max_pixels=MOST_PIXELS)
        counts[kind] += 1
        if what is not None:
            num_different += 1
            print(json.dumps({"name": name, "what": what}), flush=True)
    print(json.dumps({"files": last - first, "different": num_different, "outcomes": counts}))


if __name__ == "__main__":
    main()
