"""Each format at its full size, from the file to predictions in three precisions: minutes each, so `-m slow`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from commands import Run
from foreign_arrays import npy_layers, write_matconvnet, write_npy
from foreign_caffe import digits_files, write_caffe, write_tar
from foreign_keras import keras_layers, stored_weights, write_archive, write_h5
from foreign_onnx import graph
from foreign_torch import JIECAOYU, TORCHVISION, Caffe, TakenApart, TorchVision, exported, same, state_dict
from networks import separating_weights

from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.weights import Weights, load_weights

pytestmark = pytest.mark.slow

Make = Callable[[Weights, Path], object]

FILES: dict[str, tuple[str, Make]] = {
    "torchvision's checkpoint": ("torchvision", lambda w, path: torch.save(state_dict(w, TORCHVISION), path)),
    "jiecaoyu's checkpoint": (
        "caffe",
        lambda w, path: torch.save({"state_dict": state_dict(w, JIECAOYU)}, path, _use_new_zipfile_serialization=False),
    ),
    "safetensors": (
        "torchvision",
        lambda w, path: safetensors.torch.save_file(state_dict(w, TORCHVISION), path),
    ),
    "names of its own": ("single_tower", lambda w, path: torch.save(state_dict(w), path)),
    "the ONNX zoo": ("caffe", lambda w, path: graph(w, path, size=224)),
    "the ONNX zoo's CaffeNet": ("caffenet", lambda w, path: graph(w, path, size=224)),
    "torchvision, exported": (
        "torchvision",
        lambda w, path: exported(TorchVision(state_dict(w, TORCHVISION)), 224, path, dynamo=False),
    ),
    "Caffe, V1 layers": ("caffe", lambda w, path: write_caffe(path, w, 1)),
    "CaffeNet, V2 layers": ("caffenet", lambda w, path: write_caffe(path, w, 2)),
    "TensorFlow's .npy": ("caffe", lambda w, path: write_npy(path, npy_layers(w))),
    "MatConvNet": ("caffe", lambda w, path: write_matconvnet(path, w, average=np.full((1, 1, 3), 120.0))),
    "DIGITS": ("caffe", lambda w, path: write_tar(path, digits_files(w, path.parent))),
    "Keras 1": ("single_tower", lambda w, path: write_h5(path, keras_layers(w, 1), 1)),
    "Keras 2, functional with LRN": (
        "caffe",
        lambda w, path: write_h5(path, keras_layers(w, 2), 2, is_functional=True),
    ),
    "Keras 3": ("single_tower", lambda w, path: write_archive(path, keras_layers(w, 3))),
    "Keras 3's weights alone": ("single_tower", lambda w, path: path.write_bytes(stored_weights(keras_layers(w, 3)))),
    "LRN taken apart": (
        "caffe",
        lambda w, path: exported(Caffe(state_dict(w, JIECAOYU), TakenApart), 227, path, dynamo=False),
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_full_size_goes_the_whole_road(name: str, images: Path, run: Run) -> None:
    member, make = FILES[name]
    weights = separating_weights(ARCHITECTURES[member])
    make(weights, Path("theirs"))
    imported = run("import", "theirs")
    assert imported.code == 0, imported
    loaded = load_weights(Path(imported.out.strip())).weights
    assert loaded.architecture == ARCHITECTURES[member]
    assert same(loaded.tensors, weights.tensors)
    assert loaded.origin is not None
    assert loaded.origin.max_error <= 1e-5
    for precision in ("fp32", "fp16", "int8"):
        options = ("--calibrate", images) if precision == "int8" else ()
        exported_to = run("export", "--precision", precision, *options)
        assert exported_to.code == 0, exported_to
        checked = run("check", exported_to.out.strip())
        assert checked.code == 0, checked
        predicted = run("predict", images, "--format", "jsonl")
        assert predicted.code == 0, predicted
        assert all(json.loads(row)["ok"] for row in predicted.out.splitlines())
