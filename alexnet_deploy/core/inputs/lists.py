"""Lists of names, as `-` reads them from stdin: one name per line, or each ended by NUL; empty names are skipped.

A UTF-8 byte order mark at the start is not part of the name; a list in UTF-16 is refused. While a list is still being
written, a None is inserted if no name is available, so that the rows of the previous names do not wait for the next
name.
"""

import codecs
import io
import os
import select
from collections.abc import Iterable, Iterator
from itertools import chain, count
from typing import BinaryIO

from alexnet_deploy.core.errors import ImageErrorCode, UsageError
from alexnet_deploy.core.inputs.paths import Input, exists, expand_name, find_inputs
from alexnet_deploy.core.inputs.remote.expansion import expand_listed_url
from alexnet_deploy.core.inputs.remote.urls import forget_containers, is_url

_NULL = "use --null for a list whose names end with NUL, such as the output of `find -print0`"

# A list that arrives faster than this fills whole batches.
_PATIENCE_SECONDS = 0.05


def find_listed(sources: Iterable[str], listed: Iterable[bytes | None]) -> Iterator[Input | None]:
    """Return the inputs that `sources` expand to, in order; `-` expands to the names in `listed` (lines of bytes).

    A None in `listed` is yielded too: no more names are available yet, so the rows of all inputs before it are awaited.
    Raises UsageError at once for a URL that needs a package which is not installed; later for one in a list, for a list
    in UTF-16, or one whose names end with NUL but not its lines.
    """
    forget_containers()
    given = [_expand_list(listed) if source == "-" else find_inputs([source]) for source in sources]
    return chain.from_iterable(given)


def read_list(file: BinaryIO, *, null: bool = False) -> Iterator[bytes | None]:
    """Yield the lines of a list, and None if no more are available yet: another program may still be writing it.

    With `null` the names end with NUL and keep it, so that find_listed does not strip line breaks from them.
    """
    if not null:
        yield from _split(file, b"\n")
        return
    for name in _split(file, b"\0"):
        yield name if not name else name.removesuffix(b"\0") + b"\0"


def _split(file: BinaryIO, separator: bytes) -> Iterator[bytes | None]:
    try:
        descriptor = file.fileno()
    except io.UnsupportedOperation:
        # The list is in memory and complete.
        yield from file.read().split(separator)
        return
    begun: list[bytes] = []
    while True:
        if not select.select([descriptor], [], [], _PATIENCE_SECONDS)[0]:
            yield None
            select.select([descriptor], [], [])
        data = os.read(descriptor, 1 << 16)
        if not data:
            break
        rest, *more = data.split(separator)
        begun.append(rest)
        for line in more:
            yield b"".join(begun)
            begun = [line]
    yield b"".join(begun)


def _expand_list(listed: Iterable[bytes | None]) -> Iterator[Input | None]:
    numbers = count(start=1)
    for line in listed:
        if line is None:
            yield None
        elif name := _name_in(line, next(numbers)):
            if b"\0" in name:
                yield Input(
                    name=os.fsdecode(name), error=(ImageErrorCode.MISSING, f"a file name cannot contain NUL; {_NULL}")
                )
            elif is_url(text := os.fsdecode(name)) and not exists(text):
                yield from expand_listed_url(text)
            else:
                yield from expand_name(text, is_pattern=False)


def _name_in(line: bytes, number: int) -> bytes:
    """Return the name in line `number` of a list; raises UsageError if the first line shows that it is not a list."""
    if line.endswith(b"\0"):
        name = line[:-1]
    else:
        name = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")
    if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) and not exists(os.fsdecode(name)):
        raise UsageError(
            "the list is in UTF-16; convert it: `iconv -f UTF-16 -t UTF-8 LIST | alexnet-deploy predict -`"
        )
    if number == 1 and b"\0" in name:
        raise UsageError(f"line 1 of the list contains NUL, which no file name can; {_NULL}")
    return name
