"""Safetensors files, opened once, so that the bytes that are hashed are the bytes that are parsed.

    8 bytes     length of the header, little-endian
    header      JSON: {"__metadata__": {KEY: TEXT},
                       NAME: {"dtype": "F32", "shape": [...], "data_offsets": [begin, end]}, ...}
    the rest    the tensors without gaps, little-endian

The safetensors package either reads from a path, which may point to another file a moment later, or copies every
tensor.

TEXT is a JSON object in our own format. It holds `tensors_sha256`, the digest of the tensors' names, shapes and bytes,
and `header_sha256`, the digest of TEXT itself with 64 zeros in place of this digest. Older formats lack them.
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
from alexnet_deploy.core.records import read_version

BLANK = "0" * 64
"""Placeholder for a text's own digest while the digest is computed."""

# The limit of the safetensors package.
_MOST_HEADER_BYTES = 100_000_000

# A checkpoint holds the network four times, and a graph has at most 2 GiB.
_MOST_BYTES = 8 * GIB

_MOST_DIMENSIONS = 8

_METADATA = "__metadata__"
FLOAT32 = MappingProxyType({"F32": "<f4"})
"""Type of the tensors of weights and checkpoints: the name in safetensors, and the name in NumPy."""

INT64 = MappingProxyType({"I64": "<i8"})
"""Type of the counts of a calibration cache."""

