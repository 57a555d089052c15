"""Throughput and latency of each engine in each precision with ten views, and the cost of the views in the graph.

    python -m benchmarks.precision.engines --weights runs/X/weights.safetensors --out RESULT.json

INT8 is calibrated on the training images that the weights name, or on --calibrate. Every engine runs the same eight
images in one process; each figure is the median of `--repeats` runs after one warm-up run. The network alone is the
part of the graph after the views, with prepared views as input; its runs alternate with runs of the whole graph.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import helper

from alexnet_deploy.core.bundle.layout import VIEWS
from alexnet_deploy.core.bundle.store import GRAPH, Bundle
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.engines.backends.torch import open_reference
from alexnet_deploy.engines.engine import Engine, open_engine
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.pipeline.export import ExportRequest, export
from alexnet_deploy.pipeline.int8.calibration import Int8Request
from benchmarks.record import record


def seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    return statistics.median(seconds(run) for _ in range(repeats))


def median_ratio(run: Callable[[], object], other: Callable[[], object], repeats: int) -> float:
    """Median ratio of two alternating runs, so that a drift of the machine's speed affects both."""
    run(), other()
    return statistics.median(seconds(run) / seconds(other) for _ in range(repeats))


def network_alone(bundle: Bundle) -> tuple[bytes, np.dtype]:
    """The part of the bundle's graph after the views, and the dtype of its input."""
    model = onnx.load_model_from_string(bundle.read(GRAPH))
    inferred = onnx.shape_inference.infer_shapes(model).graph
    views_type = next(info.type.tensor_type.elem_type for info in inferred.value_info if info.name == VIEWS)
    names = [node.name for node in model.graph.node]
    kept = list(model.graph.node[names.index(VIEWS) + 1 :])
    used = {name for node in kept for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.input[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(constants)
    size = bundle.manifest.architecture.input_size
    model.graph.input.append(helper.make_tensor_value_info(VIEWS, views_type, ["M", 3, size, size]))
    return bytes(model.SerializeToString()), helper.tensor_dtype_to_np_dtype(views_type)


def alone(backend: str, graph: bytes) -> Callable[[np.ndarray], object]:
    if backend == "onnxruntime":
        session = onnxruntime.InferenceSession(graph)
        return lambda views: session.run(None, {VIEWS: views})
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(core.read_model(graph), "CPU", settings).create_infer_request()
    return lambda views: request.infer({VIEWS: views}, share_inputs=True)


def measure(engine: Engine, images: np.ndarray, repeats: int) -> dict[str, float]:
    full = median_seconds(lambda: engine.run(images), repeats)
    single = median_seconds(lambda: engine.run(images[:1]), repeats)
    return {"images_per_second": len(images) / full, "batch_1_ms": 1e3 * single, "seconds": full}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calibrate", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    loaded = load_weights(options.weights)
    images = golden_images()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("fp32", "fp16", "int8"):
            request = Int8Request(calibrate=options.calibrate) if precision == "int8" else None
            bundle = export(
                loaded, Path(folder) / f"{precision}.bundle", ExportRequest(precision=precision, int8=request)
            )
            crops = bundle.manifest.views.crops
            if precision == "fp32":
                with open_reference(loaded.weights, crops) as reference:
                    rows.append({"engine": "torch", "precision": "fp32", **measure(reference, images, options.repeats)})
            rows += measure_precision(bundle, images, options.repeats)
    for row in rows:
        row["speed_against_torch"] = rows[0]["seconds"] / row["seconds"]
    result = {
        "architecture": loaded.weights.architecture.name,
        "views": len(crops),
        "batch": len(images),
        "repeats": options.repeats,
        "machine": processor(),
        "tools": tool_versions("torch", "onnxruntime", "openvino"),
        "rows": rows,
    }
    record(options.out, result)


def measure_precision(bundle: Bundle, images: np.ndarray, repeats: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    graph, dtype = network_alone(bundle)
    size = bundle.manifest.architecture.input_size
    shape = (len(images) * len(bundle.manifest.views.crops), 3, size, size)
    numbers = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    views = np.rint(40 * numbers).clip(-127, 127).astype(dtype) if dtype == np.int8 else numbers.astype(dtype)
    for backend in BACKENDS:
        with open_engine(bundle, backend) as engine:
            network = partial(alone(backend, graph), views)
            rows.append(
                {
                    "engine": backend,
                    "precision": bundle.manifest.precision,
                    **measure(engine, images, repeats),
                    "views_cost": median_ratio(partial(engine.run, images), network, repeats) - 1,
                    "graph_bytes": bundle.manifest.files[GRAPH].bytes,
                }
            )
    return rows


if __name__ == "__main__":
    main()
