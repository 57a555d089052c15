"""Reference outputs of a graph by ONNX's definition of the operators, without fusion or reordering.

Engines reorder an INT8 graph and round at other places than the graph defines; their outputs are compared with these.
"""

import numpy as np
import onnxruntime

from alexnet_deploy.core.bundle.contract import IMAGES

_IMAGES_AT_ONCE = 2


def exact_answers(graph: bytes, images: np.ndarray) -> np.ndarray:
    """Return the graph's output, float32 (N, K) or (N, D), for images, uint8 (N, 256, 256, 3), on one CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    parts = np.split(images, range(_IMAGES_AT_ONCE, len(images), _IMAGES_AT_ONCE))
    return np.concatenate([session.run(None, {IMAGES: part})[0] for part in parts])
