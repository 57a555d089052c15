"""The layers that are known of files without layers are those of the member that they are said to be."""

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from sources import source

from alexnet_deploy.core.model.architecture import Conv, Layer, Linear
from alexnet_deploy.core.model.family import ARCHITECTURES, PUBLISHED_PREPROCESSING
from alexnet_deploy.export.importing.known import KNOWN, fed_like, known_as
from alexnet_deploy.export.importing.source import Connect, Convolve
from alexnet_deploy.export.importing.translate import translate

WITH_LAYERS = [key for key, known in KNOWN.items() if known.layers is not None]

# Of each convolution but the first, and of each fully connected layer.
WIDTH = 4


def narrow(layer: Layer) -> Layer:
    if isinstance(layer, Conv):
        return msgspec.structs.replace(layer, out_channels=WIDTH)
    return msgspec.structs.replace(layer, out_features=WIDTH) if isinstance(layer, Linear) else layer


@pytest.mark.parametrize("key", WITH_LAYERS)
def test_known_layers_are_the_members(key: str) -> None:
    known = KNOWN[key]
    assert known.layers is not None
    assert known.architecture is not None
    member = ARCHITECTURES[known.architecture]
    kernels = [layer.kernel for layer in member.layers if isinstance(layer, Conv)]
    tensors, inputs = {}, [3, *[WIDTH] * 4]
    for layer, kernel, channels in zip(
        [one for one in known.layers if isinstance(one, Convolve)], kernels, inputs, strict=True
    ):
        weight = np.zeros((WIDTH, channels // layer.groups, kernel, kernel), np.float32)
        tensors[layer.weight] = weight if layer.layout == "OIHW" else weight.transpose(2, 3, 1, 0)
    inputs = [36 * WIDTH, WIDTH, WIDTH]
    for layer, values in zip([one for one in known.layers if isinstance(one, Connect)], inputs, strict=True):
        weight = np.zeros((WIDTH, values), np.float32)
        tensors[layer.weight] = weight if layer.layout == "OI" else weight.T
    biases = {name: np.zeros(WIDTH, np.float32) for name in known.tensor_names if name not in tensors}
    found = translate(source(*known.layers, **tensors, **biases), member.input_size)
    assert [replace_name(layer) for layer in found.layers] == [replace_name(narrow(layer)) for layer in member.layers]


def replace_name(layer: Layer) -> Layer:
    return msgspec.structs.replace(layer, name="_")


@pytest.mark.parametrize("key", WITH_LAYERS)
def test_its_preprocessing_is_the_published_one(key: str) -> None:
    known = KNOWN[key]
    assert known.architecture is not None
    assert known.preprocessing == fed_like(known.architecture)
    assert len(known.tensor_names) == 16


def test_facts_of_a_member() -> None:
    for member, fed in PUBLISHED_PREPROCESSING.items():
        known = known_as(member)
        assert (known.key, known.words, known.layers) == (member, f"as in the original {member}", None)
        found = known.preprocessing
        assert (found.resize, found.channel_order, found.mean, found.scale) == (
            fed.resize,
            fed.channel_order,
            fed.mean,
            fed.scale,
        )
        assert found.input_size == ARCHITECTURES[member].input_size


def test_facts_of_programs() -> None:
    zero, one = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    fed = {key: KNOWN[key].preprocessing for key in ("onnx-zoo", "keras", "digits", "matconvnet")}
    said = {key: (one.resize, one.channel_order, one.mean, one.scale) for key, one in fed.items()}
    assert said == {
        "onnx-zoo": ("warp", "BGR", (123.68, 116.779, 103.939), one),
        "keras": ("warp", "RGB", zero, (1 / 255, 1 / 255, 1 / 255)),
        "digits": ("warp", "BGR", zero, one),
        "matconvnet": ("warp", "RGB", (123.0, 117.0, 104.0), one),
    }
    assert {one.input_size for one in fed.values()} == {None}
    assert replace(KNOWN["keras"], layers=()).tensor_names == ()
