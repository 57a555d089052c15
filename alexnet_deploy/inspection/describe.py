"""Runs, weights, graphs, bundles and measurements as text for a person."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from alexnet_deploy.core.bundle.accuracy import Accuracy, Gate
from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.bundle.manifest import ParityRow
from alexnet_deploy.core.bundle.plans import PlanRecord
from alexnet_deploy.core.confidence.chance import chance_error
from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.golden.record import GoldenFiles
from alexnet_deploy.core.inputs.labelled import VALIDATION_FOLDERS
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.preprocessing import Decoding
from alexnet_deploy.core.model.weights import ImportRecord, RecipeValue, StartRecord, TrainingRecord
from alexnet_deploy.core.process.say import counted, lines_about_excluded, printable
from alexnet_deploy.inspection.facts import BundleFacts, Facts, GraphFacts, PackFacts, RunFacts, WeightsFacts
from alexnet_deploy.inspection.table import Column, numbers, or_dash, text_table, words
from alexnet_deploy.report.wording import setting

if TYPE_CHECKING:
    from alexnet_deploy.train.data.scan import Survey
    from alexnet_deploy.train.data.source import LabelledSource


def describe(architecture: Architecture, until: str | None = None) -> str:
    """Return the table of layers: name, kind, output shape, parameters, and multiply-adds per view.

    The layer `until` is the last one; None for all.
    """
    costs = tuple(architecture.costs(until))
    lines = [f"{'layer':<16} {'kind':<14} {'output':<14} {'parameters':>12} {'multiply-adds':>15}"]
    for cost in costs:
        kind = type(cost.layer).__struct_config__.tag
        shape = " x ".join(str(size) for size in cost.out_shape)
        parameters = f"{cost.num_parameters:,}" if cost.num_parameters else ""
        work = f"{cost.num_multiply_adds:,}" if cost.num_multiply_adds else ""
        lines.append(f"{printable(cost.layer.name):<16} {kind!s:<14} {shape:<14} {parameters:>12} {work:>15}".rstrip())
    totals = f"{sum(cost.num_parameters for cost in costs):>12,} {sum(cost.num_multiply_adds for cost in costs):>15,}"
    lines.append(f"{printable(architecture.name):<16} {'total':<14} {'':<14} {totals}")
    return "\n".join(lines)


def describe_facts(facts: Facts, width: int | None = None) -> str:
    """Return a record of `inspect` as text; tables are at most `width` characters wide where possible."""
    match facts:
        case RunFacts():
            lines = _run_lines(facts)
        case WeightsFacts():
            lines = _weights_lines(facts)
        case BundleFacts():
            lines = _bundle_lines(facts, width)
        case GraphFacts():
            lines = _graph_lines(facts)
        case PackFacts():
            lines = _pack_lines(facts)
    return "\n".join(printable(line) for line in lines)


def describe_source(source: "LabelledSource") -> Iterator[str]:
    """Yield a line with the number of images and classes, and another if test/ is used for validation."""
    yield (
        f"{source.root}: {counted(len(source.train), 'training image')}, "
        f"{counted(len(source.validation), 'validation image')}, {_classes(source.class_names)}"
    )
    if source.validation_folder == VALIDATION_FOLDERS[-1]:
        yield f"no val/ next to train/: using {source.validation_folder}/ for validation"


def describe_excluded(excluded: Mapping[str, str]) -> Iterator[str]:
    """Return lines about the images that cannot be decoded; `excluded` maps names to error codes."""
    return lines_about_excluded(excluded.items())


def describe_suspicions(found: "Survey", *, is_balanced: bool = False) -> Iterator[str]:
    """Yield a line about duplicates in training and validation, and one if a class has over 3 times another's images.

    `is_balanced` means that the recipe already has balanced class weights.
    """
    from alexnet_deploy.train.pack.format import class_counts

    if found.duplicates:
        names = ", ".join(f"{other} = {one}" for one, other in found.duplicates[:_MOST_NAMED])
        more = ", ..." if len(found.duplicates) > _MOST_NAMED else ""
        images = counted(len(found.duplicates), "validation image")
        yield f"duplicates: {images} identical to a training image, so top-1 is too high: {names}{more}"
    counts, labels = class_counts(found.folder), found.folder.class_names
    most, least = max(counts), min(counts)
    if most > _IMBALANCE * least:
        line = (
            f"imbalanced classes: {counted(most, 'training image')} of {labels[counts.index(most)]}, {least:,} of "
            f"{labels[counts.index(least)]}"
        )
        advice = "; --set class_weights=balanced gives all classes the same weight"
        yield line if is_balanced else line + advice


_MOST_NAMED = 3
_IMBALANCE = 3

_LEAST_IMPORTANT = ("p99", "log error", "KL", "top-5", "n", "arithmetic", "images", "graph", "against")
"""Columns of parity_table in the order in which they are dropped on a narrow terminal."""


def parity_table(rows: Sequence[ParityRow], width: int | None = None) -> str:
    """Return the measured agreement of each engine as a table, without columns that are empty in all rows.

    With `width`, the least important columns that do not fit are dropped too; a verdict may still be longer.
    """
    has_accuracy = any(row.top1_accuracy is not None for row in rows)
    columns = [
        words("engine", (f"{row.backend} {row.version}" for row in rows)),
        words("graph", (row.precision for row in rows)),
        words("arithmetic", (row.arithmetic for row in rows)),
        words("against", (row.against for row in rows)),
        words("images", (row.images for row in rows)),
        numbers("n", (f"{row.num_images:,}" for row in rows)),
        numbers("max error", (f"{row.max_error:.1e}" for row in rows)),
        numbers("p99", (f"{row.p99_error:.1e}" for row in rows)),
        *_agreement_columns(rows),
        *([numbers("accuracy", (or_dash(row.top1_accuracy, ".1%") for row in rows))] if has_accuracy else []),
        numbers("ms", (or_dash(row.latency_ms, ".1f") for row in rows)),
    ]
    return text_table(columns, [_verdict(row) for row in rows], width=width, least_important=_LEAST_IMPORTANT)


def _agreement_columns(rows: Sequence[ParityRow]) -> Iterator[Column]:
    if any(isinstance(row.max_cosine_distance, float) for row in rows):
        yield numbers("cosine distance", (or_dash(row.max_cosine_distance, ".1e") for row in rows))
        return
    yield numbers("log error", (or_dash(row.max_log_error, ".1e") for row in rows))
    yield numbers("KL", (or_dash(row.kl_divergence, ".1e") for row in rows))
    yield numbers("top-1", (or_dash(row.top1_agreement, ".1%") for row in rows))
    yield numbers("top-5", (or_dash(row.top5_agreement, ".1%") for row in rows))


def _verdict(row: ParityRow) -> str:
    return "passed" if row.passed else f"FAILED: {printable('; '.join(row.failures))}"


def gate_words(gate: Gate, output: Output) -> str:
    """Return the result of the accuracy gate of an INT8 graph, as lines of text."""
    lines = [printable(f"{fallback.layer} moved back to float: {fallback.because}") for fallback in gate.fallbacks]
    if isinstance(found := gate.measured, Accuracy):
        low, high = found.interval_points
        lines.append(
            f"accuracy on {counted(found.num_images, 'image')}: top-1 {found.candidate_top1:.2%}, trained network "
            f"{found.reference_top1:.2%}: drop {found.drop_points:.2f} points, 95 % interval {low:.2f} to {high:.2f}, "
            f"{found.max_drop_points:g} allowed; {counted(len(found.flips), 'top-1 prediction')} changed"
        )
    elif output.layer is not None:
        lines.append(f"{found:.2%} of the calibration images have the trained network's features, within the tolerance")
    else:
        lines.append(
            f"accuracy was not measured; pass --data DIR to measure it. {found:.2%} of the "
            "calibration images have the trained network's top-1 prediction"
        )
    return "\n".join(lines)


def confidence_words(record: Confidence) -> str:
    """Return the effect of a bundle's temperature, as one line."""
    before, after = (found.expected_calibration_error for found in (record.before, record.after))
    chance = chance_error(record.after)
    images = counted(record.num_images, "validation image" if record.is_validation else "image")
    return (
        f"confidence on {images}: temperature {record.temperature:.3f}, calibration error {before:.2%} -> {after:.2%}, "
        f"{chance:.2%} expected by chance; loss {record.loss_before:.3f} -> {record.loss_after:.3f}; "
        f"{counted(record.num_changed, 'top-1 prediction')} changed"
    )


