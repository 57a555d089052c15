"""The list of a job's inputs, in a file of its own: a line of JSON for each, with its name and where it is stored."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from io import BufferedWriter
from itertools import cycle, zip_longest
from pathlib import Path

import msgspec

from alexnet_deploy.core.errors import ImageErrorCode, UsageError
from alexnet_deploy.core.fs.opening import open_input, open_working
from alexnet_deploy.core.inputs.archives import Section
from alexnet_deploy.core.inputs.item import Input
from alexnet_deploy.core.inputs.remote.reading import RemoteFile, RemoteSection
from alexnet_deploy.core.inputs.remote.urls import masked

_FILES: dict[str, type[Section | RemoteFile | RemoteSection]] = {
    "section": Section,
    "url": RemoteFile,
    "section of url": RemoteSection,
}
"""Files that are not at the path of their name, as the list of inputs calls them."""


def write_list(place: Path, inputs: Iterator[Input | None]) -> None:
    """Write a line for each input to a new file, which read_list reads."""
    place.unlink(missing_ok=True)
    with BufferedWriter(open_working(place, "xb")) as file:
        for item in inputs:
            if item is not None:
                # Names may hold bytes that are not UTF-8, which JSON writes as half of a surrogate pair.
                file.write(json.dumps([item.name, item.error, _place_of(item)]).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def split_list(place: Path, parts: Sequence[Path]) -> None:
    """Write the lines of each shard to a file of its own, so that no worker reads the names of all inputs."""
    with ExitStack() as opened:
        files = []
        for part in parts:
            part.unlink(missing_ok=True)
            files.append(opened.enter_context(BufferedWriter(open_working(part, "xb"))))
        with open_input(place) as file:
            for target, line in zip(cycle(files), file, strict=False):
                target.write(line)


def read_list(place: Path) -> Iterator[Input]:
    """Yield the inputs of a list, in order."""
    with open_input(place) as file:
        for line in file:
            name, error, stored = json.loads(line)
            yield Input(
                name=name,
                error=None if error is None else (ImageErrorCode(error[0]), error[1]),
                file=None
                if stored is None
                else msgspec.convert(stored[1], _FILES[stored[0]], dec_hook=lambda kind, text: kind(text)),
            )


def refuse_other_inputs(earlier: Path, now: Path) -> None:
    """Raise UsageError if two lists name other inputs."""
    for number, (was, found) in enumerate(zip_longest(read_list(earlier), read_list(now)), start=1):
        if (None if was is None else was.text) != (None if found is None else found.text):
            told = "there are no more inputs" if found is None else f"input {number:,} is now {found.text}"
            before = "there was none" if was is None else f"it was {was.text}"
            raise UsageError(f"cannot resume: {told}, but in the interrupted run {before}")


def _place_of(item: Input) -> tuple[str, object] | None:
    """Return where a file in an archive or on a server is, as JSON; None for a file of its own.

    Raises UsageError for an image that another machine cannot find.
    """
    file = item.file
    if item.held is not None or item.stored is not None:
        raise UsageError(f"{item.text}: --ray takes files, not images in memory or in a packed set")
    if file is None:
        return None
    if isinstance(file, RemoteSection):
        file = replace(file, data=None)
    place = msgspec.to_builtins(file, enc_hook=str)
    if masked(text := json.dumps(place)) != text:
        raise UsageError(
            f"{item.text}: --ray would write the password of this URL to a file; pass it in an environment variable of "
            "the file system"
        )
    return next(name for name, kind in _FILES.items() if isinstance(file, kind)), place
