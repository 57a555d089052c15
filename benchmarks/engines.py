"""How fast each engine answers, ten views a picture, and what the views inside the graph cost it.

    python benchmarks/engines.py --weights runs/X/weights.safetensors --out benchmarks/results/engines-MACHINE.json

Every engine runs the same eight pictures in one process, each figure the median of `--repeats` runs after one that is
not counted. The network alone is the same graph from its views on, fed ready views, timed in turn with the whole.
"""

import argparse
import json
import os
import platform
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
from onnx import TensorProto, helper

from alexnet_deploy.core.bundle import GRAPH, Bundle
from alexnet_deploy.core.drawing import golden_pictures
from alexnet_deploy.core.versions import tool_versions
from alexnet_deploy.core.weights import load_weights
from alexnet_deploy.engines.engine import BACKENDS, Engine, open_engine
from alexnet_deploy.engines.torch_engine import open_reference
from alexnet_deploy.export.graph import VIEWS
from alexnet_deploy.ship import ship


def seconds(run: Callable[[], object]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def median_seconds(run: Callable[[], object], repeats: int) -> float:
    run()
    return statistics.median(seconds(run) for _ in range(repeats))


def median_ratio(run: Callable[[], object], other: Callable[[], object], repeats: int) -> float:
    """Of the two timed in turn, so that a machine whose speed drifts slows both."""
    run(), other()
    return statistics.median(seconds(run) / seconds(other) for _ in range(repeats))


def network_alone(bundle: Bundle) -> bytes:
    """The bundle's graph from its views on."""
    model = onnx.load_model_from_string(bundle.read(GRAPH))
    names = [node.name for node in model.graph.node]
    kept = list(model.graph.node[names.index(VIEWS) + 1 :])
    used = {name for node in kept for name in node.input}
    constants = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.node[:], model.graph.input[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(constants)
    size = bundle.manifest.architecture.input_size
    model.graph.input.append(helper.make_tensor_value_info(VIEWS, TensorProto.FLOAT, ["M", 3, size, size]))
    return bytes(model.SerializeToString())


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
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    loaded = load_weights(options.weights)
    images = golden_pictures()
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = ship(loaded, Path(folder) / "measured.bundle")
        crops = bundle.manifest.views.crops
        with open_reference(loaded.weights, crops) as reference:
            rows["torch"] = measure(reference, images, options.repeats)
        size = loaded.weights.architecture.input_size
        views = np.random.default_rng(0).standard_normal((len(images) * len(crops), 3, size, size), dtype=np.float32)
        graph = network_alone(bundle)
        for backend in BACKENDS:
            with open_engine(bundle, backend) as engine:
                rows[backend] = measure(engine, images, options.repeats)
                network = partial(alone(backend, graph), views)
                ratio = median_ratio(partial(engine.run, images), network, options.repeats)
                rows[backend]["views_cost"] = ratio - 1
    result = {
        "architecture": loaded.weights.architecture.name,
        "precision": "fp32",
        "views": len(crops),
        "batch": len(images),
        "repeats": options.repeats,
        "machine": f"{platform.machine()}, {os.cpu_count()} threads",
        "tools": tool_versions("torch", "onnxruntime", "openvino"),
        "engines": {
            name: {**row, "speed_against_torch": rows["torch"]["seconds"] / row["seconds"]}
            for name, row in rows.items()
        },
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
