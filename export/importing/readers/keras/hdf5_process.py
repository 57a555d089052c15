"""Lists what an HDF5 file contains: python -m ...readers.keras.hdf5_process BEGIN NUM_BYTES <FILE >LISTING.

It runs apart because HDF5's C library parses the file. After its imports this process can open no more files, write
none, and use 30 s of CPU time; on Linux also 128 MiB of memory beyond what it has then. It reads no values of arrays.
Links to other files, soft links and deep nesting end it; arrays that are not one plain block are reported as unusable.
"""

import codecs
import io
import math
import os
import resource
import sys
from pathlib import Path

import h5py
import msgspec

from alexnet_deploy.export.importing.readers.keras.contents import ArrayPlace, Contents, KerasError, Listing

_MORE_MEMORY = 128 << 20
_MOST_CPU_S = 30
_MOST_OBJECTS = 5000
_MOST_DEPTH = 16
_MOST_ATTRIBUTE_BYTES = 8 << 20
_MOST_TEXTS = 10_000

_TEXTS = ("model_config", "keras_version", "backend", "name", "layer_names", "weight_names")
"""Attributes that are read; of the last two also name0, name1 and so on."""
_SKIPPED = ("optimizer", "optimizer_weights")
"""Groups at the top that hold no weights of the network."""
_FLOATS = ((h5py.h5t.IEEE_F32LE, "<f4"), (h5py.h5t.IEEE_F64LE, "<f8"))

# What h5py raises over files that are damaged.
_DAMAGE = (OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError)


class _Part(io.RawIOBase):
    """A part of the file that is standard input, as a file of its own."""

    def __init__(self, begin: int, num_bytes: int) -> None:
        self._begin, self._num_bytes, self._at = begin, num_bytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._num_bytes}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._num_bytes - self._at))
        data = os.pread(sys.stdin.fileno(), wanted, self._begin + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def main() -> None:
    """Write the listing, as JSON, to standard output."""
    part = _Part(*map(int, sys.argv[1:3]))
    limit()
    try:
        listing = Listing(contents=_contents(part), error=None)
    except KerasError as error:
        listing = Listing(contents=None, error=str(error))
    except _DAMAGE as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        listing = Listing(contents=None, error=f"is a damaged HDF5 file: {reason}")
    sys.stdout.buffer.write(msgspec.json.encode(listing))


def limit() -> None:
    """Take from this process what it does not need from now on: more memory, more files, more than 30 s of CPU time."""
    # h5py decodes names of types with it, and Python loads it from a file at its first use.
    codecs.lookup("ascii")
    limits = {
        resource.RLIMIT_CPU: _MOST_CPU_S,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 3,
    }
    memory = Path("/proc/self/statm")
    if memory.exists():
        limits[resource.RLIMIT_AS] = int(memory.read_text().split()[0]) * resource.getpagesize() + _MORE_MEMORY
    for kind, value in limits.items():
        _, hard = resource.getrlimit(kind)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (most, most))


def _contents(part: _Part) -> Contents:
    contents = Contents(arrays={}, texts={})
    with h5py.File(part, "r") as file:
        _list(file, "", contents, [0])
    return contents


def _list(group: h5py.Group, path: str, contents: Contents, seen: list[int]) -> None:
    """Add a group's attributes and all that is in it; `seen` counts objects."""
    if path.count("/") > _MOST_DEPTH:
        raise KerasError(f"has more than {_MOST_DEPTH} groups within one another")
    _add_texts(group, path, contents)
    for name in group:
        seen[0] += 1
        if seen[0] > _MOST_OBJECTS:
            raise KerasError(f"has more than {_MOST_OBJECTS:,} groups and arrays; an AlexNet-like network has fewer")
        if not path and name in _SKIPPED:
            continue
        place = f"{path}/{name}" if path else name
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            kind = "another file" if isinstance(link, h5py.ExternalLink) else "another place"
            raise KerasError(f"{place[:100]}: is a link to {kind}, which is not followed; Keras writes no links")
        found = group[name]
        if isinstance(found, h5py.Group):
            _list(found, place, contents, seen)
        elif isinstance(found, h5py.Dataset):
            contents.arrays[place] = _place_of(found)


def _add_texts(group: h5py.Group, path: str, contents: Contents) -> None:
    if len(group.attrs) > _MOST_TEXTS:
        raise KerasError(f"has {len(group.attrs):,} attributes at {path[:100] or 'the top'}")
    for name in group.attrs:
        if name.rstrip("0123456789") not in _TEXTS:
            continue
        attribute = group.attrs.get_id(name)
        if attribute.shape is None or 0 in attribute.shape:
            contents.texts[f"{path}@{name}"] = []
            continue
        if math.prod(attribute.shape) > _MOST_TEXTS:
            raise KerasError(f"its {name} has {math.prod(attribute.shape):,} texts")
        if attribute.get_storage_size() > _MOST_ATTRIBUTE_BYTES:
            raise KerasError(f"its {name} has {attribute.get_storage_size():,} bytes")
        value = group.attrs[name]
        values = [value] if isinstance(value, str | bytes) else list(value)
        texts = [text.decode() if isinstance(text, bytes) else text for text in values]
        if not all(isinstance(text, str) for text in texts):
            raise KerasError(f"its {name} is not a text")
        contents.texts[f"{path}@{name}"] = texts


def _place_of(array: h5py.Dataset) -> ArrayPlace:
    """Return where an array lies, or why it cannot be used."""
    creation = array.id.get_create_plist()
    dtype = next((name for kind, name in _FLOATS if array.id.get_type().equal(kind)), "")
    offset = array.id.get_offset()
    layout = creation.get_layout()
    problem = None
    if creation.get_external_count():
        problem = "keeps its values in another file, which is not opened"
    elif layout == h5py.h5d.VIRTUAL:
        problem = "is put together from other arrays, which Keras does not do"
    elif layout != h5py.h5d.CONTIGUOUS:
        problem = "is compressed or in pieces, which Keras does not do; load the model in Keras and save it again"
    elif not dtype:
        problem = f"holds values of type {array.dtype}, where float32 is needed"
    elif array.shape is None or offset is None:
        problem = "has no values"
    return ArrayPlace(shape=array.shape or (), dtype=dtype, offset=offset or 0, problem=problem)


if __name__ == "__main__":
    main()
