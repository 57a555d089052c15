"""The commands: parse, call one function, print. Results go to stdout, words to stderr.

Libraries are imported inside the commands: `--help` answers at once, and `predict` needs no torch.
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer

from alexnet_deploy.core.errors import AlexNetDeployError, UsageError
from alexnet_deploy.core.files import umask
from alexnet_deploy.defaults import BUNDLES, DRAWN, RUNS, latest_bundle, latest_weights, latest_weights_if, note_latest

app = typer.Typer(
    name="alexnet-deploy",
    help="AlexNet, from pictures to a verified engine.",
    epilog="Begin with: alexnet-deploy train, then export, then predict images/.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BackendOption = Annotated[
    Literal["auto", "openvino", "onnxruntime"], typer.Option(help="What runs the bundle; auto takes the fastest.")
]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Processor threads for the engine; the backend's own choice unless given.")
]
BundleOption = Annotated[Path | None, typer.Option(help="The bundle; the latest unless given.")]
BundleArgument = Annotated[Path | None, typer.Argument(help="The bundle; the latest unless given.")]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
) -> None:
    """AlexNet, from pictures to a verified engine."""


@app.command()
def train(
    data: Annotated[
        Path | None,
        typer.Argument(help="Folder with train/CLASS/ and val/CLASS/, or CLASS/; drawn pictures unless given."),
    ] = None,
    arch: Annotated[
        str | None,
        typer.Option(help="A member of the AlexNet family. Default: paper; for drawn pictures tiny."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="drawn, folder or paper. Default: folder; for drawn pictures drawn.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the pictures. Default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Pictures a step. Default: the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(help="First learning rate. Default: the recipe's.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of everything that is random. Default: the recipe's.")
    ] = None,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to train.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode ahead; 0 decodes in this one.")] = 0,
    out: Annotated[Path | None, typer.Option(help="New directory for the run. Default: runs/ARCH-TIME.")] = None,
) -> None:
    """Train on a folder of pictures, or on drawn ones."""
    import msgspec

    from alexnet_deploy.core.family import architecture_by_name
    from alexnet_deploy.core.weights import load_weights
    from alexnet_deploy.terminal import say, training_bar
    from alexnet_deploy.train.recipe import recipe_by_name
    from alexnet_deploy.train.run import choose_device, look_over, new_run_name, train_on

    is_drawn = data is None
    architecture = architecture_by_name(arch or ("tiny" if is_drawn else "paper"))
    wanted = {"epochs": epochs, "batch_size": batch_size, "learning_rate": lr, "seed": seed}
    plan = msgspec.structs.replace(
        recipe_by_name(recipe or ("drawn" if is_drawn else "folder")),
        **{name: value for name, value in wanted.items() if value is not None},
    )
    chosen = choose_device(device)
    run = out or RUNS / new_run_name(architecture)
    if os.path.lexists(run):
        raise UsageError(f"{run}: exists already; choose another --out")
    begun = time.perf_counter()
    found = look_over(_drawn_pictures() if data is None else data, architecture)
    folder = found.folder
    say(
        f"{folder.root}: {len(folder.train):,} pictures to learn from, {len(folder.validation):,} to validate, "
        f"{len(folder.labels)} classes"
    )
    for name, code in found.excluded.items():
        say(f"left out, {code}: {name}")
    say(f"training {architecture.name} on {chosen}, recipe {plan.name}, {plan.epochs} epochs")
    try:
        with training_bar() as show:
            path = train_on(found, architecture, plan, run, device=chosen, num_workers=workers, on_progress=show)
    except KeyboardInterrupt:
        if (run / "last.safetensors").exists():
            note_latest(run)
            say(f"interrupted; the weights of this moment are in {run}/last.safetensors")
        raise
    note_latest(run)
    record = load_weights(path).weights.training
    assert record is not None
    best = record.epochs[record.best_epoch - 1]
    say(
        f"{best.validation_top1:.1%} of {record.num_validation} validation pictures right, centre view, after epoch "
        f"{best.epoch} of {plan.epochs}; {time.perf_counter() - begun:.0f} s in all"
    )
    typer.echo(path)
    say("next: alexnet-deploy export" + ("" if run.parent == RUNS else f" {path}"))


def _drawn_pictures() -> Path:
    """Return the folder of drawn pictures, drawing them first where they are not there yet."""
    from alexnet_deploy.core.drawing import DRAWN_CLASSES, draw_folder
    from alexnet_deploy.terminal import say

    if DRAWN.exists():
        say(f"no DATA given: taking the pictures in {DRAWN}/")
    else:
        say(f"no DATA given: drawing pictures of {len(DRAWN_CLASSES)} things into {DRAWN}/")
        draw_folder(DRAWN)
    return DRAWN


@app.command()
def export(
    weights: Annotated[Path | None, typer.Argument(help="The weights file; the latest run's unless given.")] = None,
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="What the graph computes in.")] = "fp32",
    views: Annotated[
        Literal["ten", "center"], typer.Option(help="The paper's ten views of each picture, or its centre.")
    ] = "ten",
    out: Annotated[
        Path | None, typer.Option(help="The new bundle. Default: bundles/ARCH-PRECISION-TIME.bundle.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Move an existing --out aside first.")] = False,
) -> None:
    """Turn weights into a bundle that is proved before it is published."""
    from alexnet_deploy.core.weights import load_weights
    from alexnet_deploy.describe import parity_table
    from alexnet_deploy.ship import ship
    from alexnet_deploy.terminal import say, stages

    if weights is None:
        weights = latest_weights()
        say(f"no WEIGHTS given: taking {weights}")
    loaded = load_weights(weights)
    name = f"{loaded.weights.architecture.name}-{precision}-{time.strftime('%Y%m%d-%H%M%S')}.bundle"
    with stages() as stage:
        bundle = ship(loaded, out or BUNDLES / name, precision=precision, views=views, force=force, say=stage)
    note_latest(bundle.path)
    say(parity_table(bundle.manifest.parity))
    weak = [fault for fault, multiple in bundle.manifest.golden.separation.items() if multiple < 1]
    if weak:
        say(f"these weights do not feel, so only the graph's audit would catch: {', '.join(weak)}")
    typer.echo(bundle.path)
    say("next: alexnet-deploy predict images/" + ("" if bundle.path.parent == BUNDLES else f" --bundle {bundle.path}"))


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Files, folders, patterns; - for a list of names on stdin.")],
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    device: Annotated[Literal["auto", "cpu"], typer.Option(help="Where it runs.")] = "auto",
    threads: ThreadsOption = None,
    views: Annotated[
        Literal["ten", "center"] | None, typer.Option(help="Refuse a bundle whose graph holds other views.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures that go to the engine at once.")] = 8,
    topk: Annotated[int, typer.Option(min=1, help="Guesses for each picture.")] = 5,
    row_format: Annotated[
        Literal["table", "jsonl", "csv"], typer.Option("--format", help="One row for each input, in order.")
    ] = "table",
    output: Annotated[Path | None, typer.Option(help="Write the rows to this new file instead of to stdout.")] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse larger pictures. Default: 89,478,485.")] = None,
) -> None:
    """Say what is in each picture: one row for every input, in order, whatever the files are like."""
    from collections import Counter

    from alexnet_deploy.core.image import DEFAULT_LIMITS, DecodeLimits
    from alexnet_deploy.predict import load
    from alexnet_deploy.rows import RowWriter
    from alexnet_deploy.terminal import counting_bar, say

    path = bundle or latest_bundle()
    limits = DEFAULT_LIMITS if max_pixels is None else DecodeLimits(max_pixels=max_pixels)
    outcomes: Counter[str] = Counter()
    with load(path, backend, device, threads) as predictor:
        held = predictor.bundle.manifest.views.name
        if views is not None and views != held:
            raise UsageError(
                f"{path}: its graph holds the views {held!r}; `alexnet-deploy export --views {views}` makes another"
            )
        info = predictor.info
        say(f"{path}, {held} views, on {info.backend} {info.version}, {info.device}, {info.arithmetic}")
        label_width = min(24, max(len(label) for label in predictor.labels))
        writer = RowWriter(row_format, min(topk, len(predictor.labels)), label_width)
        # A program without a terminal may have no stdin at all.
        listed = () if sys.stdin is None else sys.stdin.buffer
        predictions = predictor.predict(images, topk=topk, batch_size=batch_size, limits=limits, listed=listed)
        with _rows_to(output) as rows, counting_bar("pictures") as count:
            rows.write(writer.header())
            for prediction in predictions:
                rows.write(writer.row(prediction))
                outcomes["ok" if prediction.error is None else prediction.error.value] += 1
                count()
    num_good = outcomes.pop("ok", 0)
    say(f"{num_good:,} predicted")
    if outcomes:
        reasons = ", ".join(f"{code} {number:,}" for code, number in outcomes.most_common())
        say(f"{outcomes.total():,} could not be read: {reasons}")
        raise typer.Exit(1)


@app.command()
def check(
    bundle: BundleArgument = None,
    weights: Annotated[
        Path | None, typer.Option(help="The weights it was made from; the latest run's where they are those.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Pictures to compare on, besides the golden ones.")] = None,
    backend: BackendOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Prove a bundle again: its bytes, its graph, and every engine against the trained network."""
    import msgspec

    from alexnet_deploy.core.bundle import open_bundle
    from alexnet_deploy.core.inputs import find_inputs
    from alexnet_deploy.core.weights import load_weights
    from alexnet_deploy.describe import parity_table
    from alexnet_deploy.ship import check as check_bundle
    from alexnet_deploy.terminal import say, stages

    opened = open_bundle(bundle or latest_bundle())
    trained = weights or latest_weights_if(opened.manifest.provenance.weights_sha256)
    loaded = load_weights(trained) if trained else None
    pictures = [found.path for found in find_inputs([str(data)])] if data else []
    if data and not pictures:
        raise UsageError(f"{data}: holds no pictures to compare on")
    with stages() as stage:
        result = check_bundle(
            opened, backends=None if backend == "auto" else [backend], weights=loaded, pictures=pictures, say=stage
        )
    if as_json:
        typer.echo(msgspec.json.encode({"passed": result.passed, "rows": result.rows, "problems": result.problems}))
    else:
        typer.echo(parity_table(result.rows))
        for problem in result.problems:
            typer.echo(f"FAILED: {problem}")
    for line in result.not_done:
        say(f"not done: {line}")
    say(f"{opened.path}: {'passed' if result.passed else 'FAILED'}")
    if not result.passed:
        raise typer.Exit(1)


