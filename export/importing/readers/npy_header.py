"""The header of NumPy's files (.npy), read without reading, or allocating, what follows it."""

from dataclasses import dataclass
from io import BytesIO
from tokenize import TokenError

import numpy as np
from numpy.lib import format as npy

MAGIC = b"\x93NUMPY"
_MOST_BYTES = 16 * 1024


class NpyError(Exception):
    """The header is damaged; the text says how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NpyHeader:
    """What a file says of its array."""

    shape: tuple[int, ...]
    is_fortran: bool
    dtype: np.dtype
    num_bytes: int
    """Length of the header, and the place of the values."""


def read_npy_header(data: bytes) -> NpyHeader:
    """Return the header of a file's bytes; raises NpyError."""
    file = BytesIO(data[:_MOST_BYTES])
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read(file)
    # NumPy parses the header as Python's text.
    except (
        *(ValueError, TypeError, SyntaxError, TokenError),
        *(EOFError, OverflowError, RecursionError, MemoryError),
    ) as error:
        reason = str(error.args[0] if error.args else error).strip().split("\n")[0]
        raise NpyError(f"is not a .npy file, or is damaged: {reason}") from error
    return NpyHeader(shape=shape, is_fortran=is_fortran, dtype=dtype, num_bytes=file.tell())
