"""Export: trained weights to a proved bundle, published completely or not at all."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.contract import Output, Subject, contract_for, output_of
from alexnet_deploy.core.bundle.layout import LAYOUT
from alexnet_deploy.core.bundle.manifest import (
    FEATURES_VERSION,
    FORMAT_VERSION,
    GOLDEN_SET,
    Manifest,
    ParityRow,
    Provenance,
    Views,
)
from alexnet_deploy.core.bundle.store import (
    GOLDEN_INDEX,
    GRAPH,
    LABELS,
    REPORT,
    Bundle,
    publishing,
)
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.confidence.temperature import as_published
from alexnet_deploy.core.errors import ExportError, ParityError, UsageError
from alexnet_deploy.core.golden.record import Golden
from alexnet_deploy.core.inputs.labelled import LabelledFolder
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.labels import encode_labels
from alexnet_deploy.core.model.preprocessing import DECODING
from alexnet_deploy.core.model.views import View, ViewsName, views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights, Weights
from alexnet_deploy.core.names import resume_words
from alexnet_deploy.core.process.say import Say
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.engines.proof.golden_files import prove_files
from alexnet_deploy.engines.proof.golden_index import golden_index
from alexnet_deploy.engines.proof.parity import compare, latency_of, prove
from alexnet_deploy.engines.proof.tolerances import TOLERANCES
from alexnet_deploy.engines.registry import GraphBackend, installed_backends
from alexnet_deploy.engines.tensorrt.build import NOBODY, BuildObserver, refuse_build
from alexnet_deploy.export.audit import audit_graph
from alexnet_deploy.export.calibration import refuse_beyond_half
from alexnet_deploy.export.graph import build_graph, encode_graph, facts_for_graph
from alexnet_deploy.pipeline.confidence.calibration import calibrate_confidence
from alexnet_deploy.pipeline.confidence.images import ConfidenceSource, confidence_images
from alexnet_deploy.pipeline.golden.vectors import GoldenVectors, golden_record, golden_vectors, write_golden
from alexnet_deploy.pipeline.inputs.labelled import holds_training_images, labelled_images
from alexnet_deploy.pipeline.int8.calibration import Int8Request
from alexnet_deploy.pipeline.int8.gate import Quantized, open_weights, quantize, refuse_request
from alexnet_deploy.pipeline.plans import PlanRequest, add_plan
from alexnet_deploy.report.bundle import render_report
from alexnet_deploy.report.page import Thumbnail


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """Options of an export."""

    precision: Precision = "fp32"
    views: ViewsName = "ten"
    output_layer: str | None = None
    """The layer whose features the graph returns, averaged over the views; None for probabilities."""
    int8: Int8Request | None = None
    """Options of an int8 export; None for the defaults."""
    data: Path | None = None
    """Folder of labelled images to measure int8's accuracy on; None: not measured."""
    confidence: ConfidenceSource | None = None
    """Images to calibrate confidence on; None: not calibrated."""
    plan: PlanRequest | None = None
    """A TensorRT plan to build into the bundle; None for none."""

    def refuse(self, architecture: Architecture) -> None:
        """Raise at once what export would raise before it runs the network: UsageError, BackendError."""
        if self.precision not in TOLERANCES:
            raise UsageError(f"{self.precision!r} is not a precision; choose from {', '.join(TOLERANCES)}")
        layer = output_of(architecture, self.output_layer).layer
        if layer is not None and (self.data is not None or self.confidence is not None):
            raise UsageError(
                f"accuracy and confidence need probabilities, but this bundle would return features of {layer}; leave "
                "out the labelled images, or the output layer"
            )
        if self.precision == "int8":
            refuse_request(architecture.costs(layer), self.int8 or Int8Request())
        elif self.int8 is not None or self.data is not None:
            raise UsageError(
                f"calibration and accuracy options apply to int8 only; {self.precision} is compared with the trained "
                "network"
            )
        if self.plan is not None:
            refuse_build(self.plan.backend, self.plan.options, self.plan.timing_cache)

    @property
    def computes_in_half(self) -> bool:
        """Whether any layer computes in float16, so that its activations must fit."""
        return self.precision == "fp16" or (self.precision == "int8" and (self.int8 or Int8Request()).rest == "fp16")