def describe_plan(record: PlanRecord) -> str:
    """Return one line that describes a plan."""
    profile = record.profile
    batches = f"batch {profile.min_batch} to {profile.max_batch}, optimised for {profile.opt_batch}"
    return f"{record.file}: {record.backend} {record.version} for {record.target}, {batches}, proof {record.proof}"


def _run_lines(run: RunFacts) -> Iterator[str]:
    state = "finished" if run.is_finished else "not finished"
    yield f"{run.path}: run of {run.architecture}, {counted(run.num_classes, 'class', 'classes')}, {state}"
    yield f"epochs        {run.epochs_done} of {run.epochs} done"
    if run.best_epoch is not None:
        yield f"best epoch    {run.best_epoch}: top-1 {run.best_top1:.2%}, centre view"
    yield f"trained on    {run.data}"
    yield f"recipe        {_recipe_words(run.recipe)}"
    yield f"weights       {run.weights or 'none: the first epoch is not complete'}"
    yield f"checkpoint    {run.checkpoint or 'none'}"
    yield f"metrics       {run.metrics or 'none'}"
    yield f"report        {run.report or 'none'}"
    yield f"next          {run.next}"


def _recipe_words(recipe: Mapping[str, RecipeValue]) -> str:
    """Return a recipe's name, and the values that differ from the built-in recipe of that name."""
    from alexnet_deploy.train.recipe import recipe_by_name, recipe_names, with_new_names

    recipe = with_new_names(recipe)
    name = str(recipe.get("name"))
    shipped = msgspec.structs.asdict(recipe_by_name(name)) if name in recipe_names() else {"name": name}
    changes = [f"{field} {setting(value)}" for field, value in recipe.items() if shipped.get(field) != value]
    return f"{name}, with {', '.join(changes)}" if changes else name


