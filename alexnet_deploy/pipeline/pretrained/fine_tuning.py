"""Fine-tuning joins import and training: any file that import reads can be the start of a run."""

from pathlib import Path

from alexnet_deploy.core.bundle.store import MANIFEST
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.run_files import CHECKPOINT, WEIGHTS
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.weights import LoadedWeights, is_own_file, load_weights
from alexnet_deploy.core.names import RUNS, find_entry, find_weights
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.export.importing.assume import Overrides
from alexnet_deploy.pipeline.pretrained.importing import understand, weights_of
from alexnet_deploy.train.start import Start


def load_start(named: Path, *, say: Say = say_nothing) -> LoadedWeights:
    """Return the weights that a run starts from: a weights file, a run, or a file that `import` reads.

    Another program's file is imported in memory, with its proof; the digest is then that of the file. Raises UsageError
    if there is no such file, WeightsError if it cannot be read or is not a supported architecture, and ParityError if
    our network disagrees with it.
    """
    found = find_entry(named, first=RUNS)
    if found is None:
        raise UsageError(f"{named}: there is no such weights file or run")
    if (found / WEIGHTS).is_file() or (found / CHECKPOINT).is_file() or (found / MANIFEST).is_file():
        found = find_weights(found)
    if found.is_file() and is_own_file(found):
        return load_weights(found)
    understood = understand(found, Overrides(), say=say)
    if any(assumption.option is not None for assumption in understood.recognised.assumptions):
        say(f"these are options of `alexnet-deploy import`; to use one, import {named} first and start from the result")
    source = understood.recognised.source
    return LoadedWeights(weights=weights_of(understood), path=found, sha256=source.sha256)


def check_architecture(loaded: LoadedWeights, wanted: Architecture) -> None:
    """Raise UsageError unless `wanted` is the architecture of the weights, whatever its number of classes."""
    found = loaded.weights.architecture
    if wanted.with_num_classes(found.num_classes) != found:
        raise UsageError(
            f"--arch {wanted.name}: {loaded.path} is {found.name}, and a run keeps the architecture that it starts "
            "from; remove --arch"
        )


def start_lines(start: Start) -> list[str]:
    """Return what a run starts from, as lines for the user."""
    record, table = start.basis.record, start.architecture
    costs = [cost for cost in table.costs() if cost.layer.name in record.frozen]
    last = table.layers[-1].name
    is_new = last in record.new_layers
    lines = [
        f"starting from {record.file}, SHA-256 {record.sha256[:12]}",
        f"{last} is new: the images have other classes than {record.file}"
        if is_new
        else f"{last} is kept: the images have the classes of {record.file}",
    ]
    if costs:
        frozen = sum(cost.num_parameters for cost in costs)
        lines.append(f"frozen: {', '.join(record.frozen)}; {frozen:,} of {counted(table.num_parameters, 'parameter')}")
    return lines
