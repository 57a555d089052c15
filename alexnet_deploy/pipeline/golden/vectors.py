"""The golden vectors and golden files that an export writes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.bundle.manifest import Golden, GoldenFiles, GoldenGraph, TensorFile
from alexnet_deploy.core.bundle.store import (
    GOLDEN_FILE_PIXELS,
    GOLDEN_FILE_PROBABILITIES,
    GOLDEN_FILES,
    GOLDEN_GRAPH_PROBABILITIES,
    GOLDEN_IMAGES,
    GOLDEN_PROBABILITIES,
    StagedBundle,
)
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.golden.files import GoldenFile, golden_files
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.views import View
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.engines.backends.torch import open_reference
from alexnet_deploy.engines.proof.faults import Subject, planted_faults
from alexnet_deploy.engines.proof.parity import TOLERANCES, int8_graph_tolerance, separation
from alexnet_deploy.export.reference import exact_answers


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenVectors:
    """The golden images and files of one network, with its outputs for them."""

    images: np.ndarray
    """uint8 (N, 256, 256, 3)."""
    expected: np.ndarray
    """The trained network's probabilities for the images, float32 (N, K)."""
    files: tuple[GoldenFile, ...]
    files_expected: np.ndarray
    """The trained network's probabilities for the pixels of the files, float32 (F, K)."""

    @property
    def pixels(self) -> np.ndarray:
        """The pixels of the files, uint8 (F, 256, 256, 3)."""
        return np.stack([file.pixels for file in self.files])


def golden_vectors(weights: Weights, crops: Sequence[View]) -> GoldenVectors:
    """Run the trained network on the golden images and files; raises BundleError for codecs that decode otherwise."""
    images, files = golden_images(), golden_files(weights.preprocessing.resize)
    with open_reference(weights, crops) as reference:
        return GoldenVectors(
            images=images,
            expected=reference.run(images),
            files=files,
            files_expected=reference.run(np.stack([file.pixels for file in files])),
        )


def golden_record(weights: Weights, crops: tuple[View, ...], vectors: GoldenVectors, precision: Precision) -> Golden:
    """Describe the golden vectors, with the measured error that each planted fault causes."""
    expected, pixels = vectors.expected, vectors.pixels
    graph = None
    if precision == "int8":
        own = TensorFile(file=GOLDEN_GRAPH_PROBABILITIES, dtype="float32", shape=expected.shape)
        graph = GoldenGraph(probabilities=own, tolerance=int8_graph_tolerance(len(crops)))
    tightest = TOLERANCES[precision] if graph is None else graph.tolerance
    return Golden(
        images=TensorFile(file=GOLDEN_IMAGES, dtype="uint8", shape=vectors.images.shape),
        probabilities=TensorFile(file=GOLDEN_PROBABILITIES, dtype="float32", shape=expected.shape),
        tolerance=TOLERANCES[precision],
        graph=graph,
        separation={
            name: separation(expected, _answers(faulty, vectors.images), tightest)
            for name, faulty in planted_faults(Subject(weights=weights, views=crops))
        },
        files=GoldenFiles(
            names=tuple(f"{GOLDEN_FILES}/{file.name}" for file in vectors.files),
            pixels=TensorFile(file=GOLDEN_FILE_PIXELS, dtype="uint8", shape=pixels.shape),
            probabilities=TensorFile(
                file=GOLDEN_FILE_PROBABILITIES, dtype="float32", shape=vectors.files_expected.shape
            ),
        ),
    )


def write_golden(stage: StagedBundle, vectors: GoldenVectors, golden: Golden, graph: bytes) -> None:
    """Write the golden vectors and files that `golden` describes; `graph` is the ONNX file of the bundle."""
    written: dict[str, bytes] = {
        GOLDEN_IMAGES: vectors.images.tobytes(),
        GOLDEN_PROBABILITIES: _raw(vectors.expected),
        GOLDEN_FILE_PIXELS: vectors.pixels.tobytes(),
    }
    answers = vectors.files_expected
    if golden.graph is not None:
        written[golden.graph.probabilities.file] = _raw(exact_answers(graph, vectors.images))
        answers = exact_answers(graph, vectors.pixels)
    written[GOLDEN_FILE_PROBABILITIES] = _raw(answers)
    written |= {f"{GOLDEN_FILES}/{file.name}": file.data for file in vectors.files}
    for name, data in written.items():
        stage.write(name, data)


def _answers(subject: Subject, images: np.ndarray) -> np.ndarray:
    with open_reference(subject.weights, subject.views) as reference:
        return reference.run(images)


def _raw(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()