def interruption_words(training: TrainingRecord) -> str:
    """Return the progress of an interrupted run: `interrupted after 3 of 8 epochs`."""
    done, total = len(training.epochs), training.recipe.get("epochs")
    known = f"{done} of {counted(total, 'epoch')}" if isinstance(total, int) else counted(done, "epoch")
    return f"interrupted after {known}"


def _weights_lines(weights: WeightsFacts) -> Iterator[str]:
    yield f"{weights.path}: trained weights of {weights.architecture.name}, {_classes(weights.labels)}"
    yield f"sha-256       {weights.sha256}"
    yield f"labels        {_few(weights.labels)}"
    yield f"preprocessing {_facts(weights.preprocessing)}"
    yield f"made with     {_versions(weights.tools)}"
    if (training := weights.training) is not None:
        yield f"trained on    {training.data}, {counted(training.num_train, 'image')}"
        yield f"validated on  {counted(training.num_validation, 'image')}"
        yield f"recipe        {_recipe_words(training.recipe)}"
        if best := next((epoch for epoch in training.epochs if epoch.epoch == training.best_epoch), None):
            yield f"best epoch    {best.epoch} of {len(training.epochs)}: top-1 {best.validation_top1:.2%}, centre view"
        if training.interrupted:
            yield f"              training was {interruption_words(training)}"
        if training.start is not None:
            yield from _start_lines(training.start)
        for remark in training.remarks:
            yield f"remark        {remark}"
        for name, code in training.excluded.items():
            yield f"skipped       {name}: {code}"
    if weights.origin is not None:
        yield from _import_lines(weights.origin)
    yield ""
    yield from describe(weights.architecture).split("\n")


def _import_lines(record: ImportRecord) -> Iterator[str]:
    yield f"imported from {record.file}: {record.format}, SHA-256 {record.sha256}"
    for found in record.assumptions:
        yield f"assumed       {found.subject} {found.value} ({found.reason})"
    yield (
        f"agreement     with {record.referee}, on {counted(record.num_images, 'image')}: probabilities within "
        f"{record.max_error:.1e}"
    )


def _start_lines(record: StartRecord) -> Iterator[str]:
    yield f"started from  {record.file}, SHA-256 {record.sha256}"
    yield f"frozen        {', '.join(record.frozen) or 'no layer'}"
    yield f"new           {', '.join(record.new_layers) or 'no layer'}"
    if record.imported is not None:
        yield from _import_lines(record.imported)
    if record.start is not None:
        yield from _start_lines(record.start)


