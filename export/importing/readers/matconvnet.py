"""MatConvNet's networks (.mat): chains of layers, called SimpleNN, with their weights, class names and mean image.

Filters are (H, W, I, O) and fully connected layers are convolutions. The file does not state the groups of a
convolution: they follow from the number of its input channels. LRN's alpha is not divided by the window.

Source: vlfeat/matconvnet, matlab/simplenn/vl_simplenn.m, vl_simplenn_tidy.m and utils/import-caffe.py.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.opening import MIB, open_input, pieces_of
from alexnet_deploy.core.mat_file import MatError, MatValue, Struct, read_mat
from alexnet_deploy.export.importing.source import (
    Activate,
    Assumption,
    Convolve,
    Drop,
    Normalise,
    Padding,
    Pool,
    Scale,
    Softmax,
    Source,
    SourceLayer,
    SourcePreprocessing,
)

_LEVEL_5, _LEVEL_7_3 = b"MATLAB 5.0 MAT-file", b"MATLAB 7.3 MAT-file"
_MOST_GROWTH = 150 * MIB
"""Limit on the growth of a file when it is unpacked: trained weights hardly compress."""
_MOST_CONVERTED = 1 << 20
"""Limit on values stored as integers, which grow as floats: MATLAB stores biases of 0 so."""
_LOSSES = ("loss", "softmaxloss")


class _LayerError(Exception):
    """What is wrong with a network; the message needs the file's name in front."""


def recognises(path: Path, start: bytes) -> bool:
    """Return whether the file begins with MATLAB's header."""
    return start.startswith((_LEVEL_5, _LEVEL_7_3))


def read(path: Path) -> Source:
    """Return its layers, tensors, class names and mean; see Reader.read."""
    try:
        with open_input(path) as file:
            digest, num_bytes = hashlib.sha256(), 0
            for piece in pieces_of(file):
                digest.update(piece)
                num_bytes += len(piece)
            file.seek(0)
            if file.peek(len(_LEVEL_7_3)).startswith(_LEVEL_7_3):
                raise WeightsError(f"{path}: is a MATLAB file of version 7.3; save it in MATLAB with '-v7' or '-v6'")
            variables = read_mat(file, num_bytes, num_bytes + _MOST_GROWTH)
        return _source(path, digest.hexdigest(), variables)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except MatError as error:
        raise WeightsError(f"{path}: is not a MATLAB file that can be read: {error}") from error
    except _LayerError as error:
        raise WeightsError(f"{path}: {error}") from error


def _source(path: Path, sha256: str, variables: Struct) -> Source:
    network = variables if "layers" in variables else _record(variables.get("net"))
    listed = network.get("layers")
    if not isinstance(listed, list) or not listed:
        raise _LayerError("holds no network of MatConvNet's: there is no list named layers")
    if "params" in network or any(isinstance(one, dict) and "block" in one for one in listed):
        raise _LayerError("is a DagNN network; only SimpleNN networks, which are chains of layers, are read")
    walk = _Walk()
    for number, one in enumerate(listed, start=1):
        walk.add(number, _record(one))
    meta = _record(network.get("meta")) or network
    preprocessing, assumptions = _preprocessing(_record(meta.get("normalization")))
    return Source(
        path=path,
        sha256=sha256,
        format="MatConvNet network (SimpleNN)",
        tensors=walk.tensors,
        layers=tuple(walk.layers),
        preprocessing=preprocessing,
        labels=_labels(_record(meta.get("classes"))),
        origin="matconvnet",
        assumptions=assumptions,
    )


