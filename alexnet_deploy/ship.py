"""Weights to a verified bundle, published whole or not at all; and the check of one that is there."""

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from alexnet_deploy.core.ahead import decode_threads, map_ahead
from alexnet_deploy.core.bundle import (
    GOLDEN_IMAGES,
    GOLDEN_PROBABILITIES,
    GRAPH,
    LABELS,
    REPORT,
    Bundle,
    StagedBundle,
    publishing,
)
from alexnet_deploy.core.drawing import golden_pictures
from alexnet_deploy.core.errors import DataError, ExportError, ImageError, ParityError, UsageError
from alexnet_deploy.core.image import read_image
from alexnet_deploy.core.labels import encode_labels
from alexnet_deploy.core.manifest import (
    Golden,
    Manifest,
    ParityRow,
    Precision,
    Provenance,
    TensorFile,
    Tolerance,
    Views,
    contract_for,
)
from alexnet_deploy.core.preprocessing import ResizePolicy
from alexnet_deploy.core.versions import tool_versions
from alexnet_deploy.core.views import View, ViewsName, views_by_name
from alexnet_deploy.core.weights import LoadedWeights, Weights
from alexnet_deploy.engines.engine import Backend, Engine, installed_backends, open_engine
from alexnet_deploy.engines.parity import TOLERANCES, compare, prove, separation

if TYPE_CHECKING:
    from alexnet_deploy.report import Picture

_BATCH_SIZE = 16

Say = Callable[[str], None]
"""Takes one line about what is being done."""


