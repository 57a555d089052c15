"""Reading files that may be damaged or hostile: sizes are bounded before they are read, and parsers fail in one way.

Whoever reads a whole file names the most bytes that it can have. Errors of a file are OSErrors, whose `strerror` is the
reason in words; errors of a text are msgspec.DecodeError and tomllib.TOMLDecodeError.
"""

import errno
import os
import tomllib
from pathlib import Path
from typing import BinaryIO, TypeVar

import msgspec

from alexnet_deploy.core.opening import open_input

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30

T = TypeVar("T")


def read_file(path: Path, most_bytes: int) -> bytes:
    """Return a regular file's bytes; raises OSError as open() does, and where there are more than `most_bytes`."""
    with open_input(path) as file:
        return read_rest(file, most_bytes)


def read_rest(file: BinaryIO, most_bytes: int) -> bytes:
    """Return what is left of an open regular file; raises OSError where it has more than `most_bytes` in all."""
    found = os.fstat(file.fileno()).st_size
    if found > most_bytes:
        raise OSError(errno.EFBIG, f"it has {found:,} bytes, and at most {most_bytes:,} are read")
    try:
        # It may grow while it is read.
        return file.read(most_bytes)
    except MemoryError as error:
        raise OSError(errno.ENOMEM, f"memory does not hold its {found:,} bytes") from error


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Return a JSON text as a record; raises msgspec.DecodeError, whatever is wrong with the text."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError:
        raise
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise msgspec.DecodeError("it holds bytes that are not UTF-8") from error
    except (ValueError, OverflowError) as error:
        # Whole numbers of thousands of digits.
        raise msgspec.DecodeError(f"it holds a number that cannot be read: {error}") from error


def from_toml(text: str) -> dict[str, object]:
    """Return a TOML text as a table; raises tomllib.TOMLDecodeError, whatever is wrong with the text."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise tomllib.TOMLDecodeError("it is nested too deeply") from error
    except tomllib.TOMLDecodeError:
        raise
    except (ValueError, OverflowError) as error:
        raise tomllib.TOMLDecodeError(f"it holds a value that cannot be read: {error}") from error
