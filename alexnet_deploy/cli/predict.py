"""`alexnet-deploy predict`."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, TextIO

import typer

from alexnet_deploy.cli.options import BackendOption, BundleOption, ThreadsOption
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.files import umask
from alexnet_deploy.defaults import latest_bundle


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
