"""Caffe's networks as text (.prototxt), such as the deploy.prototxt beside a model."""

import re
from dataclasses import dataclass

from google.protobuf import text_format

from alexnet_deploy.export.importing.readers.caffe import caffe_model_pb2 as messages
from alexnet_deploy.export.importing.readers.caffe.layers import CaffeLayer, ChainError, input_size_of

MOST_TEXT_BYTES = 1 << 18
_V1_LAYER = re.compile(rb"^[ \t]*layers[ \t]*:?[ \t]*\{", re.MULTILINE)
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
        # Fields for training, fillers and engines among them, are not read and change no answer.
        text_format.Parse(data.decode(), net, allow_unknown_field=True)
    except (text_format.ParseError, UnicodeDecodeError, ValueError, RecursionError, OverflowError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ChainError(f"{subject} is damaged, or is not a network's text: {reason}") from error
    if not net.layer and _V1_LAYER.search(data) is not None:
        raise ChainError(
            f"{subject} has layers of Caffe's V1 (`layers {{`), which are not read as text; upgrade it with "
            "Caffe's own upgrade_net_proto_text, or import the .caffemodel by itself"
        )
    if not net.layer or len(net.layer) > _MOST_LAYERS:
        raise ChainError(f"{subject} has {len(net.layer):,} layers (`layer {{`), where 1 to {_MOST_LAYERS} are needed")
    layers = []
    for message in net.layer:
        del message.blobs[:]
        if not message.include or any(rule.phase == messages.TEST for rule in message.include):
            layers.append(CaffeLayer.of(message))
    return CaffeText(layers=tuple(layers), input_size=input_size_of(net, layers))
