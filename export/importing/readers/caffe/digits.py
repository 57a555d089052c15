"""Models of DIGITS: an archive (.tar.gz) or a folder of deploy.prototxt, snapshot_iter_N.caffemodel and a mean.

The text decides the order of layers; the model, which was saved while it trained, holds the weights. labels.txt names
the classes, info.json says how images were resized.

Source: NVIDIA/DIGITS, digits/model/views.py (download) and digits/model/tasks/caffe_train.py.
"""

import hashlib
import mmap
import os
import re
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

import msgspec
from google.protobuf.message import DecodeError

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.opening import MIB, open_input, pieces_of, read_rest
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.model.labels import decode_list_of_labels
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, ResizePolicy
from alexnet_deploy.core.tar_file import TarError, unpack
from alexnet_deploy.export.importing.readers.caffe.layers import ChainError, chain_of, check_fit
from alexnet_deploy.export.importing.readers.caffe.mean import MOST_MEAN_BYTES, mean_image_of_blob
from alexnet_deploy.export.importing.readers.caffe.model import parse_model, scale_of
from alexnet_deploy.export.importing.readers.caffe.prototxt import MOST_TEXT_BYTES, parse_text
from alexnet_deploy.export.importing.readers.wire import WireError
from alexnet_deploy.export.importing.source import Assumption, MeanImage, Source, SourcePreprocessing

_DEPLOY, _MEAN, _LABELS, _INFO = "deploy.prototxt", "mean.binaryproto", "labels.txt", "info.json"
_MOST_BYTES = MappingProxyType({_DEPLOY: MOST_TEXT_BYTES, _MEAN: MOST_MEAN_BYTES, _LABELS: 4 * MIB, _INFO: MIB})
_MODEL = ".caffemodel"
_MOST_MODELS = 100
_MOST_GROWTH = 150 * MIB
"""By which an archive may grow when it is unpacked: weights that were trained hardly shrink when they are packed."""
_GZIP = b"\x1f\x8b"

_RESIZES: MappingProxyType[str, ResizePolicy] = MappingProxyType({"squash": "warp", "crop": "shorter-side"})


class _Info(msgspec.Struct, frozen=True, kw_only=True):
    """What info.json says that is of use here."""

    resize: str | None = msgspec.field(name="image resize mode", default=None)
    dimensions: list[int] | None = msgspec.field(name="image dimensions", default=None)
    snapshot: str | None = msgspec.field(name="snapshot file", default=None)


def recognises(path: Path, start: bytes) -> bool:
    """Return whether it is a folder with a deploy.prototxt, or a tar archive, gzipped or not."""
    if path.is_dir():
        return (path / _DEPLOY).is_file()
    return start.startswith(_GZIP) or start[257:262] == b"ustar"


def read(path: Path) -> Source:
    """Return its layers, tensors, mean and class names; see Reader.read."""
    try:
        with ExitStack() as stack:
            job = _folder(path, stack) if path.is_dir() else _archive(path, stack)
            return _source(path, job, stack)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (WireError, DecodeError, UnicodeDecodeError) as error:
        raise WeightsError(f"{path}: its model is not a Caffe model, or is damaged: {error}") from error
    except (ChainError, TarError) as error:
        raise WeightsError(f"{path}: {error}") from error


@dataclass(slots=True, kw_only=True)
class _Job:
    """The open files of a model of DIGITS, by name."""

    files: dict[str, BinaryIO] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    """Names of all models, of which a folder's are not open yet."""
    archive_sha256: str | None = None
    """None for a folder."""

    def bytes_of(self, name: str) -> bytes | None:
        """Return a small file's bytes; None where it is missing."""
        file = self.files.get(name)
        if file is None:
            return None
        file.seek(0)
        return read_rest(file, _MOST_BYTES[name])


def _folder(path: Path, stack: ExitStack) -> _Job:
    names = {entry.name for entry in path.iterdir()}
    files: dict[str, BinaryIO] = {
        name: stack.enter_context(open_input(path / name)) for name in sorted(names & _MOST_BYTES.keys())
    }
    return _Job(files=files, models=sorted(name for name in names if name.endswith(_MODEL)))


