"""Keras's models: .h5 and .keras, whole models and weights alone, of Keras 1, 2 and 3.

A whole model tells its layers, so little is guessed. Weights alone tell only shapes, and the order of layers. No file
says how images were resized, or that its channels are RGB.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from zipfile import BadZipFile

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.files import sha256_of_open
from alexnet_deploy.core.fs.opening import open_input
from alexnet_deploy.export.importing.readers.keras.archive import CONFIG, WEIGHTS, read_archive
from alexnet_deploy.export.importing.readers.keras.config import KerasLayer, read_config
from alexnet_deploy.export.importing.readers.keras.contents import Contents, KerasError, list_contents, map_arrays
from alexnet_deploy.export.importing.readers.keras.layers import Chain, chain_of
from alexnet_deploy.export.importing.readers.zip_directory import ZipPart, open_zip
from alexnet_deploy.export.importing.source import Assumption, Connect, Convolve, Source, SourcePreprocessing

_HDF5, _ZIP = b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
_ORIGIN = "keras"
_MODEL_WEIGHTS = "model_weights"
_STORES = ("layers", "_layer_checkpoint_dependencies")
"""Groups of layers in Keras 3's way: of Keras 3 and 2.15, and of 2.12 to 2.14."""


def recognises(path: Path, start: bytes) -> bool:
    """Return whether it is an HDF5 file, or a zip that holds a Keras model."""
    if start.startswith(_HDF5):
        return True
    if not start.startswith(_ZIP):
        return False
    try:
        with open_input(path) as file, open_zip(file) as archive:
            return {CONFIG, WEIGHTS} & set(archive.namelist()) != set()
    except (OSError, BadZipFile, ValueError, NotImplementedError):
        return False