@dataclass(slots=True)
class _Walk:
    """The layers so far."""

    layers: list[SourceLayer] = field(default_factory=list)
    tensors: dict[str, np.ndarray] = field(default_factory=dict)
    channels: int = 3

    def add(self, number: int, layer: Struct) -> None:
        """Append the layers that one layer of the file stands for."""
        kind, name = _text(layer, "type"), _text(layer, "name") or f"layer {number}"
        if any(other.name == name for other in self.layers):
            name = f"{name} ({number})"
        try:
            self.layers.extend(self._translated(kind, name, layer))
        except _LayerError as error:
            raise _LayerError(f"{name}: {error}") from error

    def _translated(self, kind: str, name: str, layer: Struct) -> Iterator[SourceLayer]:
        match kind:
            case "conv":
                yield self._convolution(name, layer)
            case "relu":
                if any(_numbers(layer, "leak", (0.0,))):
                    raise _LayerError("a leaky ReLU is not supported")
                yield Activate(name=name, function="relu")
            case "normalize" | "lrn":
                size, k, alpha, beta = _numbers(layer, "param", (5.0, 1.0, 1e-4 / 5, 0.75), length=4)
                yield Normalise(
                    name=name, size=_whole(size, "its window"), alpha=alpha, alpha_is_divided=False, beta=beta, k=k
                )
            case "pool":
                yield _pooling(name, layer)
            case "bnorm":
                yield self._batch_norm(name, layer)
            case "dropout":
                (rate,) = _numbers(layer, "rate", (0.5,), length=1)
                yield Drop(name=name, probability=rate)
            case "softmax" | "softmaxloss":
                yield Softmax(name=name)
            case "loss":
                return
            case _:
                raise _LayerError(f"a layer of type {kind[:40]!r} is not supported")

    def _convolution(self, name: str, layer: Struct) -> Convolve:
        filters, biases, _ = _weights(layer)
        if filters is None or not 2 <= filters.ndim <= 4 or not filters.size:
            raise _LayerError("has no filters of height, width, inputs and outputs")
        # MATLAB drops dimensions of 1 at the end.
        filters = filters.reshape(*filters.shape, *[1] * (4 - filters.ndim))
        if any(value != 1 for value in _numbers(layer, "dilate", (1.0,))):
            raise _LayerError("a dilated convolution is not supported")
        _, _, inputs, outputs = filters.shape
        groups, rest = divmod(self.channels, inputs)
        if rest or not groups:
            raise _LayerError(f"expects {inputs:,} channels, but gets {self.channels:,}")
        self.channels = outputs
        self.tensors[f"{name}.filters"] = _floats(filters)
        has_biases = biases is not None and biases.size > 0
        if biases is not None and has_biases:
            self.tensors[f"{name}.biases"] = _floats(biases).reshape(-1)
        return Convolve(
            name=name,
            weight=f"{name}.filters",
            bias=f"{name}.biases" if has_biases else None,
            layout="HWIO",
            stride=_one(layer, "stride"),
            padding=_padding(layer),
            groups=groups,
        )

    def _batch_norm(self, name: str, layer: Struct) -> Scale:
        scale, shift, moments = _weights(layer)
        if scale is None or shift is None or moments is None or moments.ndim != 2 or moments.shape[1] != 2:
            raise _LayerError("has no multipliers, biases and moments")
        deviation = _floats(moments[:, 1])
        parts = {"multipliers": scale, "biases": shift, "mean": moments[:, 0], "variance": deviation * deviation}
        self.tensors.update({f"{name}.{part}": _floats(values).reshape(-1) for part, values in parts.items()})
        return Scale(
            name=name,
            mean=f"{name}.mean",
            variance=f"{name}.variance",
            scale=f"{name}.multipliers",
            shift=f"{name}.biases",
            # The second moment is a standard deviation; its epsilon was added before the square root.
            epsilon=0.0,
        )


def _pooling(name: str, layer: Struct) -> Pool:
    method = _text(layer, "method") or "max"
    if method not in ("max", "avg"):
        raise _LayerError(f"pooling by {method[:40]!r} is not supported")
    return Pool(
        name=name,
        function="max" if method == "max" else "average",
        kernel=_one(layer, "pool"),
        stride=_one(layer, "stride"),
        padding=_padding(layer),
    )


def _weights(layer: Struct) -> tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None]:
    """Return a layer's first three arrays; None for each missing one."""
    listed = layer.get("weights")
    found = listed if isinstance(listed, list) else [layer.get("filters"), layer.get("biases")]
    first, second, third = ([value if isinstance(value, np.ndarray) else None for value in found] + [None] * 3)[:3]
    return first, second, third


