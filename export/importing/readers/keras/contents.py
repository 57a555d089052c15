"""What an HDF5 file contains, as a child process lists it: names, texts, and where each array lies in the file.

HDF5 is parsed by a C library, which is why the library runs in a process of its own with limits (hdf5_process). That
process gives back no numbers: Keras stores each array as one plain block, so this process maps the file itself, and
checks every offset and length.
"""

import math
import mmap
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from io import BufferedReader

import msgspec
import numpy as np

from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.process.installation import install_command

_PROCESS = "alexnet_deploy.export.importing.readers.keras.hdf5_process"
_MOST_SECONDS = 60
_MOST_VALUES = 1 << 29
"""As many as an architecture may have parameters."""
_DTYPES = ("<f4", "<f8")


class KerasError(Exception):
    """What is wrong with a file, in words that need its name before them."""


class ArrayPlace(msgspec.Struct, frozen=True, kw_only=True):
    """One array: where its bytes lie, or why they cannot be used."""

    shape: tuple[int, ...]
    dtype: str
    """NumPy's name; empty where there is a problem."""
    offset: int
    """Bytes from the begin of the HDF5 file."""
    problem: str | None
    """Why it cannot be used, in words that need its name before them."""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What the file contains."""

    arrays: dict[str, ArrayPlace]
    """By path, in the order of the file."""
    texts: dict[str, list[str]]
    """Attributes with texts, by "path@name"; the root's path is empty."""

    def text(self, attribute: str) -> str | None:
        """Return the only text of an attribute; None where there is none."""
        found = self.texts.get(attribute)
        return found[0] if found else None

    def listed(self, attribute: str) -> list[str] | None:
        """Return the texts of an attribute that Keras splits into name0, name1 and so on where it is long."""
        whole = self.texts.get(attribute)
        if whole is not None:
            return whole
        parts: list[str] = []
        number = 0
        while (part := self.texts.get(f"{attribute}{number}")) is not None:
            parts += part
            number += 1
        return parts if number else None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The child's answer."""

    contents: Contents | None
    error: str | None
    """Why the file was refused; None where it was not."""


def list_contents(file: BufferedReader, begin: int, num_bytes: int) -> Contents:
    """Return what the HDF5 file contains that is `num_bytes` of an open file from `begin` on.

    Raises KerasError where it is damaged or refused, and where h5py is not installed.
    """
    if find_spec("h5py") is None:
        command = install_command("import")
        raise KerasError(f"is an HDF5 file, and h5py, which reads them, is not installed; run `{command}`")
    # The library loads filters, which are programs, from a folder; "::" switches that off.
    environment = {**os.environ, "HDF5_PLUGIN_PRELOAD": "::", "OPENBLAS_NUM_THREADS": "1"}
    program = [sys.executable, "-P", "-m", _PROCESS, str(begin), str(num_bytes)]
    try:
        done = subprocess.run(program, stdin=file, capture_output=True, timeout=_MOST_SECONDS, env=environment)
    except subprocess.TimeoutExpired as error:
        raise KerasError(f"is a damaged HDF5 file: listing it took more than {_MOST_SECONDS} s") from error
    if done.returncode < 0:
        raise KerasError(f"is a damaged HDF5 file: the HDF5 library ended by signal {-done.returncode}")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1][:200] if lines else f"exit code {done.returncode}"
        raise KerasError(f"cannot be read, because the process that lists HDF5 files failed: {reason}")
    try:
        listing = from_json(done.stdout, Listing)
    except msgspec.DecodeError as error:
        raise KerasError(f"is a damaged HDF5 file: its listing cannot be read: {error}") from error
    if listing.contents is None:
        raise KerasError(listing.error or "is a damaged HDF5 file")
    return listing.contents


def map_arrays(
    file: BufferedReader, begin: int, num_bytes: int, places: Mapping[str, ArrayPlace], used: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the arrays with these paths, float32, as views of the mapped file wherever they are float32.

    Raises KerasError, with the path, for an array that cannot be used, and for arrays that overlap.
    """
    # Not closed by hand: the arrays are views of it. It goes with the last of them.
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays, total = {}, 0
    for path in used:
        place = places.get(path)
        if place is None:
            raise KerasError(f"has no array {path}")
        if place.problem is not None:
            raise KerasError(f"{path}: {place.problem}")
        if place.dtype not in _DTYPES:
            raise KerasError(f"{path}: holds values of type {place.dtype}, where float32 is needed")
        count = math.prod(place.shape)
        if min(place.shape, default=1) < 1 or len(place.shape) > 4 or count > _MOST_VALUES:
            raise KerasError(f"{path}: has the shape {place.shape[:8]}")
        size = count * np.dtype(place.dtype).itemsize
        total += size
        if place.offset < 0 or place.offset + size > num_bytes or total > num_bytes:
            raise KerasError(f"{path}: its values reach beyond the end of the file, or overlap others")
        values = np.frombuffer(whole, place.dtype, count, begin + place.offset).reshape(place.shape)
        values = values.astype(np.float32, copy=False)
        # Kernels are transposed into new memory later; biases are used as they are, and must be aligned.
        arrays[path] = np.require(values, requirements="A") if values.ndim == 1 else values
    return arrays