def ship(
    loaded: LoadedWeights,
    out: Path,
    *,
    precision: Precision = "fp32",
    views: ViewsName = "ten",
    force: bool = False,
    say: Say = lambda line: None,
) -> Bundle:
    """Export trained weights as a bundle at `out`, prove it on every installed backend, and publish it.

    Nothing appears at `out` unless every backend agrees with the trained network. Raises ParityError where one does
    not, UsageError for a precision that is not made here, BackendError where there is none to prove it on, ExportError
    and BundleError where the graph or the bundle cannot be made.
    """
    if precision not in TOLERANCES:
        raise UsageError(f"precision {precision!r} is not made yet; there is {', '.join(TOLERANCES)}")
    backends = installed_backends()
    # Imported here: `check` of a bundle needs no torch, no onnx and no plotting.
    from alexnet_deploy.export.audit import audit_graph
    from alexnet_deploy.export.graph import build_graph, encode_graph, facts_for_graph
    from alexnet_deploy.report import render_report

    weights = loaded.weights
    crops = views_by_name(views, weights.architecture.input_size)
    with publishing(out, force=force) as stage:
        say("asking the trained network about the golden pictures")
        images = golden_pictures()
        expected = _reference_answers(weights, crops, images)
        golden = _golden(
            images, expected, TOLERANCES[precision], _separations(weights, crops, images, expected, precision)
        )
        manifest = _manifest(loaded, precision, Views(name=views, crops=crops), golden)
        say("writing the graph")
        graph = encode_graph(build_graph(weights, crops, precision), facts_for_graph(manifest, weights.labels))
        if problems := audit_graph(graph, manifest, weights.labels, weights.tensors):
            raise ExportError(f"the graph is not what the table says: {'; '.join(problems)}")
        _write(stage, graph, weights.labels, images, expected)
        candidate = stage.seal(manifest)
        rows = []
        for backend in backends:
            say(f"proving it on {backend}")
            with open_engine(candidate, backend) as engine:
                rows.append(prove(engine, candidate))
        if failed := [row for row in rows if not row.passed]:
            reasons = "; ".join(f"{row.backend}: {', '.join(row.failures)}" for row in failed)
            raise ParityError(f"nothing was published: {reasons}")
        proved = msgspec.structs.replace(manifest, parity=tuple(rows))
        pictures = _golden_gallery(images, expected, weights.labels)
        report = render_report(
            name=out.name, manifest=proved, labels=weights.labels, training=weights.training, pictures=pictures
        )
        stage.write(REPORT, report)
        sealed = stage.seal(proved)
    return Bundle(path=out, manifest=sealed.manifest, sha256=sealed.sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check found."""

    rows: tuple[ParityRow, ...]
    """Each engine against the golden vectors and, where weights were given, the trained network."""
    problems: tuple[str, ...]
    """What in the graph is not as the table says."""
    not_done: tuple[str, ...]
    """What could not be checked here, and what would make it possible."""

    @property
    def passed(self) -> bool:
        """True where nothing that was checked failed."""
        return not self.problems and all(row.passed for row in self.rows)


def check(
    bundle: Bundle,
    *,
    backends: Sequence[Backend] | None = None,
    weights: LoadedWeights | None = None,
    pictures: Iterable[Path] = (),
    say: Say = lambda line: None,
) -> CheckResult:
    """Prove a bundle again: its bytes, its graph against its table, its engines against the golden vectors.

    With the `weights` it was made from, the trained network itself joins: its tensors are compared with the graph's,
    and every engine with it on the golden pictures and on `pictures`, files that must all be readable. `backends`
    are those that are installed unless named. Raises IntegrityError for bytes that are not those published,
    UsageError for weights of another bundle or pictures without weights, DataError for a picture that cannot be read,
    BackendError where there is no engine.
    """
    manifest = bundle.manifest
    files = list(pictures)
    if weights is not None and weights.sha256 != manifest.provenance.weights_sha256:
        raise UsageError(
            f"{weights.path}: SHA-256 {weights.sha256[:12]}..., where {bundle.path} was made from "
            f"{manifest.provenance.weights_sha256[:12]}..."
        )
    if files and weights is None:
        raise UsageError("pictures are compared with the trained network: give its --weights as well")
    chosen = installed_backends() if backends is None else tuple(backends)
    say("verifying the bundle's bytes")
    bundle.verify()
    labels = bundle.labels
    problems, not_done = _audit(bundle, labels, weights)
    if weights is None:
        not_done = (*not_done, "the trained network was not asked; --weights FILE does that")
    else:
        problems = (*problems, *_compare_with_weights(manifest, labels, weights.weights))
    if manifest.golden.tolerance != TOLERANCES[manifest.precision]:
        problems = (*problems, f"golden.tolerance: is not what this program allows {manifest.precision}")
    resize = manifest.preprocessing.resize
    rows = []
    expected: np.ndarray | None = None
    if weights is not None:
        from alexnet_deploy.engines.torch_engine import open_reference

        say("asking the trained network")
        with open_reference(weights.weights, manifest.views.crops) as reference:
            rows.append(prove(reference, bundle))
            expected = _answers(reference, files, resize) if files else None
    for backend in chosen:
        say(f"proving it on {backend}")
        with open_engine(bundle, backend) as engine:
            rows.append(prove(engine, bundle))
            if expected is not None:
                actual = _answers(engine, files, resize)
                rows.append(compare(expected, actual, engine, TOLERANCES[manifest.precision], f"{len(files)} given"))
    return CheckResult(rows=tuple(rows), problems=problems, not_done=not_done)


def _audit(
    bundle: Bundle, labels: tuple[str, ...], weights: LoadedWeights | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what in the graph is not as its table says, and what could not be looked at."""
    if importlib.util.find_spec("onnx") is None:
        return (), ("the graph was not compared with its table; `pip install onnx` makes that possible",)
    from alexnet_deploy.export.audit import audit_graph

    tensors = None if weights is None else weights.weights.tensors
    return audit_graph(bundle.read(GRAPH), bundle.manifest, labels, tensors), ()


def _compare_with_weights(manifest: Manifest, labels: tuple[str, ...], weights: Weights) -> Iterator[str]:
    """Compare what the manifest says the network is with what the weights themselves say."""
    if manifest.architecture != weights.architecture:
        yield "architecture: the manifest's table is not that of the weights"
    if manifest.preprocessing != weights.preprocessing:
        yield "preprocessing: the manifest's is not that of the weights"
    if labels != weights.labels:
        yield "labels.txt: is not in the order of the weights' labels"


def _answers(engine: Engine, files: Sequence[Path], resize: ResizePolicy) -> np.ndarray:
    """Return the engine's probabilities for these files, a batch of pictures in memory at a time."""

    def read(path: Path) -> np.ndarray:
        try:
            return read_image(path, resize)
        except ImageError as error:
            raise DataError(f"{path}: cannot be compared on: {error}") from error

    images = map_ahead(read, files, threads=decode_threads(), ahead=2 * _BATCH_SIZE)
    batches = iter(lambda: list(islice(images, _BATCH_SIZE)), [])
    return np.concatenate([engine.run(np.stack(batch)) for batch in batches])


def _reference_answers(weights: Weights, crops: Sequence[View], images: np.ndarray) -> np.ndarray:
    from alexnet_deploy.engines.torch_engine import open_reference

    with open_reference(weights, crops) as reference:
        return reference.run(images)


def _separations(
    weights: Weights, crops: tuple[View, ...], images: np.ndarray, expected: np.ndarray, precision: Precision
) -> dict[str, float]:
    """Plant each known fault, and measure how far it moves the golden vectors."""
    from alexnet_deploy.engines.faults import Subject, planted_faults

    return {
        name: separation(expected, _reference_answers(faulty.weights, faulty.views, images), TOLERANCES[precision])
        for name, faulty in planted_faults(Subject(weights=weights, views=crops))
    }


def _golden(images: np.ndarray, expected: np.ndarray, tolerance: Tolerance, separations: dict[str, float]) -> Golden:
    return Golden(
        images=TensorFile(file=GOLDEN_IMAGES, dtype="uint8", shape=images.shape),
        probabilities=TensorFile(file=GOLDEN_PROBABILITIES, dtype="float32", shape=expected.shape),
        tolerance=tolerance,
        separation=separations,
    )


def _manifest(loaded: LoadedWeights, precision: Precision, views: Views, golden: Golden) -> Manifest:
    weights = loaded.weights
    return Manifest(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        precision=precision,
        contract=contract_for(weights.architecture.num_classes),
        architecture=weights.architecture,
        preprocessing=weights.preprocessing,
        views=views,
        provenance=Provenance(
            weights_sha256=loaded.sha256,
            data_sha256=None if weights.training is None else weights.training.data_sha256,
        ),
        tools=tool_versions("torch", "onnx", "onnxruntime", "openvino"),
        golden=golden,
        parity=(),
        files={},
    )


def _write(stage: StagedBundle, graph: bytes, labels: Sequence[str], images: np.ndarray, expected: np.ndarray) -> None:
    stage.write(GRAPH, graph)
    stage.write(LABELS, encode_labels(labels))
    stage.write(GOLDEN_IMAGES, images.tobytes())
    stage.write(GOLDEN_PROBABILITIES, expected.astype("<f4").tobytes())


def _golden_gallery(images: np.ndarray, probabilities: np.ndarray, labels: Sequence[str]) -> list["Picture"]:
    from alexnet_deploy.report import Picture

    gallery = []
    for number, (image, row) in enumerate(zip(images, probabilities, strict=True), start=1):
        best = islice(np.argsort(-row, kind="stable"), 3)
        guesses = tuple((labels[index], float(row[index])) for index in best)
        gallery.append(Picture(caption=f"golden {number}", image=image, guesses=guesses, truth=None))
    return gallery