FP32 = ExportRequest()


def export(
    loaded: LoadedWeights,
    out: Path,
    request: ExportRequest = FP32,
    *,
    force: bool = False,
    observer: BuildObserver = NOBODY,
) -> Bundle:
    """Export trained weights as a bundle at `out`, prove it on every installed backend, and publish it.

    Nothing appears at `out` unless every backend agrees with the trained network and, in int8, the accuracy gate
    passes: see quantize. With images to calibrate confidence on, the trained network is the one with its temperature.

    Raises ParityError where a backend disagrees or the gate fails, UsageError for contradicting options and for weights
    of a run that was interrupted in its first epoch, BackendError where no engine is installed to prove it on or the
    plan cannot be built, ExportError and BundleError where the graph or the bundle cannot be made.
    """
    weights, precision, say = loaded.weights, request.precision, observer.say
    request.refuse(weights.architecture)
    _refuse_untrained(loaded)
    backends = installed_backends()
    crops = views_by_name(request.views, weights.architecture.input_size)
    folder = None if request.data is None else _accuracy_images(request.data, weights, say)
    judges = None if request.confidence is None else confidence_images(request.confidence, weights, say)
    with publishing(out, force=force, say=say) as stage:
        confidence = msgspec.UNSET if judges is None else calibrate_confidence(weights, crops, judges, say)
        weights = as_published(loaded, confidence).weights
        subject = Subject(weights=weights, views=crops, output_layer=request.output_layer)
        say("running the trained network on the golden images")
        vectors = golden_vectors(subject)
        rows = [] if precision == "fp32" else [_prove_fp32(subject, vectors, say)]
        if request.computes_in_half:
            center = views_by_name("center", weights.architecture.input_size)
            refuse_beyond_half(build_graph(weights, center, output_layer=request.output_layer), vectors.images)
        quantized = None
        if precision == "int8":
            quantized = quantize(subject, request.int8 or Int8Request(), data=folder, say=say)
        golden = golden_record(subject, vectors, precision)
        manifest = _manifest(loaded, request, crops, golden, quantized)
        manifest = msgspec.structs.replace(manifest, confidence=confidence)
        say("writing the graph")
        graph = _audited_graph(weights, manifest)
        stage.write(GRAPH, graph)
        stage.write(LABELS, encode_labels(weights.labels))
        write_golden(stage, vectors, golden, graph)
        stage.write(GOLDEN_INDEX, golden_index(manifest))
        rows += _prove(stage.candidate(manifest), backends, say)
        proved = msgspec.structs.replace(manifest, parity=tuple(rows))
        if request.plan is not None:
            proved = add_plan(stage, proved, graph, request.plan, observer)
        # The report states the sizes of the bundle's other files.
        proved = msgspec.structs.replace(proved, files=dict(stage.entries))
        stage.write(REPORT, _report(out.name, proved, weights, vectors, quantized))
        sealed = stage.seal(proved)
    return Bundle(path=out, manifest=sealed.manifest, sha256=sealed.sha256)


def _prove(candidate: Bundle, backends: Sequence[GraphBackend], say: Say) -> list[ParityRow]:
    """Return each backend's parity with the golden vectors; raises ParityError where one disagrees."""
    rows: list[ParityRow] = []
    for backend in backends:
        say(f"proving the bundle on {backend}")
        with open_engine(candidate, backend) as engine:
            rows.extend(prove(engine, candidate))
            rows.extend(prove_files(engine, candidate))
    _refuse_failures(rows)
    return rows


def _refuse_untrained(loaded: LoadedWeights) -> None:
    """Raise UsageError for the weights of a run that was interrupted in its first epoch: they are the initial ones."""
    training = loaded.weights.training
    if training is not None and training.interrupted and not training.epochs:
        raise UsageError(
            f"{loaded.path}: these weights are not trained: the run was interrupted in its first epoch; "
            f"{resume_words(loaded.path.parent)}"
        )


