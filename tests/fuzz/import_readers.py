"""The readers of other programs' weights: each with a sound file that is read as far as its network is recognised."""

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import changes
import safetensors.torch
import torch
from foreign_arrays import npy_layers, python_2, write_matconvnet, write_npy
from foreign_caffe import digits_files, write_caffe, write_tar
from foreign_keras import keras_layers, write_archive, write_h5
from foreign_torch import JIECAOYU, TORCHVISION, Caffe, TakenApart, exported
from networks import narrowed, separating_weights
from readers import Reader

from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.recognise import recognise
from alexnet_deploy.export.importing.registry import find_format

# Outputs of each layer; with as few, a file is small, and most damage hits its structure.
_WIDTHS = (6, 6, 4, 4, 4, 8, 8, 2)
_KERNELS = (11, 5, 3, 3, 3)


def _state(names: Mapping[str, str], groups: tuple[int, ...]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state, channels = {}, 3
    for place, (name, width) in enumerate(zip(names.values(), _WIDTHS, strict=True)):
        inputs = channels * 36 if place == 5 else channels
        shape = (width, inputs) if place >= 5 else (width, channels // groups[place], *[_KERNELS[place]] * 2)
        state[f"{name}.weight"] = torch.randn(shape)
        state[f"{name}.bias"] = torch.randn(width)
        channels = width
    return state


def _torchvision() -> dict[str, torch.Tensor]:
    return _state(TORCHVISION, (1,) * 5)


@cache
def _exported(folder: Path) -> bytes:
    module = Caffe(_state(JIECAOYU, (1, 2, 1, 2, 2)), TakenApart)
    return exported(module, 227, folder / "made.onnx", dynamo=False).read_bytes()


def _read(path: Path) -> object:
    return recognise(complete(find_format(path).reader.read(path), Overrides()), Overrides())


def _reader(name: str, make: Callable[[Path], object], *targets: changes.Change) -> Reader:
    return Reader(
        make=lambda folder: make(folder / name),  # type: ignore[arg-type,return-value]
        read=lambda folder: _read(folder / name),
        targets={name: targets},
    )


def _save_legacy(path: Path) -> None:
    torch.save({"state_dict": _torchvision()}, path, _use_new_zipfile_serialization=False)


def _save_graph(path: Path) -> None:
    path.write_bytes(_exported(path.parent))


@cache
def _caffe() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["caffe"]))


@cache
def _single_tower() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["single_tower"], divisor=32))


IMPORT_READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "import-torch": _reader("a.pth", lambda path: torch.save({"state_dict": _torchvision()}, path)),
        "import-legacy": _reader("a.pth", _save_legacy),
        "import-safetensors": _reader(
            "a.safetensors",
            lambda path: safetensors.torch.save_file(_torchvision(), path),
            *(changes.tensor_file_change,) * 3,
        ),
        "import-onnx": _reader("a.onnx", _save_graph),
        "import-caffe-v1": _reader("a.caffemodel", lambda path: write_caffe(path, _caffe(), 1)),
        "import-caffe-v2": _reader("a.caffemodel", lambda path: write_caffe(path, _caffe(), 2)),
        "import-digits": _reader(
            "a.tar.gz",
            lambda path: write_tar(path, digits_files(_caffe(), path.parent)),
            *(changes.gzip_tar_change,) * 3,
        ),
        "import-npy": _reader("a.npy", lambda path: write_npy(path, npy_layers(_caffe()))),
        "import-npy-python2": _reader("a.npy", lambda path: path.write_bytes(python_2(npy_layers(_caffe())))),
        "import-mat": _reader("a.mat", lambda path: write_matconvnet(path, _caffe(), is_compressed=False)),
        "import-mat-deflated": _reader("a.mat", lambda path: write_matconvnet(path, _caffe())),
        "import-keras-h5": _reader(
            "a.h5", lambda path: write_h5(path, keras_layers(_single_tower(), 2), 2), *(changes.hdf5_text_change,) * 3
        ),
        "import-keras": _reader(
            "a.keras",
            lambda path: write_archive(path, keras_layers(_single_tower(), 3), is_functional=True),
            *(changes.stored_zip_change,) * 6,
        ),
    }
)
