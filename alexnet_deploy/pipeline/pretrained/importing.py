"""Import: a third-party file to a weights file, proved against the source file before anything is written."""

from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.core.errors import OutputError
from alexnet_deploy.core.fs.run_files import WEIGHTS
from alexnet_deploy.core.model.weights import AssumptionRecord, ImportRecord, LoadedWeights, Weights, load_weights
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.proof import Agreement, prove
from alexnet_deploy.export.importing.recognise import Recognised, recognise
from alexnet_deploy.export.importing.registry import Format, find_format
from alexnet_deploy.export.importing.source import Assumption


@dataclass(frozen=True, slots=True, kw_only=True)
class Understood:
    """A file that was read, recognised and proved."""

    recognised: Recognised
    format: Format
    agreement: Agreement


def understand(path: Path, overrides: Overrides, *, say: Say = say_nothing) -> Understood:
    """Read a file, recognise its architecture and compare our network with the file; write nothing.

    Raises WeightsError where the file cannot be read or is not a supported architecture, UsageError for an override
    that contradicts it, and ParityError where our network disagrees with the file.
    """
    found = find_format(path)
    source = found.reader.read(path)
    say(f"{path}: {source.format}, {counted(len(source.tensors), 'tensor')}, SHA-256 {source.sha256[:12]}")
    recognised = recognise(complete(source, overrides), overrides)
    for assumption in recognised.assumptions:
        say(assumption_words(assumption))
    table = recognised.architecture
    classes = counted(table.num_classes, "class", "classes")
    say(f"recognised: {table.name}, {classes}, {counted(table.num_parameters, 'parameter')}")
    agreement = prove(recognised, found.referee)
    say(
        f"proved: {found.referee_words}, and our network agree on {counted(agreement.num_images, 'image')} within "
        f"{agreement.max_error:.1e}"
    )
    if not agreement.tells_images_apart:
        say(
            "the file's network gives all these images the same probabilities, so the agreement would not "
            "show a fault; its weights may be damaged or untrained"
        )
    return Understood(recognised=recognised, format=found, agreement=agreement)


def assumption_words(assumption: Assumption) -> str:
    """Return the line that reports an assumption, its reason and the option that overrides it."""
    override = "" if assumption.option is None else f"; override with {assumption.option}"
    return f"assumed: {assumption.subject} {assumption.value} ({assumption.reason}){override}"


def weights_of(understood: Understood) -> Weights:
    """Return the imported network as weights, with a record of their origin."""
    recognised, agreement = understood.recognised, understood.agreement
    source = recognised.source
    return Weights(
        architecture=recognised.architecture,
        tensors=recognised.tensors,
        preprocessing=recognised.preprocessing,
        mean_image=recognised.mean_image,
        labels=recognised.labels,
        training=None,
        tools=tool_versions("torch", "onnx"),
        origin=ImportRecord(
            file=source.path.name,
            sha256=source.sha256,
            format=source.format,
            assumptions=tuple(
                AssumptionRecord(subject=found.subject, value=found.value, reason=found.reason)
                for found in recognised.assumptions
            ),
            referee=understood.format.referee_words,
            num_images=agreement.num_images,
            max_error=agreement.max_error,
            max_log_error=agreement.max_log_error,
        ),
    )


def save_import(weights: Weights, out: Path) -> LoadedWeights:
    """Write imported weights to the new directory `out`, in the layout of a run; raises OutputError."""
    path = out / WEIGHTS
    try:
        out.mkdir(parents=True)
        weights.save(path)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    return load_weights(path)
