"""Third-party networks in memory: layers and tensors without a file."""

from pathlib import Path

import numpy as np

from alexnet_deploy.export.importing.source import Source, SourceLayer, SourcePreprocessing


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def source(*layers: SourceLayer, **tensors: np.ndarray) -> Source:
    return Source(
        path=Path("x"),
        sha256="",
        format="",
        tensors=tensors,
        layers=layers,
        preprocessing=SourcePreprocessing(),
        labels=None,
    )