def read(path: Path) -> Source:
    """Return its tensors, and its layers where it tells them; see Reader.read."""
    try:
        with open_input(path) as file:
            digest = sha256_of_open(file)
            is_archive = file.seek(0) == 0 and file.read(len(_ZIP)) == _ZIP
            return _from_archive(path, file, digest) if is_archive else _from_hdf5(path, file, digest)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except KerasError as error:
        raise WeightsError(f"{path}: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """An HDF5 file, and where it lies."""

    path: Path
    sha256: str
    file: BufferedReader
    part: ZipPart
    contents: Contents


def _from_archive(path: Path, file: BufferedReader, digest: str) -> Source:
    archive = read_archive(file)
    contents = list_contents(file, *archive.weights)
    opened = _Opened(path=path, sha256=digest, file=file, part=archive.weights, contents=contents)
    store = _store_of(contents)
    layers = read_config(archive.config)
    for layer in layers:
        said = contents.text(f"{store}/{layer.stored_name}/vars@name")
        if said is not None and said != layer.name:
            raise KerasError(f"{layer.name}: its place in the weights is that of {said[:100]}")
    return _whole(opened, "Keras model (.keras)", layers, lambda layer: _variables(contents, store, layer.stored_name))


def _from_hdf5(path: Path, file: BufferedReader, digest: str) -> Source:
    part = ZipPart(0, file.seek(0, 2))
    contents = list_contents(file, *part)
    opened = _Opened(path=path, sha256=digest, file=file, part=part, contents=contents)
    config = contents.text("@model_config")
    if config is not None:
        _refuse_theano(contents, _MODEL_WEIGHTS)
        layers = read_config(config)
        format_words = f"Keras {_major(contents, _MODEL_WEIGHTS)} model (HDF5)"
        return _whole(opened, format_words, layers, lambda layer: _legacy(contents, _MODEL_WEIGHTS, layer.name))
    # A whole model without its config still holds its weights in the same way.
    group = _MODEL_WEIGHTS if contents.listed(f"{_MODEL_WEIGHTS}@layer_names") is not None else ""
    names = contents.listed(f"{group}@layer_names")
    if names is not None:
        _refuse_theano(contents, group)
        return _weights(opened, f"Keras {_major(contents, group)} weights (HDF5)", names, group)
    store = _store_of(contents)
    stored = {path.split("/")[1] for path in contents.arrays if path.startswith(f"{store}/")}
    if not stored:
        raise KerasError("is an HDF5 file, but not of Keras: it has neither a model's config nor layers with weights")
    return _weights(opened, "Keras 3 weights (HDF5)", sorted(stored, key=_by_number), None)


def _whole(
    opened: _Opened, words: str, layers: Sequence[KerasLayer], variables: Callable[[KerasLayer], list[str]]
) -> Source:
    shapes = {name: place.shape for name, place in opened.contents.arrays.items()}
    chain = chain_of(layers, variables, shapes)
    used = [name for layer in layers for name in variables(layer)]
    is_keras_1 = any(layer.kind == "Convolution2D" for layer in layers)
    return _source(
        opened,
        words,
        used,
        chain=chain,
        assumptions=_about_kernels()
        if is_keras_1 and opened.contents.text(f"{_MODEL_WEIGHTS}@backend") is None
        else (),
    )


def _source(
    opened: _Opened,
    words: str,
    used: Sequence[str],
    *,
    chain: Chain | None = None,
    trained: tuple[Convolve | Connect, ...] | None = None,
    assumptions: tuple[Assumption, ...] = (),
) -> Source:
    fed = SourcePreprocessing()
    if chain is not None:
        fed = SourcePreprocessing(mean=chain.mean, scale=chain.scale, input_size=chain.input_size)
    return Source(
        path=opened.path,
        sha256=opened.sha256,
        format=words,
        tensors=map_arrays(opened.file, *opened.part, opened.contents.arrays, used),
        layers=None if chain is None else chain.layers,
        trained=trained,
        preprocessing=fed,
        labels=None,
        origin=_ORIGIN,
        assumptions=assumptions,
    )


def _weights(opened: _Opened, words: str, names: Sequence[str], group: str | None) -> Source:
    """Return a file of weights alone, whose layers are in this order; group None is Keras 3's way."""
    contents = opened.contents
    trained: list[Convolve | Connect] = []
    used: list[str] = []
    for name in names:
        variables = _variables(contents, _store_of(contents), name) if group is None else _legacy(contents, group, name)
        if not variables:
            continue
        shapes = [contents.arrays[one].shape if one in contents.arrays else () for one in variables]
        dimensions = [len(shape) for shape in shapes]
        if dimensions[0] not in (2, 4) or dimensions[1:] not in ([], [1]):
            raise KerasError(
                f"{name[:100]}: is neither a convolution nor fully connected, and weights alone do not say what it "
                "is; save the whole model: model.save('NAME.keras')"
            )
        weight, bias = variables[0], variables[1] if len(variables) > 1 else None
        if dimensions[0] == 4:
            trained.append(Convolve(name=name, weight=weight, bias=bias, layout="HWIO"))
        else:
            trained.append(Connect(name=name, weight=weight, bias=bias, layout="IO"))
        used += variables
    is_keras_1 = group is not None and contents.text(f"{group}@backend") is None
    return _source(opened, words, used, trained=tuple(trained), assumptions=_about_kernels() if is_keras_1 else ())


def _legacy(contents: Contents, group: str, name: str) -> list[str]:
    """Return a layer's arrays in the way of Keras 1 and 2: its group lists their names."""
    place = f"{group}/{name}" if group else name
    return [f"{place}/{one}" for one in contents.listed(f"{place}@weight_names") or []]


def _variables(contents: Contents, store: str, name: str) -> list[str]:
    """Return a layer's arrays in the way of Keras 3: numbered."""
    begin = f"{store}/{name}/vars/"
    found = [path for path in contents.arrays if path.startswith(begin)]
    return sorted(found, key=_by_number)


def _store_of(contents: Contents) -> str:
    return next((store for store in _STORES if any(path.startswith(f"{store}/") for path in contents.arrays)), "layers")


def _by_number(name: str) -> tuple[str, int]:
    """Return a key that sorts conv2d before conv2d_1, and that before conv2d_10."""
    found = re.fullmatch(r"(.*?)_?(\d{1,9})?", name, re.DOTALL)
    assert found is not None, "it matches every text"
    # conv2d ends in a letter, and its number is behind the last line.
    return found[1], int(found[2] or 0)


def _major(contents: Contents, group: str) -> str:
    version = contents.text("@keras_version") or contents.text(f"{group}@keras_version") or "1"
    return version.split(".")[0][:10]


def _refuse_theano(contents: Contents, group: str) -> None:
    if "theano" in (contents.text("@backend"), contents.text(f"{group}@backend")):
        raise KerasError(
            "was trained with Theano, which turns its kernels around; load it in Keras 2 with TensorFlow and save it "
            "again"
        )


def _about_kernels() -> tuple[Assumption, ...]:
    return (
        Assumption(
            subject="backend",
            value="TensorFlow",
            reason="Keras 1 does not record it; Theano's kernels are turned around",
            option=None,
        ),
    )
