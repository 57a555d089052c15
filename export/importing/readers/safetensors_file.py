"""State dicts in safetensors, Hugging Face's format."""

from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.opening import MIB, open_input
from alexnet_deploy.core.model.tensor_file import NUMBERS, TensorFileError, open_tensors
from alexnet_deploy.core.model.weights import CHECKPOINT_KEY, METADATA_KEY
from alexnet_deploy.export.importing.readers.state_dict import short_names
from alexnet_deploy.export.importing.source import Source, SourcePreprocessing

_LONGEST_HEADER = 100_000_000
"""The limit of the safetensors package."""
_MOST_HEADER_BYTES = 1 * MIB
"""Our limit: networks of the family have 2 kB, and each tensor's entry becomes a record of many times its size."""


def recognises(path: Path, start: bytes) -> bool:
    """Return whether it begins with the length of a header, and the header."""
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= _LONGEST_HEADER


def read(path: Path) -> Source:
    """Return its tensors of floats; see Reader.read."""
    try:
        with open_input(path) as plain:
            length = int.from_bytes(plain.read(8), "little")
        if length > _MOST_HEADER_BYTES:
            raise WeightsError(f"{path}: its header has {length:,} bytes, too many for an AlexNet-like network")
        with open_tensors(path, NUMBERS) as file:
            if METADATA_KEY in file.metadata or CHECKPOINT_KEY in file.metadata:
                raise WeightsError(f"{path}: this is a file of alexnet-deploy itself; use it directly")
            dtypes = file.dtypes
            names = short_names((name for name, dtype in dtypes.items() if "F" in dtype), str(path))
            found = file.read("")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except TensorFileError as error:
        raise WeightsError(f"{path}: not a safetensors file, or a damaged one: {error}") from error
    return Source(
        path=path,
        sha256=found.sha256,
        format="state dict in safetensors",
        tensors={short: _as_float32(found.tensors[name], dtypes[name]) for name, short in names.items()},
        layers=None,
        preprocessing=SourcePreprocessing(),
        labels=None,
    )


def _as_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
