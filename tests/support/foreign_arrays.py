"""Files of other programs in NumPy's, MATLAB's and HDF5's formats, written by numpy, scipy and h5py."""

from pathlib import Path

import numpy as np
import scipy.io

from alexnet_deploy.core.model.architecture import Conv, Dropout, Flatten, Linear, LocalNorm, MaxPool, Relu
from alexnet_deploy.core.model.weights import Weights


def filters_of(weights: Weights, name: str) -> np.ndarray:
    """Filters, (H, W, I, O), of a convolution, or of a fully connected layer as a convolution over its whole input."""
    values = weights.tensors[f"{name}.weight"]
    if values.ndim == 2:
        side = next(cost.in_shape[1] for cost in weights.architecture.costs() if isinstance(cost.layer, Flatten))
        first = next(layer.name for layer in weights.architecture.layers if isinstance(layer, Linear))
        shape = (len(values), -1, side, side) if name == first else (len(values), -1, 1, 1)
        values = values.reshape(shape)
    return values.transpose(2, 3, 1, 0)


def rows_of(weights: Weights, name: str) -> np.ndarray:
    """A fully connected layer's weights, (inputs, outputs), the first layer's inputs in H, W, C order."""
    filters = filters_of(weights, name)
    return np.ascontiguousarray(filters.reshape(-1, filters.shape[-1]))


def matconvnet_layers(weights: Weights, *, is_old: bool = False) -> list[dict[str, object]]:
    """The layers as MatConvNet's importer writes them; the older way has filters and biases in fields of their own."""
    found: list[dict[str, object]] = []

    def add(name: str, kind: str, **fields: object) -> None:
        found.append({"name": name, "type": kind, **fields})

    for layer in weights.architecture.layers:
        match layer:
            case Conv() | Linear():
                filters, biases = filters_of(weights, layer.name), weights.tensors[f"{layer.name}.bias"][None]
                if is_old:
                    values: dict[str, object] = {"filters": filters, "biases": biases}
                else:
                    cell = np.empty((1, 2), object)
                    cell[0, 0], cell[0, 1] = filters, biases
                    values = {"weights": cell}
                stride, padding = (layer.stride, layer.padding) if isinstance(layer, Conv) else (1, (0,) * 4)
                top, left, bottom, right = map(float, padding)
                row = np.array([[top, bottom, left, right]])
                add(layer.name, "conv", **values, stride=np.array([[float(stride)] * 2]), pad=row)
            case Relu():
                add(layer.name, "relu")
            case LocalNorm():
                # Undivided, as MatConvNet has it.
                param = np.array([[layer.size, layer.k, layer.alpha / layer.size, layer.beta]])
                add(layer.name, "normalize" if is_old else "lrn", param=param)
            case MaxPool():
                sides = {"pool": np.array([[float(layer.kernel)] * 2]), "stride": np.array([[float(layer.stride)] * 2])}
                add(layer.name, "pool", method="max", pad=np.zeros((1, 4)), **sides)
            case Dropout():
                add(layer.name, "dropout", rate=layer.probability)
            case Flatten():
                continue
            case _:
                raise AssertionError(layer)
    add("prob", "softmax")
    return found


def write_matconvnet(
    path: Path,
    weights: Weights,
    *,
    is_old: bool = False,
    is_compressed: bool = True,
    average: np.ndarray | None = None,
    classes: dict[str, list[str]] | None = None,
    layers: list[dict[str, object]] | None = None,
) -> None:
    """Write a SimpleNN network, of before MatConvNet's beta 17 where `is_old`."""
    size = float(weights.architecture.input_size)
    normalization: dict[str, object] = {"imageSize": np.array([[size, size, 3.0]]), "keepAspect": False}
    if average is not None:
        normalization["averageImage"] = average
    named = {name: np.array(texts, object).reshape(1, -1) for name, texts in (classes or {}).items()}
    meta = {"normalization": normalization, "classes": named}
    listed = np.array(layers or matconvnet_layers(weights, is_old=is_old)).reshape(1, -1)
    content = {"layers": listed, **meta} if is_old else {"layers": listed, "meta": meta}
    scipy.io.savemat(path, content, do_compression=is_compressed, oned_as="row")


def npy_layers(weights: Weights) -> dict[str, list[np.ndarray]]:
    """The layers as TensorFlow's programs keep them: conv1 to fc8, each with weights and biases."""
    layers = {}
    for layer in weights.architecture.layers:
        if isinstance(layer, Conv | Linear):
            values = filters_of(weights, layer.name) if isinstance(layer, Conv) else rows_of(weights, layer.name)
            layers[layer.name] = [np.ascontiguousarray(values), weights.tensors[f"{layer.name}.bias"]]
    return layers


def write_npy(path: Path, value: object) -> None:
    """Write a value as numpy.save does, a dict among them, which becomes an array of one object."""
    with path.open("wb") as file:
        np.save(file, value, allow_pickle=True)  # type: ignore[arg-type]


def python_2(value: object) -> bytes:
    """The .npy of a dict as Python 2 wrote it: protocol 2, with texts and values as byte strings."""

    def text(words: str | bytes) -> bytes:
        words = words.encode() if isinstance(words, str) else words
        head = b"U" + bytes([len(words)]) if len(words) < 256 else b"T" + len(words).to_bytes(4, "little")
        return head + words

    def number(value: int) -> bytes:
        return b"J" + value.to_bytes(4, "little")

    def array(shape: tuple[int, ...], kind: str, content: bytes) -> bytes:
        made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + number(0) + b"\x85" + text("b") + b"tR"
        order = "|" if kind.startswith("O") else "<"
        dtype = b"cnumpy\ndtype\n(" + text(kind) + number(0) + number(1) + b"tR"
        dtype += b"(" + number(3) + text(order) + b"NNN" + number(-1 & 0x7FFFFFFF) * 2 + number(0) + b"tb"
        sizes = b"(" + b"".join(map(number, shape)) + b"t"
        return made + b"(" + number(1) + sizes + dtype + b"\x89" + content + b"tb"

    def pickled(value: object) -> bytes:
        match value:
            case dict():
                return b"}(" + b"".join(text(key) + pickled(inner) for key, inner in value.items()) + b"u"
            case list():
                return b"](" + b"".join(map(pickled, value)) + b"e"
            case np.ndarray():
                return array(value.shape, "f4", text(value.astype("<f4").tobytes()))
        raise AssertionError(value)

    header = "{'descr': '|O', 'fortran_order': False, 'shape': (), }".ljust(69) + "\n"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    return head + b"\x80\x02" + array((), "O8", b"](" + pickled(value) + b"e") + b"."
