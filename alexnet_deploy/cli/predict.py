"""`alexnet-deploy predict`."""

import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.cli.options import BackendOption, BundleOption, ThreadsOption
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.defaults import latest_bundle

if TYPE_CHECKING:
    from alexnet_deploy.core.bundle import Bundle
    from alexnet_deploy.core.inputs import Input
    from alexnet_deploy.rows import RowWriter


def predict(
    images: Annotated[
        list[str],
        typer.Argument(help="Files, folders, patterns; - for a list of names on stdin."),
    ],
    bundle: BundleOption = None,
    backend: BackendOption = "auto",
    device: Annotated[Literal["auto", "cpu"], typer.Option(help="Where it runs.")] = "auto",
    threads: ThreadsOption = None,
    views: Annotated[
        Literal["ten", "center"] | None, typer.Option(help="Refuse a bundle whose graph holds other views.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures that go to the engine at once; its own choice unless given.")
    ] = None,
    topk: Annotated[int, typer.Option(min=1, help="Guesses for each picture.")] = 5,
    row_format: Annotated[
        Literal["table", "jsonl", "csv"], typer.Option("--format", help="One row for each input, in order.")
    ] = "table",
    output: Annotated[Path | None, typer.Option(help="Write the rows to this new file instead of to stdout.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the jsonl or csv rows that a stopped run left of --output; same inputs, same order.",
        ),
    ] = False,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Refuse larger pictures. Default: 89,478,485.")] = None,
) -> None:
    """Say what is in each picture: one row for every input, in order, whatever the files are like."""
    from alexnet_deploy.core.bundle import open_bundle
    from alexnet_deploy.core.image import DEFAULT_LIMITS, DecodeLimits
    from alexnet_deploy.core.inputs import find_inputs, read_list
    from alexnet_deploy.engines.engine import open_engine
    from alexnet_deploy.predict import Predictor
    from alexnet_deploy.rows import RowWriter
    from alexnet_deploy.terminal import counting_bar, say

    if resume and (output is None or row_format == "table"):
        raise UsageError("--resume goes on with the rows of an --output, with --format jsonl or csv")
    path = bundle or latest_bundle()
    opened = open_bundle(path)
    writer = RowWriter(
        row_format,
        min(topk, len(opened.labels)),
        label_width=min(24, max(len(label) for label in opened.labels)),
    )
    # A program without a terminal may have no stdin at all.
    stdin = io.BytesIO() if sys.stdin is None else sys.stdin.buffer
    if resume and output is not None and os.path.lexists(output):
        _conclude(_confirm_whole(output, writer, find_inputs(images, stdin)))
        return
    _refuse_other_views(opened, views)
    limits = DEFAULT_LIMITS if max_pixels is None else DecodeLimits(max_pixels=max_pixels)
    with Predictor(opened, open_engine(opened, backend, device, threads, tuned_for="throughput")) as predictor:
        info = predictor.info
        say(
            f"{path}, {opened.manifest.views.name} views, on {info.backend} {info.version}, {info.device}, "
            f"{info.arithmetic}, {info.num_streams} at a time of {batch_size or info.batch_size}"
        )
        depends_on = f"{info.bundle_sha256} {info.backend} {info.arithmetic} {limits}"
        with (
            _rows_to(output, writer, depends_on, resume=resume) as rows,
            counting_bar("pictures") as count,
            closing(
                predictor.predict(
                    images, topk=topk, batch_size=batch_size, limits=limits, listed=read_list(stdin), done=rows.done
                )
            ) as predictions,
        ):
            for prediction in predictions:
                rows.write(writer.row(prediction))
                rows.outcomes["ok" if prediction.error is None else prediction.error.value] += 1
                count()
    _conclude(rows.outcomes)


def _conclude(outcomes: Counter[str]) -> None:
    """Say how many rows there are of what; exit 1 where inputs failed."""
    from alexnet_deploy.terminal import say

    num_good = outcomes.pop("ok", 0)
    say(f"{num_good:,} predicted")
    if outcomes:
        reasons = ", ".join(f"{code} {number:,}" for code, number in outcomes.most_common())
        say(f"{outcomes.total():,} could not be read: {reasons}")
        raise typer.Exit(1)


def _confirm_whole(output: Path, writer: "RowWriter", inputs: Iterator["Input"]) -> Counter[str]:
    """Return what the rows of a whole file say; raises UsageError where they are not those of the inputs."""
    from alexnet_deploy.predict import pass_over
    from alexnet_deploy.row_file import whole_rows
    from alexnet_deploy.terminal import say

    outcomes: Counter[str] = Counter()

    def paths() -> Iterator[str]:
        for row in whole_rows(output, writer):
            outcomes[row.outcome] += 1
            yield row.path

    if (more := next(pass_over(paths(), inputs), None)) is not None:
        raise UsageError(
            f"{output}: is whole with {outcomes.total():,} rows, and {more.text} comes after them now; choose another "
            "--output"
        )
    say(f"{output}: is whole already, a row for each of these inputs")
    return outcomes


def _refuse_other_views(bundle: "Bundle", views: str | None) -> None:
    held = bundle.manifest.views.name
    if views is not None and views != held:
        raise UsageError(
            f"{bundle.path}: its graph holds the views {held!r}; `alexnet-deploy export --views {views}` makes another"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    write: Callable[[str], object]
    outcomes: Counter[str]
    done: Iterable[str]


@contextmanager
def _rows_to(output: Path | None, writer: "RowWriter", depends_on: str, *, resume: bool) -> Iterator[_Rows]:
    from alexnet_deploy.row_file import open_row_file
    from alexnet_deploy.terminal import say

    if output is None:
        sys.stdout.write(writer.header())
        yield _Rows(write=sys.stdout.write, outcomes=Counter(), done=())
        return
    with open_row_file(output, writer, depends_on, resume=resume, say=say) as rows:
        if rows.outcomes:
            say(f"going on after {rows.outcomes.total():,} rows")
        try:
            yield _Rows(write=rows.write, outcomes=rows.outcomes, done=rows.kept_paths())
        except UsageError:
            raise
        except BaseException:
            if rows.outcomes:
                remedy = "" if writer.form[0] == "table" else "; the same command with --resume goes on with them"
                say(f"the rows so far are in {rows.place}{remedy}")
            raise
