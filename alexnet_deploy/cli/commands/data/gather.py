"""`alexnet-deploy gather`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.fs.files import refuse_existing
from alexnet_deploy.core.names import check_exists
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.train.gather.run import Gathered, GatherOptions

ListArgument = Annotated[
    Path,
    typer.Argument(
        metavar="LIST",
        help="csv, tsv, jsonl or parquet with the columns url and class, perhaps licence and page; or saved web pages: "
        "CLASS.html, or a folder of them.",
    ),
]
OutArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="New data folder: train/CLASS/, val/CLASS/ and gathered.csv.")
]
ValOption = Annotated[
    float, typer.Option(help="Share of the images for validation, above 0 and below 1; chosen by their bytes.")
]
MinSideOption = Annotated[int, typer.Option(min=1, help="Refuse images whose shorter side has fewer pixels.")]
MaxBytesOption = Annotated[int, typer.Option(min=1, help="Refuse larger files.")]
AllowPrivateOption = Annotated[
    bool, typer.Option("--allow-private", help="Also ask hosts in private networks, and this machine.")
]
ConnectionsOption = Annotated[int, typer.Option(min=1, help="Most requests at a time.")]
PerHostOption = Annotated[int, typer.Option(min=1, help="Most requests at a time to one host.")]
DelayOption = Annotated[
    float, typer.Option(min=0, help="Seconds between two requests to one host; robots.txt may ask for more.")
]
TimeoutOption = Annotated[float, typer.Option(min=0.001, help="Longest time in seconds for one request.")]
RetriesOption = Annotated[int, typer.Option(min=0, help="Retries after a transient error.")]
ContactOption = Annotated[
    str | None, typer.Option(help="URL or mail address for those who run the servers; part of the user agent.")
]


def gather(
    list_: ListArgument,
    out: OutArgument,
    val: ValOption = 0.1,
    min_side: MinSideOption = 64,
    max_bytes: MaxBytesOption = 32 << 20,
    allow_private: AllowPrivateOption = False,
    connections: ConnectionsOption = 16,
    per_host: PerHostOption = 2,
    delay: DelayOption = 0.5,
    timeout: TimeoutOption = 30.0,
    retries: RetriesOption = 3,
    contact: ContactOption = None,
) -> None:
    """Gather images by class from the web: one row for each URL, no duplicates. Resumes if it was interrupted."""
    # The first import names the extra, if it is not installed.
    from protego import Protego as _  # noqa: F401

    from alexnet_deploy.train.gather.run import GatherOptions
    from alexnet_deploy.train.gather.web.hosts import Manners

    check_exists(list_, "file or folder")
    refuse_existing(out)
    options = GatherOptions(
        validation_share=val,
        min_side=min_side,
        max_bytes=max_bytes,
        allow_private=allow_private,
        manners=Manners(
            connections=connections,
            per_host=per_host,
            delay_seconds=delay,
            timeout_seconds=timeout,
            retries=retries,
            contact=contact,
        ),
    )
    _conclude(out, _gather(list_, out, options))


def _gather(list_: Path, out: Path, options: "GatherOptions") -> "Gathered":
    from alexnet_deploy.cli.terminal import images_bar, say
    from alexnet_deploy.train.gather.listing import read_list
    from alexnet_deploy.train.gather.run import gather

    entries = read_list(list_)
    num_classes = len({entry.label for entry in entries})
    say(f"{list_}: {counted(len(entries), 'URL')}, {counted(num_classes, 'class', 'classes')}")
    try:
        with images_bar("gathering") as show:
            return gather(entries, out, options, say=say, on_progress=show)
    except (KeyboardInterrupt, SystemExit):
        say("interrupted; repeat the command to resume")
        raise


def _conclude(out: Path, gathered: "Gathered") -> None:
    """Print the counts and the next command; exit with 1 if a URL gave no picture."""
    from alexnet_deploy.cli.terminal import say, show_path
    from alexnet_deploy.train.data.folder import find_in_folder
    from alexnet_deploy.train.data.source import check_source
    from alexnet_deploy.train.gather.rows import DUPLICATE, KEPT, TRAIN, VALIDATION

    counts, splits = gathered.statuses.copy(), gathered.splits
    num_kept, num_duplicates = counts.pop(KEPT, 0), counts.pop(DUPLICATE, 0)
    say(
        f"{counted(num_kept, 'image')}: {splits[TRAIN]:,} for training, {splits[VALIDATION]:,} for validation; "
        f"{counted(num_duplicates, 'duplicate')}"
    )
    if counts:
        reasons = ", ".join(f"{status} {number:,}" for status, number in sorted(counts.items(), key=_by_number))
        say(f"{counted(counts.total(), 'URL')} gave no image: {reasons}")
    show_path(out)
    try:
        check_source(find_in_folder(out))
        say(f"next: alexnet-deploy train {shlex.quote(str(out))}")
    except DataError as error:
        say(f"train cannot use it yet: {error}")
    if counts:
        raise typer.Exit(1)


def _by_number(count: tuple[str, int]) -> tuple[int, str]:
    return -count[1], count[0]
