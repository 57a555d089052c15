"""Whether C++ and Python give the same answer: every picture of a folder through both, compared to the bit.

    python -m benchmarks.precision.same_answer FOLDER --fp32 FP32.bundle --int8 INT8.bundle --out RESULT.json

Pixels in both resize policies, and probabilities from the bytes of a file on every backend of the library.
Other files - damaged ones, other formats - count by their outcome. A script and not a test: it takes minutes, and
the pictures are not part of the repository; tests/engines/cpp does the same on drawn pictures.
"""

import argparse
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE, WARP, ImagePolicy
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.engines.engine import Engine, open_engine
from alexnet_deploy.engines.registry import BACKENDS
from benchmarks.record import record

sys.path.append(str(Path(__file__).parents[2] / "tests/support"))

import cpp_library
from cpp_library import CppEngine

POLICIES = (SHORTER_SIDE, WARP)


def compare_answers(
    data: bytes, engines: dict[str, tuple[CppEngine, Engine, ImagePolicy]], counts: dict[str, Counter[str]]
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

    pixels: dict[str, Counter[str]] = {policy.resize: Counter() for policy in POLICIES}
    answers: dict[str, Counter[str]] = {}
    different: list[str] = []
    with ExitStack() as stack:
        engines: dict[str, tuple[CppEngine, Engine, ImagePolicy]] = {}
        for path in (arguments.fp32, arguments.int8):
            bundle = open_bundle(path)
            for backend in BACKENDS:
                if backend in cpp_library.backends():
                    pair = (CppEngine(path, backend), open_engine(bundle, backend))
                    for engine in pair:
                        stack.enter_context(engine)
                    name = f"{bundle.manifest.precision} {backend}"
                    engines[name] = (*pair, bundle.manifest.preprocessing.image_policy)
                    answers[name] = Counter()
        for path in files_in(arguments.folder):
            data = path.read_bytes()
            outcomes = {policy.resize: cpp_library.difference(data, policy) for policy in POLICIES}
            for policy, (kind, what) in outcomes.items():
                pixels[policy][f"equal {kind}" if what is None else "DIFFERENT"] += 1
                if what is not None:
                    different.append(f"{path.relative_to(arguments.folder)}: {policy}: {what}")
            if set(outcomes.values()) == {("pixels", None)}:
                compare_answers(data, engines, answers)
    record(
        arguments.out,
        {
            "machine": processor(),
            "tools": tool_versions("openvino", "onnxruntime", "pillow"),
            "pixels": pixels,
            "probabilities": answers,
            "different": different,
        },
    )


if __name__ == "__main__":
    main()
