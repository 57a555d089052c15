"""The golden vectors and golden files that an export writes."""

from dataclasses import dataclass

import numpy as np
from msgspec import UNSET

from alexnet_deploy.core.bundle.contract import Subject, output_of
from alexnet_deploy.core.bundle.store import (
    GOLDEN_FILE_PIXELS,
    GOLDEN_FILES,
    GOLDEN_IMAGES,
    StagedBundle,
)
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.core.golden.files import GoldenFile, golden_files
from alexnet_deploy.core.golden.record import Golden, GoldenFiles, GoldenGraph, TensorFile
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.engines.backends.torch import open_reference
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.engines.proof.faults import planted_faults
from alexnet_deploy.engines.proof.parity import separation
from alexnet_deploy.engines.proof.tolerances import engine_tolerance, tolerance_of
from alexnet_deploy.export.reference import exact_answers


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenVectors:
    """The golden images and files of one network, with its outputs for them."""

    images: np.ndarray
    """uint8 (N, 256, 256, 3)."""
    expected: np.ndarray
    """The trained network's outputs for the images, float32 (N, K) or (N, D)."""
    files: tuple[GoldenFile, ...]
    files_expected: np.ndarray
    """The trained network's outputs for the pixels of the files, float32 (F, K) or (F, D)."""

    @property
    def pixels(self) -> np.ndarray:
        """The pixels of the files, uint8 (F, 256, 256, 3)."""
        return np.stack([file.pixels for file in self.files])


def golden_vectors(subject: Subject) -> GoldenVectors:
    """Run the trained network on the golden images and files.

    Raises BundleError for codecs that decode otherwise, ExportError for features that are all 0, which prove nothing.
    """
    images, files = golden_images(), golden_files(subject.weights.preprocessing.image_policy)
    with _reference(subject) as reference:
        expected = reference.run(images)
        if not expected.any():
            raise ExportError(
                f"all features of {subject.output_layer} are 0 on the golden images, which proves nothing; choose "
                "another --output-layer"
            )
        return GoldenVectors(
            images=images,
            expected=expected,
            files=files,
            files_expected=reference.run(np.stack([file.pixels for file in files])),
        )


def golden_record(subject: Subject, vectors: GoldenVectors, precision: Precision) -> Golden:
    """Describe the golden vectors, with the measured error that each planted fault causes."""
    output = output_of(subject.weights.architecture, subject.output_layer)
    tightest = engine_tolerance(precision, len(subject.views), output)
    graph = None
    if precision == "int8":
        graph = GoldenGraph.of(_outputs_file(f"graph_{output.name}", vectors.expected), tightest)
    of_files = _outputs_file(f"file_{output.name}", vectors.files_expected)
    return Golden.of(
        TensorFile(file=GOLDEN_IMAGES, dtype="uint8", shape=vectors.images.shape),
        _outputs_file(output.name, vectors.expected),
        tolerance_of(precision, output),
        graph=graph,
        separation={
            name: separation(vectors.expected, _answers(faulty, vectors.images), tightest)
            for name, faulty in planted_faults(subject)
        },
        files=GoldenFiles(
            names=tuple(f"{GOLDEN_FILES}/{file.name}" for file in vectors.files),
            pixels=TensorFile(file=GOLDEN_FILE_PIXELS, dtype="uint8", shape=vectors.pixels.shape),
            probabilities=UNSET if output.layer is not None else of_files,
            features=of_files if output.layer is not None else UNSET,
        ),
    )


def write_golden(stage: StagedBundle, vectors: GoldenVectors, golden: Golden, graph: bytes) -> None:
    """Write the golden vectors and files that `golden` describes; `graph` is the ONNX file of the bundle."""
    written: dict[str, bytes] = {
        GOLDEN_IMAGES: vectors.images.tobytes(),
        golden.expected.file: _raw(vectors.expected),
        GOLDEN_FILE_PIXELS: vectors.pixels.tobytes(),
    }
    answers = vectors.files_expected
    if golden.graph is not None:
        written[golden.graph.expected.file] = _raw(exact_answers(graph, vectors.images))
        answers = exact_answers(graph, vectors.pixels)
    assert isinstance(golden.files, GoldenFiles), "every export writes golden files"
    written[golden.files.expected.file] = _raw(answers)
    written |= {f"{GOLDEN_FILES}/{file.name}": file.data for file in vectors.files}
    for name, data in written.items():
        stage.write(name, data)


def _answers(subject: Subject, images: np.ndarray) -> np.ndarray:
    with _reference(subject) as reference:
        return reference.run(images)


def _reference(subject: Subject) -> Engine:
    return open_reference(subject.weights, subject.views, output_layer=subject.output_layer)


def _outputs_file(name: str, outputs: np.ndarray) -> TensorFile:
    return TensorFile(file=f"golden/{name}.f32", dtype="float32", shape=outputs.shape)


def _raw(values: np.ndarray) -> bytes:
    return values.astype("<f4").tobytes()
