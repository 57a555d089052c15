"""Chains of Keras's layers, without a file, and the layers that are read from them."""

from collections.abc import Mapping

import pytest

from alexnet_deploy.export.importing.readers.keras.config import KerasLayer
from alexnet_deploy.export.importing.readers.keras.contents import KerasError
from alexnet_deploy.export.importing.readers.keras.layers import Chain, chain_of
from alexnet_deploy.export.importing.source import (
    Convolve,
)

Settings = dict[str, object]
Shapes = Mapping[str, tuple[int, ...]]

IMAGE = {"batch_shape": [None, 32, 32, 3]}
CONV: Settings = {"filters": 8, "kernel_size": [3, 3], "strides": [1, 1], "padding": "valid", "activation": "linear"}
KERNEL: Shapes = {"conv/kernel": (3, 3, 3, 8), "conv/bias": (8,)}
POOL: Settings = {"pool_size": [3, 3], "strides": [2, 2], "padding": "valid"}


def layer(kind: str, name: str, settings: Settings, call: Settings | None = None) -> KerasLayer:
    return KerasLayer(kind=kind, name=name, stored_name="", settings=settings, call=call or {})


def chain(*layers: KerasLayer, shapes: Shapes = KERNEL) -> Chain:
    """The chain of these layers; an array belongs to the layer whose name its own begins with."""
    return chain_of(layers, lambda one: [name for name in shapes if name.startswith(f"{one.name}/")], shapes)


def conv(shapes: Shapes = KERNEL, image: Settings = IMAGE, **changes: object) -> Convolve:
    found = chain(layer("InputLayer", "input", image), layer("Conv2D", "conv", CONV | changes), shapes=shapes)
    (only,) = found.layers
    assert isinstance(only, Convolve)
    return only


def refused(*layers: KerasLayer, shapes: Shapes = KERNEL) -> str:
    with pytest.raises(KerasError) as caught:
        chain(*layers, shapes=shapes)
    return str(caught.value)


def refused_conv(shapes: Shapes = KERNEL, **changes: object) -> str:
    return refused(layer("InputLayer", "input", IMAGE), layer("Conv2D", "conv", CONV | changes), shapes=shapes)
