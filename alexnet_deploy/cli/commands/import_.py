"""`alexnet-deploy import`."""

import os
import re
import shlex
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.names import RUNS, check_exists, check_is_foreign, check_new_place, new_import, note_latest
from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.core.model.preprocessing import RGB
    from alexnet_deploy.export.importing.assume import LrnConstants
    from alexnet_deploy.export.importing.source import MeanImage


def import_(
    file: Annotated[
        Path,
        typer.Argument(
            help="A torch checkpoint, a state dict in safetensors, a .caffemodel, a DIGITS archive or folder, an ONNX "
            "graph, TensorFlow weights in .npy, a Keras .h5 or .keras, or a MatConvNet .mat."
        ),
    ],
    arch: Annotated[
        str | None,
        typer.Option(
            help="Architecture, if the file does not contain its layers; or a name for the new table. A name that ends "
            "in .toml is a file with the table of layers that the network must have; see `inspect --toml`."
        ),
    ] = None,
    channel_order: Annotated[
        Literal["RGB", "BGR"] | None, typer.Option(help="Channel order of the network's input.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B|FILE",
            help="Mean to subtract from each pixel, on 0..255; or a mean image, .binaryproto or .npy.",
        ),
    ] = None,
    mean_image: Annotated[
        Literal["exact", "channels"],
        typer.Option(help="Subtract a mean image pixel by pixel, or use its three channel means."),
    ] = "exact",
    scale: Annotated[
        str | None,
        typer.Option(
            metavar="R,G,B",
            help="Factor for (pixel - mean); one number for all channels, or three; 1/58.395 is accepted.",
        ),
    ] = None,
    resize: Annotated[
        Literal["shorter-side", "warp"] | None,
        typer.Option(help="Use the central square, or warp the whole image to a square."),
    ] = None,
    decode: Annotated[
        Literal["exact", "scaled"] | None,
        typer.Option(help="Decode all pixels of a JPEG, or large JPEGs at a half, a quarter or an eighth: faster."),
    ] = None,
    lrn: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE,ALPHA,BETA,K", help="Constants of LRN, if the file does not contain them; alpha as in torch."
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="File with the class names, one per line.")] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="NAME,NAME,...", help="Class names, instead of --labels.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="New directory for the weights. Default: runs/ARCH-imported-TIME.")
    ] = None,
) -> None:
    """Convert weights of another program to a weights file, and verify it against the file itself."""
    from alexnet_deploy.cli.terminal import say, show_path
    from alexnet_deploy.core.model.labels import read_labels
    from alexnet_deploy.core.model.table_text import architecture_by_name_or_file
    from alexnet_deploy.export.importing.assume import Overrides
    from alexnet_deploy.pipeline.pretrained.importing import save_import, understand, weights_of

    if labels is not None and classes is not None:
        raise UsageError("--labels and --classes both name the classes; give one of them")
    check_exists(file, "file or folder")
    check_is_foreign(file)
    check_new_place(out)
    if out is not None and os.path.lexists(out):
        raise UsageError(f"{out}: already exists; choose another --out")
    is_file = arch is not None and arch.endswith(".toml")
    overrides = Overrides(
        architecture=None if is_file else arch,
        table=architecture_by_name_or_file(arch) if arch is not None and is_file else None,
        channel_order=channel_order,
        mean=None if mean is None else _mean(mean),
        mean_image=mean_image,
        scale=None if scale is None else _rgb("--scale", scale),
        resize=resize,
        decode=decode,
        lrn=None if lrn is None else _lrn(lrn),
        labels=read_labels(labels) if labels is not None else None if classes is None else _names(classes),
    )
    weights = weights_of(understand(file, overrides, say=say))
    loaded = save_import(weights, out or new_import(weights.architecture.name))
    show_path(loaded.path)
    run = loaded.path.parent
    note_latest(run)
    say("next: alexnet-deploy export" + ("" if run.parent == RUNS else f" {shlex.quote(str(run))}"))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(Fraction(part.strip())) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError) as error:
        raise UsageError(f"{option} {text}: must be numbers separated by commas") from error


def _rgb(option: str, text: str) -> "RGB":
    numbers = _numbers(option, text)
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise UsageError(f"{option} {text}: {counted(len(numbers), 'number')}, expected red, green and blue")
    red, green, blue = numbers
    return red, green, blue


def _mean(text: str) -> "RGB | MeanImage":
    from alexnet_deploy.export.importing.readers.caffe.mean import read_mean_image

    if os.path.lexists(text):
        return read_mean_image(Path(text))
    if re.search("[a-df-zA-DF-Z]", text):
        raise UsageError(f"--mean {text}: there is no such file; expected three numbers or a mean image")
    return _rgb("--mean", text)


def _lrn(text: str) -> "LrnConstants":
    from alexnet_deploy.export.importing.assume import LrnConstants

    numbers = _numbers("--lrn", text)
    if len(numbers) != 4 or numbers[0] != int(numbers[0]):
        raise UsageError(f"--lrn {text}: expected SIZE,ALPHA,BETA,K, such as 5,1e-4,0.75,1")
    size, alpha, beta, k = numbers
    return LrnConstants(size=int(size), alpha=alpha, beta=beta, k=k)
