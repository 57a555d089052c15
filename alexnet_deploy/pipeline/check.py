"""The check of an existing bundle: its bytes, its graph, its engines, and the whole chain from the trained network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Self

import numpy as np

from alexnet_deploy.core.bundle.contract import Subject
from alexnet_deploy.core.bundle.manifest import Manifest, ParityRow
from alexnet_deploy.core.bundle.store import GRAPH, Bundle
from alexnet_deploy.core.confidence.temperature import as_published
from alexnet_deploy.core.errors import UsageError, WrongAnswerError
from alexnet_deploy.core.golden.record import GoldenFiles
from alexnet_deploy.core.images.batches import decode_batches
from alexnet_deploy.core.inputs.labelled import LabelledFolder, find_labelled, is_labelled
from alexnet_deploy.core.inputs.paths import find_files
from alexnet_deploy.core.model.weights import LoadedWeights, Weights
from alexnet_deploy.core.process.say import Say, counted, printable, say_nothing
from alexnet_deploy.engines.engine import Device, Engine, open_engine
from alexnet_deploy.engines.graph_file import is_readable
from alexnet_deploy.engines.graph_guard import graph_problems
from alexnet_deploy.engines.proof.golden_files import DecoderRow, prove_decoder, prove_files
from alexnet_deploy.engines.proof.layers import LayerTable
from alexnet_deploy.engines.proof.parity import compare, prove, wrong_answer_row
from alexnet_deploy.engines.proof.tolerances import engine_tolerance, tolerance_of
from alexnet_deploy.engines.registry import BACKENDS, Backend, installed_module
from alexnet_deploy.engines.tensorrt.plan import backends_here
from alexnet_deploy.pipeline.plans import plan_problems

_MOST_NAMED = 20
"""Maximum number of files outside the manifest that are listed: a bundle may have been unpacked over many others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of a check."""

    rows: tuple[ParityRow, ...]
    """Parity of each engine with the golden vectors and, if weights were given, with the trained network."""
    problems: tuple[str, ...]
    """Differences between the bundle and its manifest or its weights."""
    not_done: tuple[str, ...]
    """Checks that were skipped, and how to enable them."""
    decoder: DecoderRow | None = None
    """Agreement of this program's decoder with the golden files; None if it was not run."""
    layers: tuple[LayerTable, ...] = ()
    """The layers of each engine that runs the graph; empty if they were not asked for."""

    @property
    def passed(self) -> bool:
        """True if every check that ran passed."""
        is_decoded = self.decoder is None or self.decoder.passed
        are_sound = all(table.fault is None for table in self.layers)
        return not self.problems and is_decoded and are_sound and all(row.passed for row in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparisonSet:
    """Image files to compare on, all of which must be readable."""

    files: tuple[Path, ...]
    truths: tuple[int, ...] | None = None
    """Their true classes, indices into the labels; None if unknown."""

    @classmethod
    def of(cls, folder: LabelledFolder) -> Self:
        """Return the images of a labelled folder, with their classes."""
        return cls(
            files=tuple(image.path for image in folder.images),
            truths=tuple(image.label for image in folder.images),
        )


def images_in(folder: Path, labels: Sequence[str]) -> ComparisonSet:
    """Return the images below a folder, with their classes where its folders are named after `labels`.

    Raises UsageError where there are none, DataError where a folder below it cannot be read.
    """
    if is_labelled(folder, labels):
        return ComparisonSet.of(find_labelled(folder, labels))
    files = tuple(find_files(folder))
    if not files:
        raise UsageError(f"{folder}: holds no images to compare on")
    return ComparisonSet(files=files)


def check(
    bundle: Bundle,
    *,
    backends: Sequence[Backend] | None = None,
    device: Device | Literal["auto"] = "auto",
    weights: LoadedWeights | None = None,
    images: ComparisonSet | None = None,
    with_layers: bool = False,
    say: Say = say_nothing,
) -> CheckResult:
    """Prove a bundle again: its bytes, its graph against its table, its engines against the golden vectors.

    This program's decoder must make the stored pixels of the golden files, to the bit.

    With the `weights` it was exported from, the whole chain is measured - trained network, FP32 graph, this graph on
    each engine - on the golden images and files and on `images`, and the graph's tensors are compared with the
    weights. The default `backends` are the installed ones that support the `device`; the trained network runs on the
    CPU. If the graph differs from its table, no engine is run.

    `with_layers` also runs each layer of the engines that run the graph, and names the first that is at fault; it needs
    onnx. Outputs cannot be added to plans.

    Raises IntegrityError for bytes that changed since publication, UsageError for weights of another bundle, images
    without weights or layers of plans alone, DataError for an image that cannot be read, BackendError where no engine
    is installed.
    """
    manifest = bundle.manifest
    if weights is not None and weights.sha256 != manifest.provenance.weights_sha256:
        raise UsageError(
            f"{weights.path}: SHA-256 is {weights.sha256[:12]}..., but {bundle.path} was exported from weights with "
            f"SHA-256 {manifest.provenance.weights_sha256[:12]}..."
        )
    if weights is not None:
        weights = as_published(weights, manifest.confidence)
    if images is not None and weights is None:
        raise UsageError("comparing on images needs the trained network: pass --weights too")
    if with_layers:
        _refuse_layers(backends)
    chosen = tuple(backends) if backends is not None else backends_here(bundle, device)
    say("verifying the bundle's bytes")
    bundle.verify()
    labels = bundle.labels
    found, not_done = _audit(bundle, labels, weights)
    problems = found + _unnamed_files(bundle) + _wrong_tolerances(manifest) + plan_problems(bundle)
    decoder = None
    if isinstance(manifest.golden.files, GoldenFiles):
        say("decoding the golden files")
        decoder = prove_decoder(bundle)
    else:
        not_done.append("no image file was decoded: the bundle has no golden files; export again to add them")
    if weights is None:
        not_done.append("the trained network was not run; pass --weights FILE to run it")
    else:
        problems += _compare_with_weights(manifest, labels, weights.weights)
    unrun = [record.file for record in manifest.plans if record.backend not in chosen]
    not_done += [f"{file} was not run: its library or GPU is missing" for file in unrun]
    if found:
        not_done.append("no engine was run: the graph differs from its table, and engines trust what they load")
    rows = [] if found else _rows(bundle, _chain(bundle, weights, chosen, device, say), images)
    tables = []
    if with_layers:
        files = [record.file for record in manifest.plans if record.backend in chosen]
        not_done += [f"the layers of {file} were not run: no output can be added to a plan" for file in files]
        tables = [] if found else _layers(bundle, weights, chosen, device, say)
    return CheckResult(
        rows=tuple(rows), problems=tuple(problems), not_done=tuple(not_done), decoder=decoder, layers=tuple(tables)
    )


def _refuse_layers(backends: Sequence[Backend] | None) -> None:
    """Raise where layers cannot be run, before the checks that take time."""
    # Without onnx it fails here.
    import_module("alexnet_deploy.pipeline.golden.layers")
    if backends is not None and not set(backends) & set(BACKENDS):
        raise UsageError(
            f"{' and '.join(backends)}: layers need outputs added to the graph, and a plan cannot get any; use "
            f"{' or '.join(BACKENDS)}"
        )


def _layers(
    bundle: Bundle,
    weights: LoadedWeights | None,
    backends: Sequence[Backend],
    device: Device | Literal["auto"],
    say: Say,
) -> list[LayerTable]:
    from alexnet_deploy.pipeline.golden.layers import check_layers

    trained = None if weights is None else weights.weights
    return list(check_layers(bundle, trained, backends, device, say))


def _rows(bundle: Bundle, chain: Iterator[Engine], images: ComparisonSet | None) -> list[ParityRow]:
    """Run each engine on the golden images, on the golden files and on `images`; close it."""
    rows: list[ParityRow] = []
    expected: np.ndarray | None = None
    for opened in chain:
        with opened as engine:
            rows.extend((*prove(engine, bundle), *prove_files(engine, bundle)))
            if images is not None:
                try:
                    actual = engine.run_all(decode_batches(images.files, bundle.manifest.preprocessing.image_policy))
                except WrongAnswerError as error:
                    rows.append(wrong_answer_row(error, engine, _words(images), len(images.files)))
                    continue
                # The first of the chain is the trained network.
                expected = actual if expected is None else expected
                rows.append(_compare_on(images, expected, actual, engine))
    return rows


def _chain(
    bundle: Bundle,
    weights: LoadedWeights | None,
    backends: Sequence[Backend],
    device: Device | Literal["auto"],
    say: Say,
) -> Iterator[Engine]:
    """Open in turn the trained network, its FP32 graph if this graph is not FP32, and this graph on each backend."""
    crops, layer = bundle.manifest.views.crops, bundle.manifest.output.layer
    if weights is not None:
        from alexnet_deploy.engines.backends.torch import open_reference

        say("running the trained network")
        yield open_reference(weights.weights, crops, output_layer=layer)
        if bundle.manifest.precision != "fp32" and _is_installed("onnx"):
            from alexnet_deploy.pipeline.int8.gate import open_weights

            say("proving its FP32 graph")
            yield open_weights(Subject(weights=weights.weights, views=crops, output_layer=layer))
    for backend in backends:
        say(f"proving the bundle on {backend}")
        yield open_engine(bundle, backend, device)


def _compare_on(images: ComparisonSet, expected: np.ndarray, actual: np.ndarray, engine: Engine) -> ParityRow:
    truths = None if images.truths is None else np.array(images.truths)
    return compare(expected, actual, engine, _words(images), truths=truths)


def _words(images: ComparisonSet) -> str:
    return f"{len(images.files)} given"


def _is_installed(module: str) -> bool:
    return installed_module([module]) is not None


def _audit(bundle: Bundle, labels: tuple[str, ...], weights: LoadedWeights | None) -> tuple[list[str], list[str]]:
    """Return where the graph differs from its table, and what could not be checked."""
    data = bundle.read(GRAPH)
    # First, and without onnx: a graph with these problems must not reach a parser.
    problems = list(graph_problems(data, bundle.manifest))
    if not _is_installed("onnx"):
        return problems, ["the graph's constants were not checked: onnx is not installed; run `pip install onnx`"]
    if not is_readable(data):
        return problems, []
    from alexnet_deploy.export.audit import audit_graph

    tensors, mean_image = (None, None) if weights is None else (weights.weights.tensors, weights.weights.mean_image)
    audited = list(audit_graph(data, bundle.manifest, labels, tensors, mean_image))
    # The audit reports everything that the first check does, and more.
    return audited or problems, []


def _unnamed_files(bundle: Bundle) -> list[str]:
    """Return one line for each file that was added after publication; only the first few are named."""
    unnamed = bundle.unnamed()
    problems = [
        f"{printable(name)}: is not in the manifest; remove it from the bundle" for name in unnamed[:_MOST_NAMED]
    ]
    if more := unnamed[_MOST_NAMED:]:
        problems.append(f"{counted(len(more), 'more file')} not in the manifest")
    return problems


def _wrong_tolerances(manifest: Manifest) -> list[str]:
    """Return where the bundle's tolerances differ from this program's."""
    own = manifest.golden.graph
    problems = []
    if manifest.golden.allowed != tolerance_of(manifest.precision, manifest.output):
        problems.append(f"golden.tolerance: differs from this program's tolerance for {manifest.precision}")
    if own is not None and own.allowed != engine_tolerance("int8", len(manifest.views.crops), manifest.output):
        problems.append("golden.graph.tolerance: differs from this program's tolerance for engines of an int8 graph")
    return problems


def _compare_with_weights(manifest: Manifest, labels: tuple[str, ...], weights: Weights) -> Iterator[str]:
    """Compare the manifest's description of the network with the weights."""
    if manifest.architecture != weights.architecture:
        yield "architecture: the manifest's table differs from the weights"
    if manifest.preprocessing != weights.preprocessing:
        yield "preprocessing: the manifest differs from the weights"
    if labels != weights.labels:
        yield "labels.txt: the labels or their order differ from the weights"
