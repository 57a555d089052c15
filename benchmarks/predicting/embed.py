"""The C++ library against Python, on the same files, bundle and backend: latency, throughput, start and size.

    python -m benchmarks.predicting.embed IMAGES --bundle A.bundle --bundle B.bundle --out RESULT.json

`alexnet-deploy embed` writes the project that is built and timed. In each of `--rounds` rounds a process of each
language runs in turn; ratios are medians of the rounds' ratios, C++ over Python. ONNX Runtime takes part with
`--backend onnxruntime --cmake -DALEXNET_DEPLOY_WITH_ONNXRUNTIME=ON` and what else CMake needs to find it.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

import alexnet_deploy
from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.inputs.paths import find_inputs
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.pipeline.embed import cmake_options
from benchmarks.record import record

SOURCE = Path(__file__).with_suffix(".cpp")
MAIN = [sys.executable, "-c", "from alexnet_deploy.cli import main; main()"]
NUM_IMAGES = 600
NUM_LATENCY_IMAGES = 50
NUM_STARTS = 9


def build(bundle: Path, folder: Path, options: Sequence[str]) -> dict[str, object]:
    """Write and build the project; return the seconds of building and the bytes of its library."""
    app = folder / "app"
    subprocess.run([*MAIN, "embed", str(bundle), str(app)], check=True, capture_output=True)
    started = time.perf_counter()
    configure = ["cmake", "-S", app, "-B", app / "build", *cmake_options(), *options]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["cmake", "--build", app / "build", "--parallel"], check=True, stdout=subprocess.DEVNULL)
    elapsed = time.perf_counter() - started
    library = app / "build/alexnet_deploy/libalexnet_deploy.so"
    linked = [f"-I{app / 'alexnet_deploy/include'}", library, f"-Wl,-rpath,{library.parent}", "-pthread"]
    subprocess.run(["c++", "-std=c++17", "-O2", SOURCE, *linked, "-o", folder / "embed"], check=True)
    stripped = folder / "stripped.so"
    shutil.copyfile(library, stripped)
    subprocess.run(["strip", stripped], check=True)
    return {"build_seconds": elapsed, "stripped_library_bytes": stripped.stat().st_size}


# Python's side, each in a process of its own; the same work as in embed.cpp.


def python_latency(bundle: str, backend: str, repeats: int) -> None:
    files = [Path(line).read_bytes() for line in sys.stdin.read().splitlines()]
    with alexnet_deploy.load(bundle, backend=backend, tuned_for="latency") as predictor:  # type: ignore[arg-type]
        for data in files:
            predictor.classify(data)
        for index in range(repeats):
            data = files[index % len(files)]
            started = time.perf_counter()
            predictor.classify(data)
            print(time.perf_counter() - started)


def python_throughput(bundle: str, backend: str) -> None:
    files = sys.stdin.read().splitlines()
    with alexnet_deploy.load(bundle, backend=backend) as predictor:  # type: ignore[arg-type]
        next(predictor.predict(files[0]))
        started = time.perf_counter()
        for _ in predictor.predict(files):
            pass
        print(time.perf_counter() - started)


def timed(command: Sequence[str | Path], files: Sequence[Path]) -> list[float]:
    names = "".join(f"{path}\n" for path in files)
    done = subprocess.run(command, input=names, stdout=subprocess.PIPE, text=True, check=True)
    return [float(line) for line in done.stdout.splitlines()]


def wall_seconds(command: Sequence[str | Path], names: str = "") -> float:
    started = time.perf_counter()
    subprocess.run(command, input=names, text=True, check=True, capture_output=True)
    return time.perf_counter() - started


def compared(measure: Callable[[str], float], rounds: int) -> dict[str, object]:
    """Measure both languages in each round, the first one in turn."""
    found: dict[str, list[float]] = {"cpp": [], "python": []}
    for number in range(rounds):
        for language in sorted(found, reverse=number % 2 == 1):
            found[language].append(measure(language))
    ratios = [one / other for one, other in zip(found["cpp"], found["python"], strict=True)]
    return {
        **{f"{language}_seconds": statistics.median(times) for language, times in found.items()},
        "cpp_over_python": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def compare(bundle: Path, backend: str, files: Sequence[Path], folder: Path, rounds: int) -> dict[str, object]:
    programs: dict[str, list[str | Path]] = {
        "cpp": [folder / "embed"],
        "python": [sys.executable, "-m", "benchmarks.predicting.embed", "--python"],
    }

    def latency(language: str) -> float:
        command = [*programs[language], "latency", bundle, backend, "200"]
        return statistics.median(timed(command, files[:NUM_LATENCY_IMAGES]))

    def throughput(language: str) -> float:
        (elapsed,) = timed([*programs[language], "throughput", bundle, backend], files)
        return elapsed / len(files)

    def start(language: str) -> float:
        if language == "python":
            return wall_seconds([*MAIN, "predict", files[0], "--bundle", bundle, "--backend", backend])
        return wall_seconds([*programs["cpp"], "latency", bundle, backend, "0"], f"{files[0]}\n")

    return {
        "latency_p50": compared(latency, rounds),
        "seconds_an_image": compared(throughput, rounds),
        "start_to_first_answer": compared(start, NUM_STARTS),
    }


def main() -> None:
    if sys.argv[1:2] == ["--python"]:
        mode, bundle, backend, *rest = sys.argv[2:]
        if mode == "latency":
            python_latency(bundle, backend, int(rest[0]))
        else:
            python_throughput(bundle, backend)
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path, action="append", required=True)
    parser.add_argument("--backend", action="append")
    parser.add_argument("--cmake", action="append", default=[], help="An option for CMake.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    files = [found.path.absolute() for found in islice(find_inputs(options.images), NUM_IMAGES)]
    with tempfile.TemporaryDirectory() as name:
        built = build(options.bundle[0], Path(name), options.cmake)
        rows = []
        for path in options.bundle:
            manifest = open_bundle(path).manifest
            for backend in options.backend or ["openvino"]:
                found = compare(path.absolute(), backend, files, Path(name), options.rounds)
                print(f"{path} {backend}: {found}", file=sys.stderr)
                rows.append(
                    {
                        "architecture": manifest.architecture.name,
                        "precision": manifest.precision,
                        "views": manifest.views.name,
                        "backend": backend,
                        **found,
                    }
                )
    record(
        options.out,
        {
            "images": len(files),
            "rounds": options.rounds,
            "machine": processor(),
            "cores": os.cpu_count(),
            "tools": tool_versions("openvino", "onnxruntime", "pillow"),
            **built,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
