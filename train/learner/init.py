"""Initialisation of the weights."""

import torch
from torch import nn

from alexnet_deploy.core.model.network import Network
from alexnet_deploy.train.recipe import Initialisation

_BIASED = frozenset({"conv2", "conv4", "conv5", "fc6", "fc7"})
_WIDER = frozenset({"conv3", "conv4", "conv5"})


def initialise(network: Network, how: Initialisation, seed: int) -> None:
    """Initialise the network's tensors.

    `kaiming`: N(0, 2 / fan-in), biases 0, and a last layer small enough to start at ln K (He et al. 2015).
    `paper`: N(0, 0.01), biases 1 on conv2, conv4, conv5, fc6, fc7 (Krizhevsky et al. 2012, section 5).
    `original`: the same, but N(0, 0.03) on conv3, conv4, conv5 (the released code's layers-145.cfg).
    """
    generator = torch.Generator().manual_seed(seed)
    last = network.architecture.layers[-1].name
    for name, module in network.named_children():
        if not isinstance(module, nn.Conv2d | nn.Linear):
            continue
        assert module.bias is not None
        if how == "kaiming":
            deviation = 0.01 if name == last else (2.0 / module.weight[0].numel()) ** 0.5
        else:
            deviation = 0.03 if how == "original" and name in _WIDER else 0.01
        with torch.no_grad():
            module.weight.normal_(0.0, deviation, generator=generator)
            module.bias.fill_(1.0 if how != "kaiming" and name in _BIASED else 0.0)