def _accuracy_images(data: Path, weights: Weights, say: Say) -> LabelledFolder:
    folder, _ = labelled_images(data, weights, "measure accuracy", say)
    if holds_training_images(folder.root, weights):
        say(f"{folder.root}: the network was trained on these images; accuracy on them is not representative")
    return folder


def _prove_fp32(subject: Subject, vectors: GoldenVectors, say: Say) -> ParityRow:
    """Compare the FP32 graph with the trained network, which it then stands in for."""
    say("proving the FP32 graph")
    with open_weights(subject) as engine:
        actual, latency_ms = engine.run(vectors.images), latency_of(engine, vectors.images[:1])
        row = compare(vectors.expected, actual, engine, GOLDEN_SET, latency_ms=latency_ms)
    _refuse_failures([row])
    return row


def _refuse_failures(rows: Sequence[ParityRow]) -> None:
    if failed := [row for row in rows if not row.passed]:
        reasons = "; ".join(_failed_words(row) for row in failed)
        raise ParityError(f"nothing was published: {reasons}")


def _failed_words(row: ParityRow) -> str:
    words = f"{row.backend}, {row.precision}: {', '.join(row.failures)}"
    # Only the engine's own rounding can fail here: the gate has already accepted the ranges.
    return f"{words}: this engine does not compute what its graph says" if row.against == "graph" else words


def _audited_graph(weights: Weights, manifest: Manifest) -> bytes:
    """Return the ONNX file of the graph, after an audit against the manifest's table."""
    crops, layer = manifest.views.crops, manifest.output.layer
    model = build_graph(weights, crops, manifest.precision, manifest.quantization, layer)
    graph = encode_graph(model, facts_for_graph(manifest, weights.labels))
    if problems := audit_graph(graph, manifest, weights.labels, weights.tensors, weights.mean_image):
        raise ExportError(f"the graph differs from the table: {'; '.join(problems)}")
    return graph


def _report(
    name: str,
    manifest: Manifest,
    weights: Weights,
    vectors: GoldenVectors,
    quantized: Quantized | None,
) -> bytes:
    return render_report(
        name=name,
        manifest=manifest,
        labels=weights.labels,
        training=weights.training,
        images=_golden_gallery(vectors.images, vectors.expected, weights.labels, manifest.output),
        histograms={} if quantized is None else quantized.histograms,
    )


def _manifest(
    loaded: LoadedWeights,
    request: ExportRequest,
    crops: tuple[View, ...],
    golden: Golden,
    quantized: Quantized | None,
) -> Manifest:
    weights = loaded.weights
    output = output_of(weights.architecture, request.output_layer)
    return Manifest(
        format_version=FORMAT_VERSION if output.layer is None else FEATURES_VERSION,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        precision=request.precision,
        contract=contract_for(output),
        architecture=weights.architecture,
        output_layer=output.layer or msgspec.UNSET,
        preprocessing=weights.preprocessing,
        decoding=DECODING,
        views=Views(name=request.views, crops=crops),
        layout=LAYOUT,
        quantization=None if quantized is None else quantized.quantization,
        provenance=Provenance(
            weights_sha256=loaded.sha256,
            data_sha256=None if weights.training is None else weights.training.data_sha256,
            imported=weights.origin or msgspec.UNSET,
            start=(weights.training and weights.training.start) or msgspec.UNSET,
        ),
        tools=tool_versions("torch", "onnx", "onnxruntime", "openvino"),
        golden=golden,
        parity=(),
        gate=None if quantized is None else quantized.gate,
        files={},
    )


def _golden_gallery(images: np.ndarray, outputs: np.ndarray, labels: Sequence[str], output: Output) -> list[Thumbnail]:
    gallery = []
    for number, (image, row) in enumerate(zip(images, outputs, strict=True), start=1):
        best = islice(np.argsort(-row, kind="stable"), 3 if output.layer is None else 0)
        predictions = tuple((labels[index], float(row[index])) for index in best)
        gallery.append(Thumbnail(caption=f"golden {number}", image=image, predictions=predictions, truth=None))
    return gallery
