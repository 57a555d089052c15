"""Accuracy against minutes of the recipes on one set of photographs, from scratch.

    python -m benchmarks.training.recipes --data cats_dogs --runs RUNS --out RESULT.json
    python -m benchmarks.training.recipes --show RESULT.json     # the section of docs/training.md

One study, run by `alexnet-deploy study` in its own process, packs the photographs and trains each recipe for each
number of epochs, one run after another. A recipe's schedule is stretched to the epochs, as by `study --budget`. The
accuracy is that of --held-out validation images; the others choose the epoch of a run. Minutes are the run's own
record: training and validation from the packed set, without packing, starting and the final evaluation. Runs that
exist are not repeated.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import msgspec

from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.pipeline.study.definition import BASE
from alexnet_deploy.pipeline.study.plan import with_epochs
from alexnet_deploy.pipeline.study.results.statistics import difference, estimate
from alexnet_deploy.pipeline.study.results.summary import Interval, StudyResult
from alexnet_deploy.train.recipe import recipe_by_name, recipe_names
from benchmarks.record import record

LINE = [sys.executable, "-c", "from alexnet_deploy.cli import main; main()", "study"]
SMALL = Path(__file__).parents[2] / "docs/tables/small.toml"

REFERENCE = "folder"
LEFT_OUT = {
    "drawn": "it is for drawn images",
    "fast": "it is for ImageNet on a GPU, with batches of 512",
    "fine-tune": "it starts from trained weights",
    "original": "it is for ImageNet with the architecture `original`",
}


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity over the seeds."""

    median: float
    lowest: float
    highest: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        middle = statistics.median(values)
        return cls(median=middle, lowest=min(values), highest=max(values), values=tuple(values))


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe with one number of epochs."""

    recipe: str
    epochs: int
    batch_size: int
    minutes: Spread
    images_per_second: Spread
    """Training images, validation not counted."""
    best_epoch: Spread
    center: Spread
    """Top-1 with the centre view, in per cent."""
    ten: Spread
    """Top-1 with ten views, in per cent."""
    ten_mean: Interval
    """Mean of `ten` with Student's 95 % interval."""
    against_reference: Interval | None
    """Difference of `ten` to the reference with as many epochs, in points, paired by seed."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the JSON file."""

    machine: str
    load_average: float
    """Of the minute before the runs."""
    tools: dict[str, str]
    commit: str
    command: str
    architecture: str
    num_parameters: int
    num_train: int
    num_tested: int
    num_choosing: int
    """Validation images that choose the epoch of a run."""
    seeds: tuple[int, ...]
    threads: int
    device: str
    reference: str
    left_out: dict[str, str]
    rows: tuple[Row, ...]


def changed_fields(recipe: str, epochs: int) -> dict[str, object]:
    """Return the fields that a recipe changes when it is stretched to this number of epochs."""
    own = recipe_by_name(recipe)
    stretched = with_epochs(own, epochs / own.epochs)
    fields = msgspec.structs.asdict(stretched)
    return {name: value for name, value in fields.items() if value != getattr(own, name)}


def study_text(arms: Sequence[tuple[str, int]], held_out: int) -> str:
    """Return a study of these recipes and epochs as TOML; its base is the first of them."""

    def change(recipe: str, epochs: int) -> str:
        fields = changed_fields(recipe, epochs).items()
        inside = ", ".join(f"{name} = {msgspec.json.encode(value).decode()}" for name, value in fields)
        return f'recipe = "{recipe}"\nfields = {{ {inside} }}\n'

    first, *others = arms
    head = (
        'claim = "Recipes differ in accuracy for the time that they need."\nsource = "none"\nfigure = "none"\n'
        f'architecture = "paper"\nheld_out = {held_out}\nbase = "{label(*first)}"\n{change(*first)}'
    )
    return head + "".join(
        f'\n[[variants]]\nname = "{recipe}-{epochs}"\nlabel = "{label(recipe, epochs)}"\n{change(recipe, epochs)}'
        for recipe, epochs in others
    )


