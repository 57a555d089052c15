"""Keras's files in the exact layouts of Keras 1, 2 and 3, written by h5py, without Keras."""

import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
from foreign_arrays import filters_of, rows_of

from alexnet_deploy.core.model.architecture import Conv, Dropout, Flatten, Linear, LocalNorm, MaxPool, Relu
from alexnet_deploy.core.model.weights import Weights

Version = Literal[1, 2, 3]
_VERSIONS = {1: "1.2.2", 2: "2.15.0", 3: "3.15.1"}


@dataclass(slots=True)
class Made:
    """One layer of a model."""

    kind: str
    name: str
    config: dict[str, object]
    arrays: list[np.ndarray] = field(default_factory=list)
    call: dict[str, object] = field(default_factory=dict)
    module: str = "keras.layers"
    stored: str = ""
    """What archives call it; by its class where empty."""


def keras_layers(weights: Weights, version: Version, *, softmax: bool = True) -> list[Made]:
    """The layers as such a version's config tells them, the first one the input."""
    size = weights.architecture.input_size
    shape = [None, size, size, 3]
    made = [Made("InputLayer", "input_1", {"batch_shape" if version == 3 else "batch_input_shape": shape})]
    for layer in weights.architecture.layers:
        match layer:
            case Conv():
                bias = weights.tensors[f"{layer.name}.bias"]
                kernel = np.ascontiguousarray(filters_of(weights, layer.name))
                made.append(Made(*_convolution(layer, version), [kernel, bias]))
            case Linear():
                name = {1: "output_dim", 2: "units", 3: "units"}[version]
                config = {name: layer.out_features, "bias" if version == 1 else "use_bias": True}
                config["activation"] = "linear"
                bias = weights.tensors[f"{layer.name}.bias"]
                made.append(Made("Dense", layer.name, config, [rows_of(weights, layer.name), bias]))
            case Relu() if version == 1:
                made.append(Made("Activation", layer.name, {"activation": "relu"}))
            case Relu():
                made[-1].config["activation"] = "relu"
            case MaxPool():
                sides = {"pool_size": [layer.kernel] * 2, "strides": [layer.stride] * 2}
                made.append(Made("MaxPooling2D", layer.name, {**sides, **_padded("valid", version)}))
            case Dropout():
                made.append(Made("Dropout", layer.name, {"p" if version == 1 else "rate": layer.probability}))
            case Flatten():
                config = {} if version == 1 else {"data_format": "channels_last"}
                made.append(Made("Flatten", layer.name, config))
            case LocalNorm():
                # As a functional model of tf.keras keeps a call of tf.nn: alpha is not divided.
                call = {"depth_radius": layer.size // 2, "bias": layer.k, "alpha": layer.alpha / layer.size}
                config = {"function": "nn.local_response_normalization"}
                call["beta"] = layer.beta
                module = "keras.src.layers.core.tf_op_layer"
                made.append(Made("TFOpLambda", layer.name, config, [], call, module))
            case _:
                raise AssertionError(layer)
    if softmax:
        made[-1].config["activation"] = "softmax"
    return made


def _padded(padding: str, version: Version) -> dict[str, object]:
    if version == 1:
        return {"border_mode": padding, "dim_ordering": "tf"}
    return {"padding": padding, "data_format": "channels_last"}


def _convolution(layer: Conv, version: Version) -> tuple[str, str, dict[str, object]]:
    padding = "same" if any(layer.padding) else "valid"
    config = {"activation": "linear", **_padded(padding, version)}
    if version == 1:
        sides = {"nb_filter": layer.out_channels, "nb_row": layer.kernel, "nb_col": layer.kernel}
        return "Convolution2D", layer.name, {**config, **sides, "subsample": [layer.stride] * 2, "bias": True}
    sides = {"filters": layer.out_channels, "kernel_size": [layer.kernel] * 2, "strides": [layer.stride] * 2}
    more = {"dilation_rate": [1, 1], "groups": layer.groups, "use_bias": True}
    return "Conv2D", layer.name, {**config, **sides, **more}


def config_of(made: Sequence[Made], version: Version, *, is_functional: bool = False) -> dict[str, object]:
    """The model's config, of a chain of these layers."""
    listed = []
    for number, one in enumerate(made):
        if version == 1 and one.kind == "InputLayer" and not is_functional:
            continue
        config: dict[str, object] = {"name": one.name, "trainable": True, **one.config}
        if version == 1 and number == 1 and not is_functional:
            config.update(made[0].config)
        entry: dict[str, object] = {"class_name": one.kind, "config": config}
        if version == 3:
            entry |= {"module": one.module, "registered_name": None}
        if is_functional:
            entry["name"] = one.name
            entry["inbound_nodes"] = _inbound(made[number - 1].name if number else None, one, version)
        listed.append(entry)
    if not is_functional:
        return {"class_name": "Sequential", "config": listed if version == 1 else {"name": "s", "layers": listed}}
    ends = {"input_layers": [[made[0].name, 0, 0]], "output_layers": [[made[-1].name, 0, 0]]}
    return {"class_name": "Model" if version == 1 else "Functional", "config": {"layers": listed, **ends}}


def _inbound(before: str | None, one: Made, version: Version) -> list[object]:
    if before is None:
        return []
    if version == 3:
        tensor = {"class_name": "__keras_tensor__", "config": {"keras_history": [before, 0, 0]}}
        return [{"args": [tensor], "kwargs": one.call}]
    call = [before, 0, 0, one.call]
    return [call] if one.kind == "TFOpLambda" else [[call]]


def write_h5(
    path: Path,
    made: Sequence[Made],
    version: Version,
    *,
    is_functional: bool = False,
    config: dict[str, object] | None = None,
    backend: str | None = "tensorflow",
) -> None:
    """Write a whole model."""
    with h5py.File(path, "w") as file:
        told = config or config_of(made, version, is_functional=is_functional)
        text = json.dumps(told)
        file.attrs["model_config"] = text.encode() if version == 1 else text
        _legacy_weights(file.create_group("model_weights"), made, version, backend)
        file.attrs["keras_version"] = _VERSIONS[version]
        if version != 1 and backend is not None:
            file.attrs["backend"] = backend


def write_h5_weights(path: Path, made: Sequence[Made], version: Literal[1, 2]) -> None:
    """Write weights alone, in the way of Keras 1 and 2."""
    with h5py.File(path, "w") as file:
        _legacy_weights(file, made, version, "tensorflow")


def _legacy_weights(group: h5py.Group, made: Sequence[Made], version: Version, backend: str | None) -> None:
    group.attrs["layer_names"] = [one.name.encode() for one in made]
    group.attrs["keras_version"] = _VERSIONS[version]
    if version != 1 and backend is not None:
        group.attrs["backend"] = backend
    for one in made:
        inner = group.create_group(one.name)
        parts = ("W", "b") if version == 1 else ("kernel", "bias")
        if one.kind == "BatchNormalization":
            parts = ("gamma", "beta", "moving_mean", "moving_variance")
        pattern = {1: f"{one.name}_%s", 2: f"{one.name}/%s:0", 3: f"sequential/{one.name}/%s"}[version]
        names = [pattern % part for part in parts[: len(one.arrays)]]
        inner.attrs["weight_names"] = [name.encode() for name in names]
        for name, values in zip(names, one.arrays, strict=True):
            inner.create_dataset(name, data=values)


def stored_weights(made: Sequence[Made], *, store: str = "layers") -> bytes:
    """The HDF5 file of an archive, or of `save_weights` of Keras 3."""
    content = BytesIO()
    used: dict[str, int] = {}
    with h5py.File(content, "w") as file:
        for one in made:
            kind = {"Conv2D": "conv2d", "MaxPooling2D": "max_pooling2d", "TFOpLambda": "tf_op_lambda"}.get(one.kind)
            kind = kind or {"BatchNormalization": "batch_normalization"}.get(one.kind, one.kind.lower())
            count = used.get(kind, 0)
            used[kind] = count + 1
            place = one.stored or (f"{kind}_{count}" if count else kind)
            group = file.create_group(f"{store}/{place}/vars")
            group.attrs["name"] = one.name
            for number, values in enumerate(one.arrays):
                group.create_dataset(str(number), data=values)
    return content.getvalue()


def write_archive(
    path: Path,
    made: Sequence[Made],
    *,
    is_functional: bool = False,
    config: dict[str, object] | None = None,
    weights: bytes | None = None,
    compression: int = zipfile.ZIP_STORED,
    more: dict[str, bytes] | None = None,
) -> None:
    """Write a .keras archive."""
    told = config or config_of(made, 3, is_functional=is_functional)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": _VERSIONS[3]}))
        archive.writestr("config.json", json.dumps(told))
        archive.writestr("model.weights.h5", stored_weights(made) if weights is None else weights)
        for name, content in (more or {}).items():
            archive.writestr(name, content)