def _archive(path: Path, stack: ExitStack) -> _Job:
    """Unpack the files that are needed to temporary files without names."""
    job = _Job()

    def place_for(name: str) -> BinaryIO | None:
        if name not in _MOST_BYTES and not name.endswith(_MODEL):
            return None
        if name in job.files:
            raise TarError(f"holds two files called {name[:100]}")
        if name.endswith(_MODEL):
            job.models.append(name)
        if len(job.models) > _MOST_MODELS:
            raise TarError(f"holds more than {_MOST_MODELS} models")
        place = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        job.files[name] = place
        return place

    with open_input(path) as file:
        digest, size = hashlib.sha256(), 0
        for piece in pieces_of(file):
            digest.update(piece)
            size += len(piece)
        file.seek(0)
        unpack(file, place_for, size + _MOST_GROWTH)
    for unpacked in job.files.values():
        unpacked.flush()
    job.archive_sha256 = digest.hexdigest()
    return job


def _source(path: Path, job: _Job, stack: ExitStack) -> Source:
    deploy = job.bytes_of(_DEPLOY)
    if deploy is None:
        raise ChainError(f"is not a model of DIGITS: {_DEPLOY} is missing")
    info = _info(job)
    name, assumptions = _snapshot(job, info)
    text = parse_text(deploy, _DEPLOY)
    file = job.files.get(name) or stack.enter_context(open_input(path / name))
    if not file.seek(0, os.SEEK_END):
        raise ChainError(f"its {name} is empty")
    # Not closed by hand: the tensors are views of it. It goes with the last of them.
    whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    model = parse_model(memoryview(whole))
    check_fit(text.layers, model.tensors, _DEPLOY)
    return Source(
        path=path,
        sha256=job.archive_sha256 or hashlib.sha256(whole).hexdigest(),
        format=f"DIGITS {'folder' if job.archive_sha256 is None else 'archive'} (Caffe, {name})",
        tensors=model.tensors,
        layers=chain_of(text.layers, model.tensors),
        preprocessing=SourcePreprocessing(
            resize=_resize(info), mean_image=_mean(job), scale=scale_of(model.layers), input_size=text.input_size
        ),
        labels=_labels(job),
        origin="digits",
        assumptions=(*assumptions, *_about_size(info)),
    )


def _info(job: _Job) -> _Info:
    data = job.bytes_of(_INFO)
    if data is None:
        return _Info()
    try:
        return from_json(data, _Info)
    except msgspec.DecodeError as error:
        raise ChainError(f"its {_INFO} is damaged: {error}") from error


def _labels(job: _Job) -> tuple[str, ...] | None:
    data = job.bytes_of(_LABELS)
    try:
        return None if data is None else decode_list_of_labels(data)
    except WeightsError as error:
        raise ChainError(f"its {_LABELS}: {error}") from error


def _snapshot(job: _Job, info: _Info) -> tuple[str, tuple[Assumption, ...]]:
    """Return the model's name: the one that info.json names, or else the one that trained for longest."""
    models = job.models
    if not models:
        raise ChainError(f"is not a model of DIGITS: it has no {_MODEL}")
    if info.snapshot in models:
        return info.snapshot, ()
    if len(models) == 1:
        return models[0], ()
    iterations = {name: _iterations(name) for name in models}
    latest, *others = (name for name in models if iterations[name] == max(iterations.values()))
    if others or iterations[latest] < 0:
        raise ChainError(
            f"holds {len(models)} models, and neither {_INFO} nor their names (_iter_N) say which one trained for "
            "longest; keep one of them"
        )
    missing = "" if info.snapshot is None else f"; {_INFO} names {info.snapshot[:100]}, which is missing"
    reason = f"of {len(models)} models, it trained for longest{missing}"
    return latest, (Assumption(subject="snapshot", value=latest, reason=reason, option=None),)


def _iterations(name: str) -> int:
    """Return the number of iterations in a snapshot's name; -1 if there is none."""
    found = re.search(r"_iter_(\d{1,12})", name)
    return int(found[1]) if found else -1


def _resize(info: _Info) -> ResizePolicy | None:
    if info.resize is None or info.resize in _RESIZES:
        return None if info.resize is None else _RESIZES[info.resize]
    raise ChainError(
        f"was trained on images resized by {info.resize[:40]!r}, which is not supported; import its {_MODEL} by "
        "itself and give --resize"
    )


def _about_size(info: _Info) -> tuple[Assumption, ...]:
    sides = (info.dimensions or [])[:2]
    if not sides or set(sides) == {IMAGE_SIZE}:
        return ()
    return (
        Assumption(
            subject="image size",
            value=f"{IMAGE_SIZE} x {IMAGE_SIZE} before the crop",
            reason=f"{_INFO} says {' x '.join(map(str, sides))}, to which images are not resized here",
            option=None,
        ),
    )


def _mean(job: _Job) -> MeanImage | None:
    data = job.bytes_of(_MEAN)
    return None if data is None else mean_image_of_blob(data, _MEAN)
