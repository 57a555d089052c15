"""Mean images of Caffe: a BlobProto (mean.binaryproto), or the same numbers as a NumPy array (ilsvrc_2012_mean.npy).

Their channels have the order of the network's input, which for Caffe is blue, green, red.
"""

import math
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.opening import MIB, read_file
from alexnet_deploy.export.importing.readers.caffe import caffe_model_pb2 as messages
from alexnet_deploy.export.importing.readers.caffe.layers import ChainError
from alexnet_deploy.export.importing.readers.caffe.model import array_of
from alexnet_deploy.export.importing.readers.npy_header import MAGIC, NpyError, read_npy_header
from alexnet_deploy.export.importing.source import MeanImage

MOST_MEAN_BYTES = 16 * MIB


def read_mean_image(path: Path) -> MeanImage:
    """Return the mean image in a .binaryproto or .npy file, by its content; raises WeightsError."""
    try:
        data = read_file(path, MOST_MEAN_BYTES)
        return mean_image_of(_array_of_npy(data) if data.startswith(MAGIC) else _array_of_blob(data), path.name)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ChainError as error:
        raise WeightsError(f"{path}: {error}") from error


def mean_image_of_blob(data: bytes, name: str) -> MeanImage:
    """Return the mean image of a BlobProto; raises ChainError, which names the file."""
    try:
        return mean_image_of(_array_of_blob(data), name)
    except ChainError as error:
        raise ChainError(f"its {name}: {error}") from error


def mean_image_of(array: np.ndarray, name: str) -> MeanImage:
    """Return an array (3, H, W) or (1, 3, H, W) as a mean image; raises ChainError for another one."""
    pixels = array[0] if array.ndim == 4 and len(array) == 1 else array
    if pixels.ndim != 3 or len(pixels) != 3:
        raise ChainError(f"has the shape {_words(array.shape)}, expected 3 channels, height and width")
    if not np.isfinite(pixels).all():
        raise ChainError("holds NaN or infinite values")
    return MeanImage(name=name, pixels=np.ascontiguousarray(pixels, np.float32))


def _array_of_blob(data: bytes) -> np.ndarray:
    blob = messages.BlobProto()
    try:
        blob.ParseFromString(data)
    except DecodeError as error:
        raise ChainError("is not a mean image (.binaryproto or .npy), or is damaged") from error
    return array_of(blob, "the image")


def _array_of_npy(data: bytes) -> np.ndarray:
    try:
        header = read_npy_header(data)
    except NpyError as error:
        raise ChainError(str(error)) from error
    shape, dtype, values = header.shape, header.dtype, data[header.num_bytes :]
    if dtype.kind != "f" or len(shape) > 4:
        raise ChainError(f"holds an array {_words(shape)} of {dtype}, expected floats of 3 channels, height and width")
    # Not NumPy's product, which overflows.
    if math.prod(shape) * dtype.itemsize != len(values):
        raise ChainError(f"has {len(values):,} bytes of values, which do not match its shape {_words(shape)}")
    return np.frombuffer(values, dtype).reshape(shape, order="F" if header.is_fortran else "C")


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape[:8])) or "of a single number"
