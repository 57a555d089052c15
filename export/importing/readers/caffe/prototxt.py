"""Caffe's networks as text (.prototxt), such as the deploy.prototxt beside a model."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from google.protobuf import text_format

from alexnet_deploy.export.importing.readers.caffe import caffe_model_pb2 as messages
from alexnet_deploy.export.importing.readers.caffe.layers import CaffeLayer, ChainError, input_size_of

MOST_TEXT_BYTES = 1 << 18
_MOST_LAYERS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CaffeText:
    """A network's text."""

    layers: tuple[CaffeLayer, ...]
    """As they run after training."""
    input_size: int | None
    """Side of the square input in pixels, if the text says it."""


def parse_text(data: bytes, subject: str) -> CaffeText:
    """Return the layers of a text; raises ChainError, with the subject, where it is damaged or of Caffe's V1."""
    net = messages.NetText()
    try:
        # Fields for training, fillers and engines among them, are not known here and change no answer.
        text_format.Parse(data.decode(), net, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError, ValueError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ChainError(f"{subject} is damaged, or is not a network's text: {reason}") from error
    if not net.layer or len(net.layer) > _MOST_LAYERS:
        raise ChainError(f"{subject} has {len(net.layer):,} layers (`layer {{`), where 1 to {_MOST_LAYERS} are needed")
    layers = []
    for message in net.layer:
        del message.blobs[:]
        if not message.include or any(rule.phase == messages.TEST for rule in message.include):
            layers.append(CaffeLayer.of(message))
    return CaffeText(layers=tuple(layers), input_size=input_size_of(net, layers))


def check_fit(text: CaffeText, tensors: Mapping[str, np.ndarray], subject: str) -> None:
    """Raise ChainError, with the subject, for a layer of the text whose weights the model lacks or has otherwise."""
    for layer in text.layers:
        if layer.type not in ("Convolution", "InnerProduct"):
            continue
        weight = tensors.get(f"{layer.name}.0")
        if weight is None:
            raise ChainError(f"{layer.name}: is in {subject}, but the model has no weights for it")
        if layer.type == "Convolution":
            given = layer.message.convolution_param
            kernels = {given.kernel_h, given.kernel_w} if given.HasField("kernel_h") else set(given.kernel_size)
            fits = weight.ndim == 4 and set(weight.shape[2:]) == kernels
        else:
            given, fits = layer.message.inner_product_param, True
        if not fits or weight.shape[0] != given.num_output:
            raise ChainError(
                f"{layer.name}: has weights of shape {weight.shape}, which is not what {subject} says of it"
            )
