"""INT8 of this program beside that of NNCF and of ONNX Runtime's quantiser, and beside what the processor can do.

    pip install --target NNCF nncf
    python -m benchmarks.precision.int8 IMAGES --fp32 FP32.bundle --int8 INT8.bundle --nncf NNCF --out RESULT.json

The bundles are exports of the same weights, ten views. Every quantiser calibrates the same FP32 graph on the same
images; accuracy is measured on others. All graphs run alternately, `--rounds` times, in batches of four images, and the
medians are reported. `silicon` is the rate of multiply-adds on all threads that benchmarks/precision/peak.cpp reaches.
"""

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from alexnet_deploy.core.bundle.store import GRAPH, Bundle, open_bundle
from alexnet_deploy.core.images.batches import decode_batches
from alexnet_deploy.core.inputs.paths import find_inputs
from alexnet_deploy.core.process.machine import num_processors, processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.record import record

BATCH = 4
HERE = Path(__file__).parent

Run = Callable[[], np.ndarray]
"""Runs a graph on all test images and returns its probabilities, float32 (N, K)."""


def batches(images: np.ndarray) -> list[np.ndarray]:
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]


def on_openvino(model: openvino.Model, images: np.ndarray) -> Run:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    inputs = batches(images)

    def run() -> np.ndarray:
        results: dict[int, np.ndarray] = {}
        queue = openvino.AsyncInferQueue(compiled)
        queue.set_callback(lambda request, index: results.update({index: request.get_output_tensor(0).data.copy()}))
        for index, batch in enumerate(inputs):
            queue.start_async({0: batch}, index)
        queue.wait_all()
        return np.concatenate([results[index] for index in range(len(inputs))])

    return run


def on_onnxruntime(graph: bytes, images: np.ndarray) -> Run:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    inputs = batches(images)
    return lambda: np.concatenate([session.run(None, {"images": batch})[0] for batch in inputs])


def by_nncf(model: openvino.Model, images: np.ndarray) -> openvino.Model:
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(model, nncf.Dataset(batches(images)), subset_size=len(images) // BATCH)


class Calibration(CalibrationDataReader):
    def __init__(self, images: np.ndarray) -> None:
        self._batches: Iterator[dict[str, np.ndarray]] = iter([{"images": batch} for batch in batches(images)])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def by_onnxruntime(graph: bytes, images: np.ndarray, form: QuantFormat) -> bytes:
    with tempfile.TemporaryDirectory() as place:
        source, prepared, done = (str(Path(place) / name) for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        Path(source).write_bytes(graph)
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            done,
            Calibration(images),
            quant_format=form,
            op_types_to_quantize=["Conv", "Gemm", "MatMul", "MaxPool", "Relu"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # Without VNNI eight-bit products saturate.
            reduce_range=True,
        )
        onnx.checker.check_model(done)
        return Path(done).read_bytes()


def before_pools(graph: bytes) -> bytes:
    """Move each pair of QuantizeLinear and DequantizeLinear behind a MaxPool in front of it: the same values."""
    model = onnx.load_model_from_string(graph)
    nodes = list(model.graph.node)
    pools = {node.output[0]: node for node in nodes if node.op_type == "MaxPool"}
    for rounding in [node for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] in pools]:
        pool = pools[rounding.input[0]]
        back = next(node for node in nodes if node.input[0] == rounding.output[0])
        for node in nodes:
            node.input[:] = [pool.output[0] if name == back.output[0] else name for name in node.input]
        rounding.input[0], pool.input[0] = pool.input[0], back.output[0]
        for node in (rounding, back):
            nodes.remove(node)
            nodes.insert(nodes.index(pool), node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def silicon() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as place:
        program = f"{place}/peak"
        source = HERE / "peak.cpp"
        subprocess.run(["g++", "-O3", "-funroll-loops", "-pthread", "-w", source, "-o", program], check=True)
        command = [program, str(num_processors()), "2"]
        runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(3)]
    best: dict[str, object] = max(runs, key=lambda run: run["int8"]["multiply_adds_per_second"])
    return best


def compare(runs: dict[str, Run], num_images: int, rounds: int) -> dict[str, dict[str, float]]:
    probabilities = {name: run() for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - started)
            print(f"{name}: {times[name][-1]:.1f} s", file=sys.stderr)
    reference = probabilities["openvino fp32"]
    return {
        name: {
            "images_per_second": num_images / statistics.median(times[name]),
            "max_error": float(np.abs(found - reference).max()),
            "mean_error": float(np.abs(found - reference).mean()),
            "first_guess_as_fp32": float((found.argmax(1) == reference.argmax(1)).mean()),
        }
        for name, found in probabilities.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--fp32", type=Path, required=True)
    parser.add_argument("--int8", type=Path, required=True)
    parser.add_argument("--nncf", type=Path, required=True, help="Folder that nncf was installed to.")
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--number", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    # Last: it holds older versions of packages that are installed.
    sys.path.append(str(options.nncf))
    fp32, int8 = open_bundle(options.fp32), open_bundle(options.int8)
    if fp32.manifest.provenance.weights_sha256 != int8.manifest.provenance.weights_sha256:
        raise SystemExit(f"{options.int8}: made from other weights than {options.fp32}; export both from one file")
    images, calibration = (decoded(fp32, places, options.number) for places in (options.images, [options.calibrate]))
    graph, own = fp32.read(GRAPH), int8.read(GRAPH)
    core = openvino.Core()
    runs: dict[str, Run] = {
        "openvino fp32": on_openvino(core.read_model(graph), images),
        "openvino int8, NNCF's": on_openvino(by_nncf(core.read_model(graph), calibration), images),
        "openvino int8, ours": on_openvino(core.read_model(own), images),
        "openvino int8, ours before the pools": on_openvino(core.read_model(before_pools(own)), images),
        "onnxruntime fp32": on_onnxruntime(graph, images),
        "onnxruntime int8, ours": on_onnxruntime(own, images),
        "onnxruntime int8, ours before the pools": on_onnxruntime(before_pools(own), images),
        "onnxruntime int8, its own QDQ": on_onnxruntime(by_onnxruntime(graph, calibration, QuantFormat.QDQ), images),
        "onnxruntime int8, its own QOperator": on_onnxruntime(
            by_onnxruntime(graph, calibration, QuantFormat.QOperator), images
        ),
    }
    found = compare(runs, len(images), options.rounds)
    peak = silicon()
    per_image = fp32.manifest.architecture.num_multiply_adds * len(fp32.manifest.views.crops)
    record(
        options.out,
        {
            "architecture": fp32.manifest.architecture.name,
            "images": len(images),
            "calibration_images": len(calibration),
            "views": len(fp32.manifest.views.crops),
            "machine": processor(),
            "tools": tool_versions("onnxruntime", "openvino"),
            "rounds": options.rounds,
            "multiply_adds_per_image": per_image,
            "silicon": peak,
            "engines": found,
            "share_of_silicon": {
                name: row["images_per_second"] * per_image / peak[kind]["multiply_adds_per_second"]  # type: ignore[index]
                for name, row in found.items()
                for kind in ("fp32", "int8")
                if kind in name
            },
        },
    )


def decoded(bundle: Bundle, places: list[Path], number: int) -> np.ndarray:
    files = [found.path for found in islice(find_inputs(places), number)]
    return np.concatenate(list(decode_batches(files, bundle.manifest.preprocessing.image_policy)))


if __name__ == "__main__":
    main()
