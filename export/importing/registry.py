"""The supported formats, one entry each; a file's format is detected from its content, never from its name."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.opening import KIB, open_input
from alexnet_deploy.export.importing.readers import matconvnet, safetensors_file, tensorflow_npy, torch_file
from alexnet_deploy.export.importing.readers.caffe import digits
from alexnet_deploy.export.importing.readers.caffe import model as caffe_model
from alexnet_deploy.export.importing.readers.keras import file as keras_file
from alexnet_deploy.export.importing.readers.onnx import file as onnx_file
from alexnet_deploy.export.importing.referees import numpy_forward, onnx_session, torch_rebuild
from alexnet_deploy.export.importing.source import Reader, Source

Referee: TypeAlias = Callable[[Source, np.ndarray], np.ndarray]
"""Runs a source on the input of its first layer, float32 (N, 3, S, S); returns probabilities, float (N, K).

It uses only the source's own layers and tensors, never the recogniser.
"""

_START_BYTES = 4 * KIB
_NETWORK_TEXT = re.compile(rb"^[ \t]*layers?[ \t]*:?[ \t]*\{", re.MULTILINE)
_MEAN_IMAGE = b"\x08\x01\x10\x03\x18"
"""How a BlobProto of one image of three channels begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format of files."""

    words: str
    """The name of its files in a list: "torch checkpoints"."""
    reader: Reader
    """The module that reads it."""
    referee: Referee
    """Runs such a source."""
    referee_words: str
    """Its description: "the file's layers, rebuilt in torch"."""


FORMATS = (
    Format(
        words="torch checkpoints",
        reader=torch_file,
        referee=torch_rebuild.answers,
        referee_words="the file's layers, rebuilt in torch",
    ),
    Format(
        words="safetensors files",
        reader=safetensors_file,
        referee=torch_rebuild.answers,
        referee_words="the file's layers, rebuilt in torch",
    ),
    Format(
        words="Caffe models",
        reader=caffe_model,
        referee=numpy_forward.answers,
        referee_words="the file's layers, in NumPy",
    ),
    Format(
        words="DIGITS archives and folders",
        reader=digits,
        referee=numpy_forward.answers,
        referee_words="the layers of its deploy.prototxt, in NumPy",
    ),
    Format(
        words="ONNX graphs",
        reader=onnx_file,
        referee=onnx_session.answers,
        referee_words="the file itself, in ONNX Runtime",
    ),
    Format(
        words="TensorFlow weights in .npy",
        reader=tensorflow_npy,
        referee=numpy_forward.answers,
        referee_words="its layers, in NumPy",
    ),
    Format(
        words="Keras models",
        reader=keras_file,
        referee=numpy_forward.answers,
        referee_words="the file's layers, in NumPy",
    ),
    Format(
        words="MatConvNet networks",
        reader=matconvnet,
        referee=numpy_forward.answers,
        referee_words="the file's layers, in NumPy",
    ),
)
"""Every format, in the order in which they are tried."""


def find_format(path: Path) -> Format:
    """Return the format of a file or folder; raises WeightsError if it is unreadable or of no supported format."""
    try:
        start = b""
        if not path.is_dir():
            with open_input(path) as file:
                start = file.read(_START_BYTES)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    found = next((entry for entry in FORMATS if entry.reader.recognises(path, start)), None)
    if found is None and (remedy := _part_of_a_model(start)) is not None:
        raise WeightsError(f"{path}: {remedy}")
    if found is None:
        raise WeightsError(f"{path}: {_what_it_is(path, start)}; import reads {_all_words()}")
    return found


def _what_it_is(path: Path, start: bytes) -> str:
    if not start and not path.is_dir():
        return "is empty"
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "this is a bare pickle, which is not opened because loading it can run code"
    return "unknown format"


def _part_of_a_model(start: bytes) -> str | None:
    """Return what to do with a file that belongs to a model but is not one; None for any other file."""
    if _NETWORK_TEXT.search(start) is not None:
        return (
            "this is a Caffe network as text, which holds no weights; import its .caffemodel, or a folder with both, "
            "the text as deploy.prototxt"
        )
    if start.startswith(_MEAN_IMAGE):
        return "this is a mean image; import the model, and give the image with --mean"
    return None


def _all_words() -> str:
    *first, last = (entry.words for entry in FORMATS)
    return f"{', '.join(first)} and {last}" if first else last