def _floats(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind != "f" and values.size > _MOST_CONVERTED:
        raise _LayerError(f"has {values.size:,} weights stored as integers, expected floats")
    return values.astype(np.float32, copy=False)


def _record(value: MatValue | Struct | None) -> Struct:
    """Return the single record in an array; an empty record if there is none."""
    if isinstance(value, dict):
        return value
    first = value[0] if isinstance(value, list) and len(value) == 1 else None
    if isinstance(first, list):
        return _record(first)
    return first if isinstance(first, dict) else {}


def _text(record: Struct, name: str) -> str:
    value = record.get(name)
    return value if isinstance(value, str) else ""


def _numbers(record: Struct, name: str, default: Sequence[float], length: int | None = None) -> list[float]:
    value = record.get(name)
    if not isinstance(value, np.ndarray) or not value.size:
        return list(default)
    if value.size > 4 or (length is not None and value.size != length):
        raise _LayerError(f"its {name} has {value.size:,} numbers")
    return [float(number) for number in value.flat]


def _whole(value: float, subject: str) -> int:
    if not 0 <= value <= 1 << 16 or value != int(value):
        raise _LayerError(f"{subject} is {value:g}, expected an integer")
    return int(value)


def _one(layer: Struct, name: str) -> int:
    """Return the number that applies to both height and width."""
    values = {_whole(value, f"its {name}") for value in _numbers(layer, name, (1.0,))}
    if len(values) != 1 or 0 in values:
        raise _LayerError(f"its {name} differs in height and width, or is 0")
    return values.pop()


def _padding(layer: Struct) -> Padding:
    values = [_whole(value, "its padding") for value in _numbers(layer, "pad", (0.0,))]
    if len(values) not in (1, 4):
        raise _LayerError(f"its padding has {len(values)} numbers, expected 1 or 4")
    top, bottom, left, right = values * 4 if len(values) == 1 else values
    return top, left, bottom, right


def _preprocessing(normalization: Struct) -> tuple[SourcePreprocessing, tuple[Assumption, ...]]:
    size = _numbers_of(normalization, "imageSize")
    keeps_aspect = _numbers_of(normalization, "keepAspect")
    mean, assumptions = _mean(normalization.get("averageImage"))
    return SourcePreprocessing(
        resize=None if not keeps_aspect else "shorter-side" if keeps_aspect[0] else "warp",
        mean=mean,
        input_size=_whole(size[0], "its image size") if len(size) >= 2 and size[0] == size[1] > 0 else None,
    ), assumptions


def _numbers_of(record: Struct, name: str) -> list[float]:
    value = record.get(name)
    return [float(number) for number in value.flat[:4]] if isinstance(value, np.ndarray) else []


def _mean(value: MatValue | None) -> tuple[tuple[float, float, float] | None, tuple[Assumption, ...]]:
    """Return the means of red, green and blue, and the assumption needed if the file has a mean image."""
    if not isinstance(value, np.ndarray) or not 3 <= value.size <= 3 << 18:
        return None, ()
    if value.size != 3 and (value.ndim != 3 or value.shape[2] != 3):
        return None, ()
    image = value.reshape(-1, 3, order="F")
    if not np.isfinite(image).all():
        return None, ()
    red, green, blue = (float(mean) for mean in image.mean(axis=0, dtype=np.float64))
    if len(image) == 1:
        return (red, green, blue), ()
    apart = float(np.abs(image - np.array([red, green, blue])).max())
    return (red, green, blue), (
        Assumption(
            subject="mean",
            value=f"{red:.6g}, {green:.6g}, {blue:.6g}",
            reason=f"the means of the file's image, which fits one view alone; its pixels differ by up to {apart:.3g}",
            option="--mean",
        ),
    )


def _labels(classes: Struct) -> tuple[str, ...] | None:
    """Return the names of the classes; a name that two classes share gets the WNID."""
    names, wnids = (
        [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
        for value in (classes.get("description"), classes.get("name"))
    )
    if not names:
        return tuple(wnids) or None
    shared = {name for name, count in Counter(names).items() if count > 1}
    if not shared or len(wnids) != len(names):
        return tuple(names)
    return tuple(f"{name} ({wnid})" if name in shared else name for name, wnid in zip(names, wnids, strict=True))
