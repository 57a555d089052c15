"""Whether C++ and Python give the same answer: every picture of a folder through both, compared to the bit.

    python benchmarks/same_answer.py FOLDER --fp32 FP32.bundle --int8 INT8.bundle --out RESULT.json

Pixels in both resize policies, and probabilities from the bytes of a file on every backend of the library.
Other files - damaged ones, other formats - count by their outcome. A script and not a test: it takes minutes, and
the pictures are not part of the repository; tests/engines/cpp does the same on drawn pictures.
"""

import argparse
import json
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from record import record

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.model.preprocessing import ResizePolicy
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.engines.engine import Engine, open_engine
from alexnet_deploy.engines.registry import BACKENDS

sys.path.append(str(Path(__file__).parents[1] / "tests/support"))

import cpp_library
from cpp_library import CppEngine

POLICIES: tuple[ResizePolicy, ...] = ("shorter-side", "warp")


def python_outcome(data: bytes, policy: ResizePolicy) -> np.ndarray | str:
    """Return the pixels, or the code of the error."""
    try:
        return decode_image(data, policy)
    except ImageError as error:
        return str(error.code)


def compare_pixels(data: bytes, policy: ResizePolicy) -> str:
    """Return the outcome that both have, or what differs."""
    ours, theirs = cpp_library.outcome(data, policy), python_outcome(data, policy)
    if isinstance(ours, str) or isinstance(theirs, str):
        names = [outcome if isinstance(outcome, str) else "pixels" for outcome in (ours, theirs)]
        if names[0] == names[1]:
            return f"both {names[0]}"
        return "read by Python only" if names == ["unsupported_format", "pixels"] else f"DIFFERENT: {names}"
    return "equal pixels" if np.array_equal(ours, theirs) else "DIFFERENT: pixels"


def compare_answers(
    data: bytes, engines: dict[str, tuple[CppEngine, Engine, ResizePolicy]], counts: dict[str, Counter[str]]
) -> None:
    for name, (ours, theirs, policy) in engines.items():
        (expected,) = theirs.run(decode_image(data, policy)[None])
        is_equal = np.array_equal(ours.classify(data), expected)
        counts[name]["equal" if is_equal else "DIFFERENT"] += 1


def files_in(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "README.md"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fp32", type=Path, required=True)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()

    pixels: dict[str, Counter[str]] = {policy: Counter() for policy in POLICIES}
    answers: dict[str, Counter[str]] = {}
    different: list[str] = []
    with ExitStack() as stack:
        engines: dict[str, tuple[CppEngine, Engine, ResizePolicy]] = {}
        for path in (arguments.fp32, arguments.int8):
            bundle = open_bundle(path)
            for backend in BACKENDS:
                if backend in cpp_library.backends():
                    pair = (CppEngine(path, backend), open_engine(bundle, backend))
                    for engine in pair:
                        stack.enter_context(engine)
                    name = f"{bundle.manifest.precision} {backend}"
                    engines[name] = (*pair, bundle.manifest.preprocessing.resize)
                    answers[name] = Counter()
        for path in files_in(arguments.folder):
            data = path.read_bytes()
            outcomes = {policy: compare_pixels(data, policy) for policy in POLICIES}
            for policy, outcome in outcomes.items():
                pixels[policy][outcome] += 1
                if outcome.startswith("DIFFERENT"):
                    different.append(f"{path.relative_to(arguments.folder)}: {policy}: {outcome}")
            if set(outcomes.values()) == {"equal pixels"}:
                compare_answers(data, engines, answers)
    record(
        arguments.out,
        {
            "machine": processor(),
            "tools": tool_versions("openvino", "onnxruntime", "pillow"),
            "pixels": json.loads(json.dumps(pixels)),
            "probabilities": json.loads(json.dumps(answers)),
            "different": different,
        },
    )


if __name__ == "__main__":
    main()