def _pack_lines(pack: PackFacts) -> Iterator[str]:
    from alexnet_deploy.train.pack.format import PackHeader

    header = pack.header
    assert isinstance(header, PackHeader)
    size = f"{pack.bytes / 1e9:,.2f} GB"
    yield f"{pack.path}: packed set of {counted(header.num_images, 'image')}, {_classes(header.labels)}, {size}"
    yield f"training      {counted(header.num_train, 'image')}"
    yield f"validation    {counted(header.num_validation, 'image')}"
    yield f"packed from   {header.source}"
    yield f"sha-256       {header.source_sha256} (of names and bytes; trained weights record the same)"
    yield f"labels        {_few(header.labels)}"
    yield f"resize        {header.resize}"
    yield f"decode        {header.image_policy.decode}"
    yield f"mean          {', '.join(f'{value:.2f}' for value in header.mean)}"
    yield f"made with     {_versions(header.tools)}"
    for name, code in header.excluded.items():
        yield f"skipped       {name}: {code}"


def _bundle_lines(bundle: BundleFacts, width: int | None) -> Iterator[str]:
    manifest, output = bundle.manifest, bundle.manifest.output
    returns = "" if output.layer is None else f", returns {output.size:,} {output.words}"
    what = f"{manifest.precision}, {manifest.architecture.name}, views {manifest.views.name}{returns}"
    yield f"{bundle.path}: bundle, {what}"
    yield f"sha-256       {bundle.sha256} (of manifest.json, which lists the digest of each file)"
    yield f"created       {manifest.created}"
    yield f"weights       {manifest.provenance.weights_sha256}"
    yield f"labels        {_few(bundle.labels)}"
    if isinstance(manifest.provenance.imported, ImportRecord):
        yield from _import_lines(manifest.provenance.imported)
    if isinstance(manifest.provenance.start, StartRecord):
        yield from _start_lines(manifest.provenance.start)
    yield f"preprocessing {_facts(manifest.preprocessing)}"
    if isinstance(manifest.decoding, Decoding):
        yield f"decoding      {_facts(manifest.decoding)}"
    yield f"made with     {_versions(manifest.tools)}"
    golden = manifest.golden.files
    golden_names = golden.names if isinstance(golden, GoldenFiles) else ()
    for name, entry in manifest.files.items():
        yield f"{'golden file' if name in golden_names else 'file':<13} {name} ({counted(entry.bytes, 'byte')})"
    if (quantization := manifest.quantization) is not None:
        calibration = quantization.calibration
        images = counted(calibration.num_images, "image")
        yield f"calibration   {images}, method {calibration.method}; rest {quantization.rest}"
        yield f"int8 ranges   {', '.join(f'{layer} {amax:.4g}' for layer, amax in quantization.ranges.items())}"
    if isinstance(manifest.confidence, Confidence):
        yield f"temperature   {manifest.confidence.temperature:.6g}, of the last layer"
    for record in manifest.plans:
        yield f"plan          {describe_plan(record)}"
    yield ""
    yield from parity_table(manifest.parity, width).split("\n")
    if manifest.gate is not None:
        yield from gate_words(manifest.gate, manifest.output).split("\n")
    if isinstance(manifest.confidence, Confidence):
        yield confidence_words(manifest.confidence)
    yield ""
    yield "planted fault, and its effect on the golden vectors in multiples of the tolerance"
    for fault, multiple in manifest.golden.separation.items():
        yield f"  {fault:<36} {multiple:>12,.1f}"
    yield ""
    yield from describe(manifest.architecture, manifest.output.layer).split("\n")


def _graph_lines(graph: GraphFacts) -> Iterator[str]:
    yield f"{graph.path}: ONNX graph {graph.name!r} by {graph.producer or 'an unknown program'}"
    yield f"opset         {', '.join(f'{domain} {version}'.strip() for domain, version in graph.opsets.items())}"
    yield f"size          {counted(graph.bytes, 'byte')}"
    yield f"nodes         {', '.join(f'{count} {kind}' for kind, count in graph.nodes.items())}"
    for key, value in graph.metadata.items():
        yield f"metadata      {key}: {value if len(value) <= 200 else f'{value[:200]}...'}"


def _classes(labels: Sequence[str]) -> str:
    return counted(len(labels), "class", "classes")


def _few(labels: tuple[str, ...]) -> str:
    return ", ".join(labels) if len(labels) <= 6 else f"{', '.join(labels[:5])}, ... ({len(labels)} in all)"


def _facts(record: msgspec.Struct) -> str:
    return ", ".join(f"{name} {value}" for name, value in msgspec.structs.asdict(record).items())


def _versions(tools: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tools.items())
