"""The parity report: one self-contained HTML page about a bundle and its network."""

from collections.abc import Mapping, Sequence

from alexnet_deploy.core.bundle.accuracy import Accuracy
from alexnet_deploy.core.bundle.manifest import GOLDEN_FILES_SET, GOLDEN_SET, Manifest, ParityRow
from alexnet_deploy.core.bundle.vocabulary import PLAN_BACKENDS
from alexnet_deploy.core.golden.record import AnyTolerance, FeatureTolerance
from alexnet_deploy.core.model.weights import TrainingRecord
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.engines.proof.parity import least_agreement
from alexnet_deploy.engines.proof.tolerances import LEAST_INT8_AGREEMENT, tolerance_of
from alexnet_deploy.export.calibration import Histogram
from alexnet_deploy.report import wording
from alexnet_deploy.report.charts import fault_chart
from alexnet_deploy.report.figures.reliability import confidence_part
from alexnet_deploy.report.int8 import int8_part
from alexnet_deploy.report.page import Thumbnail, Verdict, render_page
from alexnet_deploy.report.training import training_part
from alexnet_deploy.report.wording import points, short


def render_report(
    *,
    name: str,
    manifest: Manifest,
    labels: Sequence[str],
    training: TrainingRecord | None,
    images: Sequence[Thumbnail],
    histograms: Mapping[str, Histogram] | None = None,
) -> bytes:
    """Return one self-contained HTML page, UTF-8: the proof, the training, the images and the layers of a bundle.

    `labels` are the K class names in the order of the probabilities; `training` is None if unknown. `histograms` are
    the calibration histograms of an int8 graph, by layer; None if not available. The page makes no request and
    contains no script, every name in it is escaped, and the same input gives the same bytes.
    """
    layers = tuple(manifest.architecture.costs(manifest.output.layer))
    return render_page(
        "report.html.jinja",
        name=name,
        manifest=manifest,
        verdict=_verdict(manifest),
        stages=_stages(manifest),
        tolerances=_tolerances(manifest),
        least_int8_agreement=LEAST_INT8_AGREEMENT,
        has_graph=any(row.against == "graph" for row in manifest.parity),
        has_accuracy=any(row.top1_accuracy is not None for row in manifest.parity),
        has_latency=any(row.latency_ms is not None for row in manifest.parity),
        int8=int8_part(manifest, histograms or {}),
        confidence=confidence_part(manifest),
        faults=fault_chart(manifest.golden.separation),
        labels=labels,
        training=training_part(training, labels) if training is not None else None,
        images=images,
        layers=layers,
        num_parameters=sum(cost.num_parameters for cost in layers),
        num_multiply_adds=sum(cost.num_multiply_adds for cost in layers),
    )


def _tolerance(manifest: Manifest, row: ParityRow) -> AnyTolerance:
    """Return the tolerance of a row: the bundle's for its own precision, this program's for any other."""
    if row.against == "graph":
        assert manifest.golden.graph is not None, "only int8 bundles have such rows"
        return manifest.golden.graph.allowed
    is_own = row.precision == manifest.precision
    return manifest.golden.allowed if is_own else tolerance_of(row.precision, manifest.output)


def _tolerances(manifest: Manifest) -> dict[str, AnyTolerance]:
    """Return each tolerance by what it applies to; the bundle's own graph first."""
    found = {f"{manifest.precision} graph": manifest.golden.allowed}
    for row in manifest.parity:
        graph = f"{row.precision} graph"
        what = graph if row.against == "network" else f"engine against its {graph}"
        found.setdefault(what, _tolerance(manifest, row))
    return found


def _holds(row: ParityRow, manifest: Manifest) -> bool:
    # A row without failures is compared with the tolerance again, so that NaN fails here too.
    return row.passed and row.max_error <= _allowed_error(_tolerance(manifest, row))


def _allowed_error(tolerance: AnyTolerance) -> float:
    return tolerance.error if isinstance(tolerance, FeatureTolerance) else tolerance.probability


def _stages(manifest: Manifest) -> dict[str, list[tuple[ParityRow, bool]]]:
    """Return the stages of the chain that have rows, by name, each with its rows and whether each row passes."""
    names = ("Trained network", "FP32 graph", "FP16 graph", "INT8 graph", "This graph", "Plans")
    stages: dict[str, list[tuple[ParityRow, bool]]] = {name: [] for name in names}
    for row in manifest.parity:
        if row.backend == "torch":
            name = "Trained network"
        elif row.backend in PLAN_BACKENDS:
            name = "Plans"
        else:
            name = "This graph" if row.precision == manifest.precision else f"{row.precision.upper()} graph"
        stages[name].append((row, _holds(row, manifest)))
    return {name: rows for name, rows in stages.items() if rows}


def _verdict(manifest: Manifest) -> Verdict:
    rows, allowed = manifest.parity, _allowed_error(manifest.golden.allowed)
    refusal = "This engine disagrees with the trained network:"
    if num_failed := sum(not _holds(row, manifest) for row in rows):
        return Verdict(words=f"{refusal} {num_failed} of {counted(len(rows), 'comparison')} failed.", holds=False)
    cost, is_affordable = _cost(manifest)
    if not is_affordable:
        return Verdict(words=f"{refusal} {cost}.", holds=False)
    of_this = [row for row in rows if row.precision == manifest.precision and row.backend != "torch"]
    own = [row for row in of_this if row.against == "network"]
    if not own:
        return Verdict(words="Not proved yet: no engine has run the golden images.", holds=None)
    numbers = {row.images: row.num_images for row in own}
    golden, files = numbers.pop(GOLDEN_SET, 0), numbers.pop(GOLDEN_FILES_SET, 0)
    sets = ((golden, "golden image"), (files, "golden file"), (sum(numbers.values()), "image"))
    parts = [counted(number, what) for number, what in sets if number]
    words = (
        "This engine agrees with the trained network: max error "
        f"{short(max(row.max_error for row in own))} over {' and '.join(parts)} on "
        f"{counted(len({row.backend for row in own}), 'engine')}, tolerance {short(allowed)}."
    )
    return Verdict(words=f"{words} In int8, {cost}." if cost else words, holds=True)


def _cost(manifest: Manifest) -> tuple[str, bool]:
    """Return a description of an int8 graph's accuracy gate, empty if it has none, and whether the gate passed."""
    gate, quantization = manifest.gate, manifest.quantization
    if gate is None or quantization is None:
        return "", True
    if isinstance(found := gate.measured, Accuracy):
        change = "gains" if found.drop_points < 0 else "loses"
        words = (
            f"it {change} {points(abs(found.drop_points))} points of top-1 on {counted(found.num_images, 'image')} "
            f"(limit: a drop of {found.max_drop_points:g})"
        )
        return words, found.passed
    needed = least_agreement(LEAST_INT8_AGREEMENT, quantization.calibration.num_images)
    what = "top-1 prediction" if manifest.output.layer is None else "features"
    words = f"{wording.percent(found)} of the calibration images keep their {what}"
    return words, found >= needed