@app.command()
def inspect(path: Annotated[Path, typer.Argument(help="A weights file, a bundle or an ONNX graph.")]) -> None:
    """Say what a weights file, a bundle or a graph is."""
    from alexnet_deploy.describe import describe_path

    typer.echo(describe_path(path))


@app.command()
def doctor() -> None:
    """Say what this machine can run, what is missing, and how to get it."""
    from alexnet_deploy.doctor import examine

    marks = {"ok": "ok", "missing": "--", "broken": "!!", "fact": "  "}
    num_broken = 0
    for finding in examine():
        num_broken += finding.state == "broken"
        typer.echo(f"{marks[finding.state]}  {finding.subject:<14} {finding.words}")
    if num_broken:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="New directory for everything it makes.")] = Path("demo"),
) -> None:
    """Do all of it on drawn pictures, ending in a report to look at."""
    from alexnet_deploy.demo import run_demo
    from alexnet_deploy.terminal import say, training_bar

    if os.path.lexists(out):
        raise UsageError(f"{out}: exists already; choose another --out")
    result = run_demo(out, say=say, training_bar=training_bar)
    say(
        f"{result.accuracy:.1%} of {result.num_pictures} validation pictures right, ten views, on a proved engine; "
        f"{result.seconds:.0f} s in all"
    )
    typer.echo(result.report)
    say(f"next: alexnet-deploy predict --bundle {result.bundle} images/")


