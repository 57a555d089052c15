"""A network that learns, a batch at a time: augmentation, gradients, SGD with momentum."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_deploy.core.architecture import Architecture
from alexnet_deploy.core.network import Network, preprocess
from alexnet_deploy.core.preprocessing import Preprocessing
from alexnet_deploy.train.augment import Part, color_axes, color_shift, crop_and_mirror, scaled_crop_and_mirror, whole
from alexnet_deploy.train.draws import augmentation_draws, seed_dropout
from alexnet_deploy.train.initialise import initialise
from alexnet_deploy.train.local_norm import with_training_norms
from alexnet_deploy.train.parallel import ALONE, Ranks
from alexnet_deploy.train.recipe import Recipe


class Learner:
    """A network with its optimiser; what a step does to it depends on nothing but its tensors and the arguments."""

    def __init__(
        self,
        architecture: Architecture,
        recipe: Recipe,
        preprocessing: Preprocessing,
        covariance: np.ndarray,
        device: torch.device,
        ranks: Ranks = ALONE,
    ) -> None:
        """Set up a network with the recipe's first values on a device; `covariance` is that of the data's RGB.

        Of several `ranks` each takes every step, on its part of the batch.
        """
        self._recipe = recipe
        self._ranks = ranks
        self._size = architecture.input_size
        self._preprocessing = preprocessing
        self._color_axes = color_axes(covariance)
        self._device = device
        network = with_training_norms(Network(architecture))
        initialise(network, recipe.initialisation, recipe.seed)
        self._network: Network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        is_compiled = recipe.compile and device.type == "cuda"
        shared = ranks.wrap(self._network)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(shared) if is_compiled else shared
        self._optimiser = torch.optim.SGD(
            _parameter_groups(self._network, recipe.weight_decay), lr=recipe.learning_rate, momentum=recipe.momentum
        )

    def step(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        epoch: int,
        step: int,
        rate: float,
        part: Part | None = None,
    ) -> torch.Tensor:
        """Learn from a batch, uint8 (N, 256, 256, 3) and int64 (N,), at a rate; return its mean loss before that.

        What is random in it is drawn from the recipe's seed, the epoch and the step. The batch is whole unless `part`
        says which of it these are; then the mean of what all ranks return is the batch's.
        """
        recipe = self._recipe
        for group, own_rate in zip(self._optimiser.param_groups, (0.0, recipe.bias_learning_rate), strict=True):
            group["lr"] = own_rate or rate
        self._network.train()
        views = self._augmented(images.to(self._device), epoch, augmentation_draws(recipe.seed, epoch, step), part)
        seed_dropout(recipe.seed, epoch, step, self._ranks.rank)
        loss = self._loss(views, labels.to(self._device)) * self._weight(len(images), part)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return loss.detach()

    def logits(self, views: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 (N, K), of preprocessed views, (N, 3, S, S), without dropout."""
        self._network.eval()
        return self._logits(views)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the network's tensors by name: not copies."""
        return {name: tensor.detach() for name, tensor in self._network.state_dict().items()}

    def momenta(self) -> dict[str, torch.Tensor]:
        """Return the momentum of each tensor, by its name, not copies; none before the first step or without any."""
        momenta = {
            name: self._optimiser.state[tensor].get("momentum_buffer")
            for name, tensor in self._network.named_parameters()
            if tensor in self._optimiser.state
        }
        return {name: momentum for name, momentum in momenta.items() if momentum is not None}

    def take(self, weights: Mapping[str, torch.Tensor], momenta: Mapping[str, torch.Tensor]) -> None:
        """Copy tensors into the network and its optimiser; raises RuntimeError where they do not fit."""
        self._network.load_state_dict(dict(weights), strict=True)
        for name, tensor in self._network.named_parameters() if momenta else ():
            if name not in momenta or momenta[name].shape != tensor.shape:
                raise RuntimeError(f"the momentum of {name} is missing, or of another shape")
            self._optimiser.state[tensor]["momentum_buffer"] = torch.empty_like(tensor).copy_(momenta[name])

    def _weight(self, num_images: int, part: Part | None) -> float:
        """Return what a mean over so many pictures counts for in the mean of all ranks' means."""
        return 1.0 if part is None else num_images * self._ranks.size / part.num_images

    def _loss(self, views: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        logits = self._logits(views)
        if not len(labels):
            # The mean of none is NaN. The other ranks wait for gradients, which are zeros then.
            return logits.sum()
        return functional.cross_entropy(logits, labels, label_smoothing=self._recipe.label_smoothing)

    def _augmented(self, images: torch.Tensor, epoch: int, draws: torch.Generator, part: Part | None) -> torch.Tensor:
        recipe = self._recipe
        own = () if part is None else (part,)
        if recipe.min_crop_area < 1:
            crops = scaled_crop_and_mirror(images, self._size, recipe.min_crop_area, draws, *own)
        else:
            crops = crop_and_mirror(images, self._size, draws, *own).float()
        if epoch <= recipe.color_noise_epochs or not recipe.color_noise_epochs:
            part = part or whole(len(images))
            shift = color_shift(part.num_images, self._color_axes, recipe.color_noise, draws)[part.rows]
            crops = crops + shift.to(self._device)[:, None, None, :]
        return preprocess(crops, self._preprocessing).contiguous(memory_format=torch.channels_last)

    def _logits(self, views: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._recipe.precision == "bf16"):
            return self._forward(views).float()


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    weights = [tensor for name, tensor in network.named_parameters() if name.endswith(".weight")]
    biases = [tensor for name, tensor in network.named_parameters() if name.endswith(".bias")]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
