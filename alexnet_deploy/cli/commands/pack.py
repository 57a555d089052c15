"""`alexnet-deploy pack`."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import check_exists
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.core.model.preprocessing import ResizePolicy


def pack(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of images; archives of ILSVRC-2012 or CIFAR-10 as they are downloaded; with --verify a "
            "packed set."
        ),
    ],
    out: Annotated[Path | None, typer.Argument(help="New directory for the packed set.")] = None,
    resize: Annotated[
        Literal["shorter-side", "warp"],
        typer.Option(help="The central square, or the whole image squeezed to one, as caffe and caffenet are fed."),
    ] = "shorter-side",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode. Default: one a processor, 8 at most.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compare all of a packed set with its digests.")] = False,
) -> None:
    """Decode images once, for training that decodes none: 197 kB an image. Goes on where it was interrupted."""
    from alexnet_deploy.cli.terminal import say, show_path
    from alexnet_deploy.train.pack.format import is_packed

    check_exists(data, "packed set" if verify else "file or folder")
    if verify:
        if out is not None:
            raise UsageError("--verify reads the packed set that is named first, and makes none; leave OUT away")
        _verify(data, threads)
        return
    if out is None:
        raise UsageError("a place for the packed set is needed: alexnet-deploy pack DATA OUT")
    if is_packed(data):
        raise UsageError(f"{data}: is packed already")
    _pack(data, out, resize, threads)
    show_path(out)
    say(f"next: alexnet-deploy train {shlex.quote(str(out))}")


def _pack(data: Path, out: Path, resize: "ResizePolicy", threads: int | None) -> None:
    from alexnet_deploy.cli.terminal import images_bar, say
    from alexnet_deploy.inspection.describe import describe_excluded, describe_source
    from alexnet_deploy.train.data.scan import find_images
    from alexnet_deploy.train.pack.format import IMAGE_BYTES
    from alexnet_deploy.train.pack.writer import pack

    begun = time.perf_counter()
    source = find_images(data)
    for line in describe_source(source):
        say(line)
    try:
        with images_bar("packing") as show:
            header = pack(source, out, resize, threads=threads, say=say, on_progress=show).header
    except (KeyboardInterrupt, SystemExit):
        say("interrupted; the same command goes on from here")
        raise
    for line in describe_excluded(header.excluded):
        say(line)
    say(
        f"{counted(header.num_train, 'image')} to learn from and {header.num_validation:,} to validate, "
        f"{header.num_images * IMAGE_BYTES / 1e9:,.2f} GB, {len(header.excluded):,} left out; "
        f"{time.perf_counter() - begun:.0f} s in all"
    )


def _verify(path: Path, threads: int | None) -> None:
    from alexnet_deploy.cli.terminal import images_bar, show
    from alexnet_deploy.train.pack.format import open_pack, verify

    found = open_pack(path)
    with images_bar("verifying") as progress:
        for num_verified in verify(found, threads):
            progress(num_verified, found.header.num_images)
    show(f"{path}: {counted(found.header.num_images, 'image')}, all as they were packed")
