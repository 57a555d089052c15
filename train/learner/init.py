"""Initialisation of the weights."""

import torch
from torch import nn

from alexnet_deploy.core.model.architecture import Conv, Linear
from alexnet_deploy.core.model.network import Network
from alexnet_deploy.train.recipe import Initialisation

# Ordinals among the convolutions of a table: its layers may have any names.
_BIASED = (2, 4, 5)
_WIDER = (3, 4, 5)


def initialise(network: Network, how: Initialisation, seed: int) -> None:
    """Initialise the network's tensors.

    `kaiming`: N(0, 2 / fan-in), biases 0, and a last layer small enough to start at ln K (He et al. 2015).
    `paper`: N(0, 0.01), biases 1 on the second, fourth and fifth convolution and on all linear layers but the last
    (Krizhevsky et al. 2012, section 5).
    `original`: the same, but N(0, 0.03) on the third, fourth and fifth convolution (the released code's
    layers-145.cfg).
    """
    generator = torch.Generator().manual_seed(seed)
    *layers, last = network.architecture.layers
    convolutions = [layer.name for layer in layers if isinstance(layer, Conv)]
    biased = {name for ordinal, name in enumerate(convolutions, 1) if ordinal in _BIASED}
    biased |= {layer.name for layer in layers if isinstance(layer, Linear)}
    wider = {name for ordinal, name in enumerate(convolutions, 1) if ordinal in _WIDER}
    for name, module in network.named_children():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        assert module.bias is not None
        if how == "kaiming":
            deviation = 0.01 if name == last.name else (2.0 / module.weight[0].numel()) ** 0.5
        else:
            deviation = 0.03 if how == "original" and name in wider else 0.01
        with torch.no_grad():
            module.weight.normal_(0.0, deviation, generator=generator)
            module.bias.fill_(1.0 if how != "kaiming" and name in biased else 0.0)
