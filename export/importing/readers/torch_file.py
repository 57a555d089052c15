"""Checkpoints of torch.save: state dicts, bare or one level down.

A checkpoint is a pickle, which can run whatever it names. torch reads it with `weights_only=True`, and before that each
name in it must be one of those that tensors need: torch's own list has functions that fill memory (bytearray).
"""

import mmap
import pickle
import pickletools
import struct
import warnings
import zipfile
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.files import sha256_of_open
from alexnet_deploy.core.fs.opening import open_input
from alexnet_deploy.export.importing.readers.state_dict import StateDict, find_state_dict
from alexnet_deploy.export.importing.readers.zip_directory import open_zip
from alexnet_deploy.export.importing.source import Assumption, Source, SourcePreprocessing

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""torch's magic number, pickled: the start of files from torch before 1.6."""
_TAR_MEMBERS = (b"sys_info", b"pickle", b"storages", b"tensors")
"""Members of the tar archives of torch 0.1."""
_NUM_LEGACY_PICKLES = 5
"""Magic number, protocol, machine, the object itself, the keys of its storages."""

_PROTOCOL = 2

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_ADMITTED = frozenset(
    {
        "collections OrderedDict",
        "torch Size",
        "torch device",
        "torch._utils _rebuild_tensor",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch.nn.parameter Parameter",
        *(f"torch {kind}Storage" for kind in _STORAGES),
    }
)

# Exceptions of torch and pickle for invalid bytes.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    struct.error,
    RuntimeError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    EOFError,
    OverflowError,
    MemoryError,
    AssertionError,
    NotImplementedError,
)


def recognises(path: Path, start: bytes) -> bool:
    """Return whether torch.save wrote it, in any of its three formats."""
    if start.startswith(_ZIP):
        return _pickle_name(path) is not None
    return start.startswith(_LEGACY) or _is_old_tar(start)


def read(path: Path) -> Source:
    """Return the tensors of its state dict; see Reader.read."""
    try:
        with open_input(path) as file:
            digest = sha256_of_open(file)
            file.seek(0)
            found = find_state_dict(_load(path, file), str(path))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    return Source(
        path=path,
        sha256=digest,
        format="torch checkpoint",
        tensors={name: _as_array(tensor, name, path) for name, tensor in found.tensors.items()},
        layers=None,
        preprocessing=SourcePreprocessing(),
        labels=found.labels,
        assumptions=_about_choice(found),
    )


def _about_choice(found: StateDict) -> tuple[Assumption, ...]:
    if found.key is None or not found.others:
        return ()
    reason = f"its usual key; the file also has {', '.join(name[:100] for name in found.others)}"
    return (Assumption(subject="state dict", value=found.key, reason=reason, option=None),)


def _load(path: Path, file: BufferedReader) -> object:
    if _is_old_tar(file.peek(512)):
        raise WeightsError(
            f"{path}: is a tar archive, as torch 0.1 wrote them, which torch cannot read without running what it "
            "holds; torchvision's alexnet-owt-7be5be79.pth has the weights of alexnet-owt-4df8aa71.pth"
        )
    try:
        if file.peek(4).startswith(_ZIP):
            _check_zip(path, file)
        else:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
                for _ in range(_NUM_LEGACY_PICKLES):
                    _check_names(path, whole)  # type: ignore[arg-type]
        file.seek(0)
        with warnings.catch_warnings():
            # torch warns about its own code.
            warnings.simplefilter("ignore")
            loaded: object = torch.load(file, map_location="cpu", weights_only=True)
    except _DAMAGE as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise WeightsError(f"{path}: not a torch checkpoint, or a damaged one: {reason}") from error
    return loaded


def _check_zip(path: Path, file: BufferedReader) -> None:
    """Raise WeightsError for entries that are compressed or overlap, and for names that tensors do not need."""
    with open_zip(file) as archive:
        entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise WeightsError(
                f"{path}: is a TorchScript program, which is not run; save its state dict: "
                "torch.save(torch.jit.load(FILE).state_dict(), NEW)"
            )
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise WeightsError(f"{path}: {entry.filename} is compressed, which torch.save does not do")
        if sum(entry.file_size for entry in entries) > file.seek(0, 2):
            raise WeightsError(f"{path}: its entries have more bytes than the file")
        _check_names(path, BytesIO(archive.read(_data_pickle(archive) or "data.pkl")))


def _check_names(path: Path, file: BinaryIO) -> None:
    """Raise WeightsError for a pickle that names anything that tensors do not need."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST") and argument not in _ADMITTED:
            name = str(argument).replace(" ", ".")
            if name.startswith("torch._utils._rebuild_") or (name.startswith("torch.") and name.endswith("Storage")):
                raise WeightsError(
                    f"{path}: holds {name}, for tensors that are not plain floats; save them dense and in float32"
                )
            raise WeightsError(
                f"{path}: holds {name}, which is not a tensor and is not loaded, because loading can run code; save "
                "the state dict alone: torch.save(model.state_dict(), NEW)"
            )
        is_later = opcode.name == "PROTO" and argument != _PROTOCOL
        if is_later or opcode.name in ("STACK_GLOBAL", "EXT1", "EXT2", "EXT4"):
            raise WeightsError(
                f"{path}: is not of pickle protocol {_PROTOCOL}, as torch.save writes it unless told otherwise; "
                "save it again without pickle_protocol"
            )


def _pickle_name(path: Path) -> str | None:
    try:
        with open_input(path) as file, open_zip(file) as archive:
            return _data_pickle(archive)
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError):
        return None


def _data_pickle(archive: zipfile.ZipFile) -> str | None:
    return next((name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")), None)


def _is_old_tar(start: bytes) -> bool:
    return start[257:262] == b"ustar" and start[:100].rstrip(b"\0").removeprefix(b"./").split(b"/")[0] in _TAR_MEMBERS


def _as_array(tensor: torch.Tensor, name: str, path: Path) -> np.ndarray:
    # A stride of 0 repeats one value any number of times.
    if tensor.layout != torch.strided or tensor.is_quantized:
        raise WeightsError(f"{path}: {name} is sparse or quantised, expected plain floats")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise WeightsError(f"{path}: {name} says it has {tensor.numel():,} values, more than the file holds")
    array: np.ndarray = tensor.detach().to(torch.float32).contiguous().numpy()
    return array
