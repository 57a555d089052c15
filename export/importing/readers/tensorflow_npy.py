"""TensorFlow's AlexNet as NumPy saved it (.npy): a pickled dict of layers, such as bvlc_alexnet.npy of Toronto.

Each layer is a list of weights and biases, or a dict of both, as caffe-tensorflow writes it: filters (H, W, I, O),
fully connected weights (in, out). The file holds no layers, and fc6's inputs are in H, W, C order.
"""

from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.fs.opening import read_file
from alexnet_deploy.export.importing.readers.array_pickle import Array, PickleError, Value, read_pickle
from alexnet_deploy.export.importing.readers.npy_header import MAGIC, NpyError, read_npy_header
from alexnet_deploy.export.importing.source import Source, SourcePreprocessing

_MOST_BYTES = 1 << 32
_PARTS = ("weights", "biases")


def recognises(path: Path, start: bytes) -> bool:
    """Return whether it begins like NumPy's files."""
    return start.startswith(MAGIC)


def read(path: Path) -> Source:
    """Return its tensors, as conv1/weights and conv1/biases; see Reader.read."""
    try:
        data = read_file(path, _MOST_BYTES)
        tensors = _tensors(read_pickle(memoryview(data)[_begin_of_pickle(data) :]))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except PickleError as error:
        raise WeightsError(f"{path}: {error}") from error
    return Source(
        path=path,
        sha256=sha256(data),
        format="TensorFlow weights in NumPy's format",
        tensors=tensors,
        layers=None,
        preprocessing=SourcePreprocessing(),
        labels=None,
        origin="tensorflow-npy",
    )


def _begin_of_pickle(data: bytes) -> int:
    """Return where the pickle of an array of objects begins; raises PickleError for an array of another type."""
    try:
        header = read_npy_header(data)
    except NpyError as error:
        raise PickleError(str(error)) from error
    if not header.dtype.hasobject:
        found = " x ".join(map(str, header.shape[:8])) or "one number"
        hint = "; give a mean image with --mean when you import its model" if 3 in header.shape[:2] else ""
        raise PickleError(f"holds one array ({found} of {header.dtype}), expected the layers of a network{hint}")
    return header.num_bytes


def _tensors(value: Value) -> dict[str, np.ndarray]:
    if isinstance(value, Array) and value.kind == "O" and isinstance(value.content, list) and len(value.content) == 1:
        (value,) = value.content
    if not isinstance(value, dict):
        raise PickleError("holds no dict of layers")
    tensors = {}
    for layer, parts in value.items():
        named = dict(zip(_PARTS, parts, strict=False)) if isinstance(parts, list | tuple) else parts
        if not isinstance(named, dict) or not named or not named.keys() <= set(_PARTS):
            raise PickleError(f"{layer[:100]!r} is not a layer with weights and biases")
        for part, array in named.items():
            if not isinstance(array, Array):
                raise PickleError(f"{layer[:100]!r} is not a layer with weights and biases")
            tensors[f"{layer}/{part}"] = array.values()
    return tensors
