"""Safetensors files, opened once: the bytes that are hashed are the bytes that are parsed.

    8 bytes     length of the header, little-endian
    header      JSON: {"__metadata__": {KEY: TEXT},
                       NAME: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...}
    the rest    the tensors without gaps, little-endian

The safetensors package reads from a path, which may lead to another file a moment later, or copies every tensor.

TEXT is a JSON object of ours. It holds `tensors_sha256`, the digest of the tensors' names, shapes and bytes, and
`header_sha256`, the digest of TEXT itself with 64 zeros in the place of this digest. Older formats lack them.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from types import MappingProxyType

import msgspec
import numpy as np
from msgspec import Struct

from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.fs.opening import GIB, open_input
from alexnet_deploy.core.fs.reading import from_json

BLANK = "0" * 64
"""In the place of a text's own digest while it is computed."""

# As the safetensors package has it.
_MOST_HEADER_BYTES = 100_000_000

# A checkpoint holds a network four times, and no graph of more than 2 GiB can be written.
_MOST_BYTES = 8 * GIB

_MOST_DIMENSIONS = 8

_METADATA = "__metadata__"
FLOAT32 = MappingProxyType({"F32": "<f4"})
"""The one type of this program's own files: safetensors' name, and NumPy's."""

NUMBERS = MappingProxyType(
    {
        **FLOAT32,
        "F64": "<f8",
        "F16": "<f2",
        "I64": "<i8",
        "I32": "<i4",
        "I16": "<i2",
        "I8": "<i1",
        "U8": "<u1",
        "BOOL": "<u1",
        # NumPy has no such type: these are the upper halves of float32.
        "BF16": "<u2",
    }
)
"""Types of other programs' files."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class TensorFileError(Exception):
    """The file is no safetensors file, or its bytes are not those that were written; the text is the reason."""


class Seal(Struct, kw_only=True):
    """What every text of ours says of its format."""

    format_version: int
    tensors_sha256: str = ""
    header_sha256: str = ""


class _Entry(Struct, kw_only=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTensors:
    """The tensors of a file, which share one block of memory."""

    tensors: Mapping[str, np.ndarray]
    """float32, writable; in another program's file of whatever type it has."""
    sha256: str
    """Digest of the whole file."""


