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
    from alexnet_deploy.core.model.preprocessing import ImagePolicy


def pack(
    data: Annotated[
        Path,
        typer.Argument(
            help="Folder of images, or the downloaded archives of ILSVRC-2012 or CIFAR-10; with --verify, a packed set."
        ),
    ],
    out: Annotated[Path | None, typer.Argument(help="New directory for the packed set.")] = None,
    resize: Annotated[
        Literal["shorter-side", "warp"],
        typer.Option(help="Use the central square, or warp the whole image to a square, as for caffe and caffenet."),
    ] = "shorter-side",
    decode: Annotated[
        Literal["exact", "scaled"],
        typer.Option(help="Decode all pixels of a JPEG, or large JPEGs at a half, a quarter or an eighth."),
    ] = "exact",
    threads: Annotated[
        int | None, typer.Option(min=1, help="Decoding threads. Default: one per CPU, at most 8.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check a whole packed set against its digests.")] = False,
) -> None:
    """Decode images once, so that training does not have to: 197 kB per image. Resumes if it was interrupted."""
    from alexnet_deploy.cli.terminal import say, show_path
    from alexnet_deploy.core.model.preprocessing import ImagePolicy
    from alexnet_deploy.train.pack.format import is_packed

    check_exists(data, "packed set" if verify else "file or folder")
    if verify:
        if out is not None:
            raise UsageError("--verify takes one packed set and writes nothing; remove OUT")
        _verify(data, threads)
        return
    if out is None:
        raise UsageError("OUT is missing, the new directory for the packed set: alexnet-deploy pack DATA OUT")
    if is_packed(data):
        raise UsageError(f"{data}: is already a packed set; train on it, or pack its source again")
    _pack(data, out, ImagePolicy(resize=resize, decode=decode), threads)
    show_path(out)
    say(f"next: alexnet-deploy train {shlex.quote(str(out))}")


def _pack(data: Path, out: Path, policy: "ImagePolicy", threads: int | None) -> None:
    from alexnet_deploy.cli.terminal import images_bar, say
    from alexnet_deploy.inspection.describe import describe_excluded, describe_source
    from alexnet_deploy.train.data.scan import find_images
    from alexnet_deploy.train.pack.format import IMAGE_BYTES
    from alexnet_deploy.train.pack.writer import pack

    started = time.perf_counter()
    source = find_images(data)
    for line in describe_source(source):
        say(line)
    try:
        with images_bar("packing") as show:
            header = pack(source, out, policy, threads=threads, say=say, on_progress=show).header
    except (KeyboardInterrupt, SystemExit):
        say("interrupted; repeat the command to resume")
        raise
    for line in describe_excluded(header.excluded):
        say(line)
    say(
        f"{counted(header.num_train, 'training image')}, {counted(header.num_validation, 'validation image')}, "
        f"{header.num_images * IMAGE_BYTES / 1e9:,.2f} GB, {len(header.excluded):,} skipped; "
        f"{time.perf_counter() - started:.0f} s in total"
    )


def _verify(path: Path, threads: int | None) -> None:
    from alexnet_deploy.cli.terminal import images_bar, show
    from alexnet_deploy.train.pack.format import open_pack, verify

    found = open_pack(path)
    with images_bar("verifying") as progress:
        for num_verified in verify(found, threads):
            progress(num_verified, found.header.num_images)
    show(f"{path}: {counted(found.header.num_images, 'image')}, all unchanged since packing")
