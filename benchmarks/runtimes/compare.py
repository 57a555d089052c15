"""Which other runtimes run our graphs unmodified, and how large are their errors on the golden images?

    python -m benchmarks.runtimes.compare --bundles fp32.bundle fp16.bundle int8.bundle --envs /tmp/envs \
        --out RESULT.json [--only NAME ...] [--page docs/runtimes.md]

Each runtime is installed in its own environment below --envs, unless it is already there, and runs each graph in a
separate process, which is killed after 120 s. Results must meet the tolerances of golden/index.txt: fp32 and fp16
against the trained network, int8 against its graph computed by ONNX's definition of the operators.
"""

import argparse
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.store import GRAPH, Bundle, open_bundle
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.engines.proof.parity import LOG_FLOOR, shortfalls
from alexnet_deploy.engines.proof.tolerances import TOLERANCES, int8_graph_tolerance
from benchmarks.record import record

ENDED_AFTER_S = 120
INSTALL_ENDED_AFTER_S = 300
LONGEST_REFUSAL = 120
PRECISIONS = ("fp32", "fp16", "int8")
HERE = Path(__file__).absolute().parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    name: str
    run: str
    """A function of in_runtime.py, or an npm package."""
    packages: tuple[str, ...]
    npm: bool = False
    env: str = ""
    """Name of the environment, if it is not that of the runtime."""

    def folder(self, envs: Path) -> Path:
        return (envs / (self.env or self.run)).absolute()


RUNTIMES = (
    Runtime(name="ONNX Runtime", run="onnxruntime", packages=("onnxruntime==1.31.1", "numpy==2.4.6")),
    Runtime(name="OpenVINO", run="openvino", packages=("openvino==2026.4.1",)),
    Runtime(name="onnxruntime-node", run="onnxruntime-node", packages=("onnxruntime-node@1.30.0",), npm=True),
    Runtime(
        name="onnxruntime-web (WASM, in Node)", run="onnxruntime-web", packages=("onnxruntime-web@1.30.0",), npm=True
    ),
    Runtime(name="OpenCV 4", run="opencv", packages=("opencv-python-headless==4.14.0.94",), env="cv4"),
    Runtime(name="OpenCV 5", run="opencv", packages=("opencv-python-headless==5.0.0.93",), env="cv5"),
    Runtime(name="OpenCV 5, classic", run="opencv_classic", packages=("opencv-python-headless==5.0.0.93",), env="cv5"),
    Runtime(name="MNN", run="mnn", packages=("mnn==3.6.1", "numpy==2.4.6")),
    Runtime(name="tract", run="tract", packages=("tract==0.23.9", "numpy==2.4.6")),
    Runtime(name="TVM, LLVM", run="tvm", packages=("apache-tvm==0.27.0.post1", "onnx==1.23.2")),
    Runtime(name="tinygrad, CPU", run="tinygrad", packages=("tinygrad==0.14.0", "ziglang==0.17.1", "numpy==2.4.6")),
    Runtime(name="ncnn, by pnnx", run="ncnn", packages=("ncnn==1.0.20261020", "pnnx==20261020")),
    Runtime(name="onnx2torch", run="onnx2torch", packages=("onnx2torch==1.5.15",)),
    Runtime(name="onnx2tf, TFLite", run="onnx2tf", packages=("onnx2tf==1.29.24",)),
)


def install(runtime: Runtime, folder: Path) -> None:
    """Create the environment, unless it exists; raises CalledProcessError and TimeoutExpired."""
    if folder.exists():
        return
    if runtime.npm:
        folder.mkdir(parents=True)
        # Without install scripts: that of onnxruntime-node downloads CUDA.
        words = ["npm", "install", "--silent", "--ignore-scripts", "--prefix", folder]
    else:
        venv.create(folder, with_pip=True)
        words = [folder / "bin" / "python", "-m", "pip", "install", "--quiet"]
    try:
        subprocess.run([*words, *runtime.packages], check=True, timeout=INSTALL_ENDED_AFTER_S)
    except (OSError, subprocess.SubprocessError):
        # The next run would use an incomplete environment.
        shutil.rmtree(folder)
        raise