class TensorFile:
    """An open file whose header has been read."""

    def __init__(self, file: BufferedReader, dtypes: Mapping[str, str] = FLOAT32) -> None:
        """Read the header; raises TensorFileError where it is none, OSError as reading does."""
        self._file = file
        self._dtypes = dtypes
        length = file.read(8)
        self._num_data_bytes = file.seek(0, 2) - 8 - int.from_bytes(length, "little")
        if self._num_data_bytes < 0:
            raise TensorFileError("it is shorter than its header")
        if int.from_bytes(length, "little") > _MOST_HEADER_BYTES:
            raise TensorFileError(f"its header has more than {_MOST_HEADER_BYTES:,} bytes")
        file.seek(8)
        header = file.read(int.from_bytes(length, "little"))
        self._header = length + header
        # The writer pads with spaces; JSON would take line breaks too.
        if not header.rstrip(b" ").endswith(b"}"):
            raise TensorFileError("its header does not end as it must")
        try:
            parts = from_json(header, dict[str, msgspec.Raw])
            self.metadata = from_json(bytes(parts.pop(_METADATA, msgspec.Raw(b"{}"))), dict[str, str])
            self._entries = {name: from_json(bytes(part), _Entry) for name, part in parts.items()}
        except msgspec.DecodeError as error:
            raise TensorFileError(f"its header cannot be read: {error}") from error
        _check_entries(self._entries, self._num_data_bytes, dtypes)

    @property
    def dtypes(self) -> dict[str, str]:
        """The type of each tensor, by name, as safetensors calls it."""
        return {name: entry.dtype for name, entry in self._entries.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def text(self, key: str, versions: Sequence[int], sealed_from: int) -> str:
        """Return the text of this key, whose version is one of `versions`; from `sealed_from` on it holds its digest.

        Raises KeyError where there is none, UnknownVersionError, and TensorFileError where its digest does not fit it
        or it is no JSON.
        """
        text = self.metadata[key]
        try:
            seal = from_json(text, Seal)
        except msgspec.DecodeError as error:
            raise TensorFileError(f"its header cannot be read: {error}") from error
        if seal.format_version not in versions:
            raise UnknownVersionError(seal.format_version)
        if seal.format_version >= sealed_from:
            if not _is_sealed(text, seal.header_sha256) or not _DIGEST.fullmatch(seal.tensors_sha256):
                raise TensorFileError("its header is not the one that was saved: its digest does not fit it")
        elif seal.header_sha256:
            raise TensorFileError(f"a header of format {seal.format_version} has no digest of its own")
        return text

    def read(self, tensors_sha256: str) -> ReadTensors:
        """Return the tensors; raises TensorFileError where they are others than `tensors_sha256` says, unless empty."""
        try:
            data = np.empty(self._num_data_bytes, np.uint8)
        except MemoryError as error:
            raise TensorFileError(f"memory does not hold its {self._num_data_bytes:,} bytes") from error
        self._file.seek(len(self._header))
        if self._file.readinto(data.data) != len(data):
            raise TensorFileError("it became shorter while it was read")
        tensors = {
            name: data[slice(*entry.data_offsets)].view(self._dtypes[entry.dtype]).reshape(entry.shape)
            for name, entry in self._entries.items()
        }
        if tensors_sha256 and (found := digest_of(tensors)) != tensors_sha256:
            raise TensorFileError(
                f"its tensors' SHA-256 is {found[:12]}, and was {tensors_sha256[:12]} when they were saved"
            )
        whole = hashlib.sha256(self._header)
        whole.update(data.data)
        return ReadTensors(tensors=tensors, sha256=whole.hexdigest())


class UnknownVersionError(Exception):
    """A text of a format that this program does not read."""

    def __init__(self, version: int) -> None:
        super().__init__(f"format {version} is not read")
        self.version = version


@contextmanager
def open_tensors(path: Path, dtypes: Mapping[str, str] = FLOAT32) -> Iterator[TensorFile]:
    """Open a file of tensors of these types and read its header.

    Raises TensorFileError where it is none or has another type, and OSError as open() does.
    """
    with open_input(path) as file:
        yield TensorFile(file, dtypes)


def _check_entries(entries: Mapping[str, _Entry], num_bytes: int, dtypes: Mapping[str, str]) -> None:
    """Raise TensorFileError unless the tensors are of these types and fill `num_bytes` without gaps, in some order."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in dtypes:
            raise TensorFileError(f"{name} is {entry.dtype}, where {' or '.join(dtypes)} is needed")
        # Few dimensions: a product of thousands of large numbers takes hours.
        is_shape = len(entry.shape) <= _MOST_DIMENSIONS and min(entry.shape, default=1) >= 1
        entry_bytes = math.prod(entry.shape) * np.dtype(dtypes[entry.dtype]).itemsize if is_shape else 0
        if not is_shape or entry.data_offsets != (end, end + entry_bytes):
            begin, stop = entry.data_offsets
            raise TensorFileError(
                f"{name} of shape {entry.shape[:_MOST_DIMENSIONS]} cannot be bytes {begin:,} to {stop:,}"
            )
        end += entry_bytes
    if end != num_bytes:
        raise TensorFileError(f"its tensors take {end:,} bytes, and {num_bytes:,} follow the header")
    if num_bytes > _MOST_BYTES:
        raise TensorFileError(f"its tensors take {num_bytes:,} bytes, and at most {_MOST_BYTES:,} are read")


def digest_of(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the names, shapes and bytes of contiguous float32 tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape}\n".encode())
        digest.update(tensors[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def seal_text(record: Struct) -> str:
    """Return a record, whose header_sha256 is BLANK, as the text of a file's header, with its digest filled in."""
    text = msgspec.json.encode(record, order="deterministic").decode()
    assert text.count(_own_digest(BLANK)) == 1, "the record has its digest still to be filled in"
    return text.replace(_own_digest(BLANK), _own_digest(sha256(text.encode())))


def _is_sealed(text: str, digest: str) -> bool:
    blank = text.replace(_own_digest(digest), _own_digest(BLANK)).encode()
    return _DIGEST.fullmatch(digest) is not None and sha256(blank) == digest


def _own_digest(digest: str) -> str:
    # No string within the text can hold this: there, quotes have backslashes.
    return f'"header_sha256":"{digest}"'