@contextmanager
def _rows_to(output: Path | None) -> Iterator[TextIO]:
    """Give where rows go. A file gets its name when it is whole; until then it is hidden beside its place."""
    if output is None:
        yield sys.stdout
        return
    if os.path.lexists(output):
        raise UsageError(f"{output}: exists already; choose another --output")
    try:
        # Hidden, so that it is no input itself where it lies among them.
        descriptor, partial = tempfile.mkstemp(prefix=f".{output.name}.", suffix=".partial", dir=output.parent)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            yield file
            os.fchmod(descriptor, 0o666 & ~umask())
        if os.path.lexists(output):
            raise UsageError(f"{output}: has appeared meanwhile")
        Path(partial).rename(output)
    except BaseException:
        sys.stderr.write(f"the rows so far are in {partial}\n")
        raise


_EXTRAS = {
    "torch": "train",
    "onnx": "train",
    "google": "train",
    "matplotlib": "train",
    "jinja2": "train",
    "onnxruntime": "cpu",
    "openvino": "cpu",
}


def main() -> None:
    """Run the command line; an error becomes one sentence and an exit code, or with --debug a traceback."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if isinstance(sys.stdout, io.TextIOWrapper):
        # jsonl is UTF-8 whatever the terminal's; a path that is none comes out as the bytes that it is.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        if sys.stdout is None:
            raise UsageError("standard output is closed, and results go there")
        _run(arguments)
    except BrokenPipeError:
        # Whoever read our rows has gone, and has what it wanted.
        _drop_results()
        sys.exit(141)
    except Exception as error:
        if len(arguments) < len(sys.argv) - 1:
            raise
        sys.stderr.write(f"error: {' '.join(_in_words(error).splitlines())}\n")
        if isinstance(error, OSError):
            _drop_results()
        sys.exit(error.exit_code if isinstance(error, AlexNetDeployError) else 3)


def _run(arguments: list[str]) -> None:
    try:
        app(args=arguments)
    except SystemExit as leaving:
        # Typer makes a 1 of a broken pipe, which here says that a check or an input failed.
        if isinstance(leaving.__context__, BrokenPipeError):
            raise leaving.__context__ from None
        # Now, while results that cannot be written still change the exit code.
        sys.stdout.flush()
        raise


def _drop_results() -> None:
    """Keep Python from flushing, as it ends, what could not be written."""
    # A stdout that a program around us has put there need have no descriptor, and nothing to flush.
    with suppress(io.UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _in_words(error: Exception) -> str:
    if isinstance(error, AlexNetDeployError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _EXTRAS:
        extra = _EXTRAS[(error.name or "").split(".")[0]]
        return f"this command needs {error.name}, which is not installed; `pip install 'alexnet-deploy[{extra}]'`"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}; --debug shows where it arose"