NUMBERS = MappingProxyType(
    {
        **FLOAT32,
        **INT64,
        "F64": "<f8",
        "F16": "<f2",
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
    """The file is not a safetensors file, or its bytes differ from the written ones; the message is the reason."""


class DamagedError(TensorFileError):
    """The file was complete and valid once, and is not any more: it is truncated, or does not match its digests."""


class Seal(Struct, kw_only=True):
    """The digests that a TEXT has."""

    tensors_sha256: str = ""
    header_sha256: str = ""


class _Entry(Struct, kw_only=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadTensors:
    """The tensors of a file, all in one block of memory."""

    tensors: Mapping[str, np.ndarray]
    """Writable, of the types that the file was opened for."""
    sha256: str
    """Digest of the whole file."""


class TensorFile:
    """An open file whose header has been read."""

    def __init__(self, file: BufferedReader, dtypes: Mapping[str, str] = FLOAT32) -> None:
        """Read the header; raises TensorFileError if it is not valid, OSError if it cannot be read.

        A tensor of a type that is not in `dtypes` makes a file invalid.
        """
        self._file = file
        self._dtypes = dtypes
        length = file.read(8)
        if not length:
            raise DamagedError("is empty")
        self._num_data_bytes = file.seek(0, 2) - 8 - int.from_bytes(length, "little")
        if self._num_data_bytes < 0:
            raise TensorFileError("the file is shorter than its header")
        if int.from_bytes(length, "little") > _MOST_HEADER_BYTES:
            raise TensorFileError(f"its header has more than {_MOST_HEADER_BYTES:,} bytes")
        file.seek(8)
        header = file.read(int.from_bytes(length, "little"))
        self._header = length + header
        # The writer pads with spaces; JSON would take line breaks too.
        if not header.rstrip(b" ").endswith(b"}"):
            raise TensorFileError("its header does not end with }")
        try:
            parts = from_json(header, dict[str, msgspec.Raw])
            self.metadata = from_json(bytes(parts.pop(_METADATA, msgspec.Raw(b"{}"))), dict[str, str])
            self._entries = {name: from_json(bytes(part), _Entry) for name, part in parts.items()}
        except msgspec.DecodeError as error:
            raise TensorFileError(f"its header cannot be read: {error}") from error
        _check_entries(self._entries, self._num_data_bytes, dtypes)

    @property
    def num_bytes(self) -> int:
        """Size of all tensors."""
        return self._num_data_bytes

    @property
    def dtypes(self) -> dict[str, str]:
        """The type of each tensor, by name, as safetensors calls it."""
        return {name: entry.dtype for name, entry in self._entries.items()}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each tensor, by name."""
        return {name: entry.shape for name, entry in self._entries.items()}

    def text(self, key: str, format_name: str, versions: Sequence[int], sealed_from: int) -> str:
        """Return the text of this key after checking its version, and its digest from version `sealed_from` on.

        Raises KeyError if there is no such key, UnknownVersionError if the version is not one of `versions` of the
        format, and TensorFileError if the text is not JSON or does not match its digest.
        """
        text = self.metadata[key]
        try:
            version = read_version(text, format_name, versions)
            seal = from_json(text, Seal)
        except msgspec.DecodeError as error:
            raise TensorFileError(f"its header cannot be read: {error}") from error
        if version >= sealed_from:
            if not _is_sealed(text, seal.header_sha256) or not _DIGEST.fullmatch(seal.tensors_sha256):
                raise DamagedError("its header has changed since it was saved: the digest does not match")
        elif seal.header_sha256:
            raise TensorFileError(f"its header has a digest, but format {version} has none")
        return text

    def read(self, tensors_sha256: str) -> ReadTensors:
        """Return the tensors; raises TensorFileError if they do not match `tensors_sha256`; empty skips that check."""
        try:
            data = np.empty(self._num_data_bytes, np.uint8)
        except MemoryError as error:
            raise TensorFileError(f"not enough memory for its {self._num_data_bytes:,} bytes") from error
        self._file.seek(len(self._header))
        if self._file.readinto(data.data) != len(data):
            raise TensorFileError("the file became shorter while it was read")
        tensors = {
            name: data[slice(*entry.data_offsets)].view(self._dtypes[entry.dtype]).reshape(entry.shape)
            for name, entry in self._entries.items()
        }
        if tensors_sha256 and (found := digest_of(tensors)) != tensors_sha256:
            raise DamagedError(
                f"its tensors have changed since they were saved: SHA-256 was {tensors_sha256[:12]}, now {found[:12]}"
            )
        whole = hashlib.sha256(self._header)
        whole.update(data.data)
        return ReadTensors(tensors=tensors, sha256=whole.hexdigest())


@contextmanager
def open_tensors(path: Path, dtypes: Mapping[str, str] = FLOAT32) -> Iterator[TensorFile]:
    """Open a file of tensors of these types and read its header; raises TensorFileError, or OSError like open()."""
    with open_input(path) as file:
        yield TensorFile(file, dtypes)


def _check_entries(entries: Mapping[str, _Entry], num_bytes: int, dtypes: Mapping[str, str]) -> None:
    """Raise TensorFileError unless the tensors are of these types and fill `num_bytes` without gaps, in some order."""
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in dtypes:
            raise TensorFileError(f"{name} must be {' or '.join(dtypes)}, got {entry.dtype}")
        # Checked before num_bytes: a product of thousands of large dimensions takes hours.
        is_shape = len(entry.shape) <= _MOST_DIMENSIONS and min(entry.shape, default=1) >= 1
        entry_bytes = math.prod(entry.shape) * np.dtype(dtypes[entry.dtype]).itemsize if is_shape else 0
        if not is_shape or entry.data_offsets != (end, end + entry_bytes):
            begin, stop = entry.data_offsets
            raise TensorFileError(
                f"{name}: shape {entry.shape[:_MOST_DIMENSIONS]} does not match its bytes {begin:,} to {stop:,}"
            )
        end += entry_bytes
    if end > num_bytes:
        raise DamagedError(f"is truncated: its tensors take {end:,} bytes, but {num_bytes:,} follow the header")
    if end < num_bytes:
        raise TensorFileError(f"its tensors take {end:,} bytes, but {num_bytes:,} follow the header")
    if num_bytes > _MOST_BYTES:
        raise TensorFileError(f"its tensors take {num_bytes:,} bytes, the limit is {_MOST_BYTES:,}")


def digest_of(tensors: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 of the names, shapes and bytes of contiguous tensors of one type."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].shape}\n".encode())
        digest.update(tensors[name].reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def seal_text(record: Struct) -> str:
    """Return a record, whose header_sha256 is BLANK, as a header text with the digest filled in."""
    text = msgspec.json.encode(record, order="deterministic").decode()
    assert text.count(_own_digest(BLANK)) == 1, "the record's header_sha256 is BLANK"
    return text.replace(_own_digest(BLANK), _own_digest(sha256(text.encode())))


def _is_sealed(text: str, digest: str) -> bool:
    blank = text.replace(_own_digest(digest), _own_digest(BLANK)).encode()
    return _DIGEST.fullmatch(digest) is not None and sha256(blank) == digest


def _own_digest(digest: str) -> str:
    # Unique in the text: inside a JSON string, quotes are escaped by backslashes.
    return f'"header_sha256":"{digest}"'