def answer(runtime: Runtime, folder: Path, bundle: Bundle) -> np.ndarray | str:
    """Return a runtime's probabilities for the golden images, float32 (N, K), or the reason for having none."""
    golden = bundle.manifest.golden
    given = [str((bundle.path / name).absolute()) for name in (GRAPH, golden.images.file)]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "answer.f32"
        program = (
            ["node", str(HERE / "in_node.mjs"), str(folder), runtime.run]
            if runtime.npm
            else [str(folder / "bin" / "python"), str(HERE / "in_runtime.py"), runtime.run]
        )
        # In its own session, so that the tools that it starts are killed with it.
        process = subprocess.Popen(
            [*program, *given, str(out)],
            cwd=scratch,  # MNN's converter writes a file into the working directory.
            env=os.environ | {"ORT_DISABLE_TELEMETRY": "1", "TMPDIR": scratch},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            _, said = process.communicate(timeout=ENDED_AFTER_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            return f"no answer after {ENDED_AFTER_S} s"
        refused = out.with_suffix(".refused")
        if refused.exists():
            return " ".join(refused.read_text().split())[:LONGEST_REFUSAL].strip()
        if process.returncode < 0:
            return f"crash: {signal.Signals(-process.returncode).name}"
        if process.returncode:
            return (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1][:LONGEST_REFUSAL]
        return np.fromfile(out, "<f4")


def judged(bundle: Bundle, found: np.ndarray | str) -> dict[str, object]:
    """Return the errors of a runtime's probabilities, and which tolerances of golden/index.txt they exceed."""
    if isinstance(found, str):
        return {"refused": found}
    golden, precision = bundle.manifest.golden, bundle.manifest.precision
    reference = golden.probabilities if golden.graph is None else golden.graph.probabilities
    tolerance = TOLERANCES[precision]
    if golden.graph is not None:
        tolerance = int8_graph_tolerance(len(bundle.manifest.views.crops))
    expected = bundle.read_tensor(reference)
    if found.size != expected.size:
        return {"refused": f"gives {found.size} numbers, not {expected.size}"}
    actual = found.reshape(expected.shape)
    logs = [np.log(np.maximum(of.astype(np.float64), LOG_FLOOR)) for of in (expected, actual)]
    return {
        "max_error": float(np.abs(actual.astype(np.float64) - expected).max()),
        "max_log_error": float(np.abs(logs[1] - logs[0]).max()),
        "failures": shortfalls(expected, actual, tolerance),
    }


def of_runtime(runtime: Runtime, bundles: list[Bundle], envs: Path) -> dict[str, object]:
    row: dict[str, object] = {"runtime": runtime.name, "packages": runtime.packages}
    folder = runtime.folder(envs)
    try:
        install(runtime, folder)
    except (OSError, subprocess.SubprocessError) as error:
        return row | {"not_run": f"could not be installed: {type(error).__name__}"}
    for bundle in bundles:
        started = time.perf_counter()
        row[bundle.manifest.precision] = judged(bundle, answer(runtime, folder, bundle))
        elapsed = time.perf_counter() - started
        print(f"{runtime.name}, {bundle.manifest.precision}: {elapsed:.1f} s", file=sys.stderr)
    return row


def cell(found: dict[str, object] | None) -> str:
    if found is None:
        return "not run"
    if "refused" in found:
        refused = re.sub(r"\x1b\[[0-9;]*m", "", str(found["refused"])).replace("|", "/").replace("`", "'")
        return refused if refused.startswith(("crash", "no answer")) else f"refused: `{refused}`"
    error = f"{found['max_error']:.1e}"
    return f"**wrong: {error}**" if found["failures"] else error


def with_table(page: str, rows: list[dict[str, object]]) -> str:
    """Return the page with its first table replaced by these rows."""
    table = ["| runtime | version | fp32 | fp16 | int8 |", "|---|---|---|---|---|"]
    for row in rows:
        version = row["packages"][0].replace("==", " ").replace("@", " ")
        cells = [row["not_run"]] * 3 if "not_run" in row else [cell(row.get(name)) for name in PRECISIONS]
        table.append(f"| {' | '.join([row['runtime'], version, *cells])} |")
    lines = page.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("|"))
    after = next(
        place for place in range(first, len(lines) + 1) if not "".join(lines[place : place + 1]).startswith("|")
    )
    return "\n".join([*lines[:first], *table, *lines[after:]]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundles", type=Path, nargs="+", required=True)
    parser.add_argument("--envs", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=[runtime.name for runtime in RUNTIMES], metavar="NAME")
    parser.add_argument("--page", type=Path, help="page whose first table is replaced")
    options = parser.parse_args()
    bundles = [open_bundle(path) for path in options.bundles]
    # Rows of the other runtimes are kept from the earlier result.
    earlier = msgspec.json.decode(options.out.read_bytes())["rows"] if options.only and options.out.exists() else []
    kept = {row["runtime"]: row for row in earlier}
    chosen = [runtime for runtime in RUNTIMES if runtime.name in (options.only or [one.name for one in RUNTIMES])]
    for runtime in chosen:
        kept[runtime.name] = of_runtime(runtime, bundles, options.envs)
    result = {
        "architecture": bundles[0].manifest.architecture.name,
        "views": len(bundles[0].manifest.views.crops),
        "images": bundles[0].manifest.golden.images.shape[0],
        "machine": processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "tools": tool_versions("onnx"),
        "rows": [kept[runtime.name] for runtime in RUNTIMES if runtime.name in kept],
    }
    record(options.out, result)
    if options.page is not None:
        options.page.write_text(with_table(options.page.read_text(), result["rows"]))


if __name__ == "__main__":
    main()