def label(recipe: str, epochs: int) -> str:
    return f"{recipe}, {counted(epochs, 'epoch')}"


def by_variant(path: Path) -> dict[str, list[dict[str, str]]]:
    """Return the rows of a study's csv by variant, each list in the order of the seeds."""
    found: dict[str, list[dict[str, str]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["variant"], []).append(row)
    return found


def rows_of(arms: Sequence[tuple[str, int]], study: Path) -> tuple[Row, ...]:
    results, times = by_variant(study / "results.csv"), by_variant(study / "times.csv")
    places = dict(zip(arms, results, strict=True))

    def share(arm: tuple[str, int], views: str) -> list[float]:
        return [100 * int(run[f"right_{views}"]) / int(run["tested_images"]) for run in results[places[arm]]]

    def row(arm: tuple[str, int]) -> Row:
        recipe, epochs = arm
        found, measured, ten = results[places[arm]], times[places[arm]], share(arm, "ten")
        other, against = (REFERENCE, epochs), None
        if recipe != REFERENCE and other in places:
            against = Interval.of(difference(ten, share(other, "ten")))
        return Row(
            recipe=recipe,
            epochs=epochs,
            batch_size=recipe_by_name(recipe).batch_size,
            minutes=Spread.of([float(run["seconds"]) / 60 for run in measured]),
            images_per_second=Spread.of([float(run["images_per_second"]) for run in measured]),
            best_epoch=Spread.of([float(run["best_epoch"]) for run in found]),
            center=Spread.of(share(arm, "center")),
            ten=Spread.of(ten),
            ten_mean=Interval.of(estimate(ten)),
            against_reference=against,
        )

    return tuple(map(row, arms))


def measured(options: argparse.Namespace) -> Result:
    """Run the study, or what is left of it, and return its numbers."""
    arms = list(product(options.recipes, options.epochs))
    options.runs.mkdir(parents=True, exist_ok=True)
    definition, out = options.runs / "recipes.toml", options.runs / "study"
    definition.write_text(study_text(arms, options.held_out))
    words = ["--arch", str(options.arch), "--seeds", str(options.seeds), "--jobs", "1"]
    if options.images is not None:
        words += ["--images", str(options.images)]
    load = os.getloadavg()[0]
    subprocess.run([*LINE, str(definition), str(options.data), *words, "--out", str(out)], check=True)
    study = msgspec.json.decode((out / "study.json").read_bytes(), type=StudyResult)
    run = load_weights(out / f"runs/{BASE}-{study.seeds[0]}/weights.safetensors").weights.training
    assert run is not None
    return Result(
        machine=processor(),
        load_average=load,
        tools=tool_versions("torch"),
        commit=options.commit,
        command=f"alexnet-deploy study recipes.toml {' '.join([options.data.name, *words])}",
        architecture=study.architecture,
        num_parameters=study.variants[0].num_parameters,
        num_train=study.num_train,
        num_tested=study.num_tested,
        num_choosing=run.num_validation,
        seeds=study.seeds,
        threads=study.threads,
        device=study.device,
        reference=REFERENCE,
        left_out={name: why for name, why in LEFT_OUT.items() if name not in options.recipes},
        rows=rows_of(arms, out),
    )


def shown(found: Spread, digits: int, unit: str = "") -> str:
    """Return the median with the lowest and the highest value."""
    median, lowest, highest = (f"{value:,.{digits}f}" for value in (found.median, found.lowest, found.highest))
    return f"{median}{unit} ({lowest} to {highest})"


def compared(found: Interval | None) -> str:
    if found is None:
        return ""
    inside = "" if found.low is None or found.high is None else f" ({found.low:.1f} to {found.high:.1f})"
    return f"{found.mean:.1f}{inside}"


def is_decided(found: Interval | None) -> bool:
    """Return whether the whole interval is on one side of 0."""
    return found is not None and found.low is not None and found.high is not None and not found.low <= 0 <= found.high


def conclusion(result: Result) -> str:
    """Return the differences to the reference that the seeds decide, in one sentence."""
    differences = [row for row in result.rows if row.against_reference is not None]
    decided = [row for row in differences if is_decided(row.against_reference)]
    if not decided:
        return f"No recipe differs from `{result.reference}` with as many epochs by more than the seeds do."
    parts = [
        f"`{row.recipe}` is {abs(row.against_reference.mean):.1f} points "
        f"{'above' if row.against_reference.mean > 0 else 'below'} with {counted(row.epochs, 'epoch')}"
        for row in decided
        if row.against_reference is not None
    ]
    return (
        f"Of {len(differences)} differences to `{result.reference}` with as many epochs, "
        f"{len(decided)} {'has' if len(decided) == 1 else 'have'} an interval without 0: {', '.join(parts)}."
    )


def section(result: Result) -> str:
    """Return the table and its words as Markdown."""
    lines = [
        f"| recipe | epochs | minutes | images/s | top-1, center view | ten views | against `{result.reference}` |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result.rows:
        cells = (
            f"`{row.recipe}`",
            f"{row.epochs}",
            shown(row.minutes, 2),
            f"{row.images_per_second.median:,.0f}",
            shown(row.center, 1, " %"),
            shown(row.ten, 1, " %"),
            compared(row.against_reference),
        )
        lines.append(f"| {' | '.join(cells)} |")
    left_out = "; ".join(f"`{name}`: {why}" for name, why in result.left_out.items())
    words = (
        f"Trained from scratch on {result.num_train:,} photographs of two classes, packed, with "
        f"`{result.architecture}`, {result.num_parameters:,} parameters: medians of {len(result.seeds)} seeds, with "
        "the lowest and the highest. "
        f"{result.num_choosing} validation images chose the best epoch, {result.num_tested} others gave the accuracy. "
        "Each schedule is stretched to the epochs. Minutes are training and validation, without packing. The last "
        "column is the mean difference in points with ten views and as many epochs, with its 95 % interval, paired by "
        "seed. With so few seeds the intervals are wide; they are not corrected for the number of comparisons."
    )
    scope = (
        "The network and the data set are small, and `paper` is made for 90 epochs of ImageNet: this table does not "
        "rank recipes elsewhere."
    )
    paragraphs = [words, f"{conclusion(result)} {scope}"]
    if left_out:
        paragraphs.append(f"Left out: {left_out}.")
    machine = f"{result.machine}, torch {result.tools['torch']}"
    source = "([benchmarks/training/recipes.py](../benchmarks/training/recipes.py))"
    paragraphs.append(f"{machine} {source}.")
    return "\n\n".join(["### Accuracy against minutes", "\n".join(lines), *paragraphs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", type=Path, metavar="JSON", help="print the table of these results; measure nothing")
    parser.add_argument("--data", type=Path, help="folder of photographs, or a packed set")
    parser.add_argument("--runs", type=Path, help="directory for the study and its definition")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--arch", type=Path, default=SMALL)
    parser.add_argument("--recipes", nargs="+", choices=recipe_names())
    parser.add_argument("--epochs", type=int, nargs="+", default=[3, 6, 12])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, help="number of training images, evenly spread; default: all")
    parser.add_argument("--held-out", type=int, default=400, help="validation images that choose no epoch")
    parser.add_argument("--commit", default="", help="commit of the measured code")
    options = parser.parse_args()
    if options.show is not None:
        print(section(msgspec.json.decode(options.show.read_bytes(), type=Result)))
        return
    if None in (options.data, options.runs, options.out):
        parser.error("--data, --runs and --out are needed, or --show")
    if options.recipes is None:
        options.recipes = [name for name in recipe_names() if name not in LEFT_OUT]
    record(options.out, msgspec.to_builtins(measured(options)))


if __name__ == "__main__":
    main()
