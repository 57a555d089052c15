"""The training step on one batch: augmentation, gradients, optimiser."""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.network import Network
from alexnet_deploy.core.model.preprocessing import Preprocessing
from alexnet_deploy.train.learner.augment import (
    CropRange,
    Part,
    color_axes,
    color_shift,
    crop_and_mirror,
    erase,
    jitter_colors,
    scaled_crop_and_mirror,
    standardised,
    whole,
)
from alexnet_deploy.train.learner.init import initialise
from alexnet_deploy.train.learner.lrn import use_training_norms
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.runtime.placement import HERE, Placement
from alexnet_deploy.train.runtime.rng import augmentation_draws, seed_dropout
from alexnet_deploy.train.runtime.two_columns import two_columns
from alexnet_deploy.train.start import Start, layer_of

_BETA2 = 0.999


class Learner:
    """A network with its optimiser; the result of a step depends only on its tensors and the arguments."""

    def __init__(
        self,
        architecture: Architecture,
        recipe: Recipe,
        preprocessing: Preprocessing,
        covariance: np.ndarray,
        placement: Placement = HERE,
        *,
        class_counts: Sequence[int] = (),
        start: Start | None = None,
    ) -> None:
        """Create and initialise the network on its device; `covariance` is the RGB covariance of the training images.

        With a `start`, its tensors replace the initial ones, and no step changes its frozen layers.

        `class_counts` are the numbers of training images of the K classes; balanced class weights need them.

        With several ranks, each does every step on its part of the batch. With a second device, the network is two
        columns, one on each device; raises UsageError if the architecture is not two columns.
        """
        device, second_device = placement.device, placement.second_device
        self._recipe = recipe
        self._ranks = placement.ranks
        self._size = architecture.input_size
        self._preprocessing = preprocessing
        self._class_weights = None
        if recipe.class_weights == "balanced":
            self._class_weights = torch.from_numpy(balanced_weights(class_counts)).float().to(device)
        self._color_axes = color_axes(covariance)
        self._device = device
        network = Network(architecture)
        initialise(network, recipe.initialisation, recipe.seed)
        if start is not None:
            start.fill(network)
        self._network: nn.Module = (
            network.to(device) if second_device is None else two_columns(network, (device, second_device))
        )
        if start is not None:
            _freeze(self._network, start.basis.record.frozen)
        use_training_norms(self._network)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        is_compiled = recipe.compile and device.type == "cuda" and second_device is None
        shared = self._ranks.wrap(self._network)
        self._forward: Callable[[torch.Tensor], torch.Tensor] = torch.compile(shared) if is_compiled else shared
        self._optimiser = _optimiser(recipe, self._network, start)
        # What is validated and saved: the network itself, or the moving average of its weights.
        self._result, self._result_forward = self._network, self._forward
        if recipe.ema_decay:
            self._result = self._result_forward = copy.deepcopy(self._network).requires_grad_(False)

    def step(
        self,
        images: torch.Tensor,
        targets: torch.Tensor,
        *,
        epoch: int,
        step: int,
        rate: float,
        mean_decay: float = 0.0,
        part: Part | None = None,
    ) -> torch.Tensor:
        """Train on a batch, uint8 (N, 256, 256, 3) and int64 (N,); return its mean loss before the update.

        `rate` is the learning rate, `mean_decay` the decay of the weights' moving average, if the recipe has one.
        Random numbers derive from the recipe's seed, the epoch and the step. With `part`, these are only that part of
        the batch, and the batch's mean loss is the mean over all ranks.
        """
        recipe, part = self._recipe, part or whole(len(images))
        for group in self._optimiser.param_groups:
            group["lr"] = (group["own_rate"] or rate) * group["rate_scale"]
        self._network.train()
        views = self._augmented(images.to(self._device), epoch, augmentation_draws(recipe.seed, epoch, step), part)
        seed_dropout(recipe.seed, epoch, step, self._ranks.rank)
        # Weight of this rank's mean, so that the mean over all ranks is the mean over the batch.
        weight = len(images) * self._ranks.size / part.num_images
        loss = self._loss(views, targets.to(self._device)) * weight
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        if recipe.ema_decay:
            self._average(mean_decay)
        return loss.detach()

    def logits(self, views: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 (N, K), of preprocessed views, (N, 3, S, S), from `weights()` and without dropout."""
        self._result.eval()
        return self._logits(self._result_forward, views)

    def weights(self) -> dict[str, torch.Tensor]:
        """Return the result of training so far, tensors by name; not copies."""
        return {name: tensor.detach() for name, tensor in self._result.state_dict().items()}

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Return all state that the next step depends on, by name; not copies.

        `network.conv1.weight`; after the first step the optimiser's state under torch's names
        (`momentum_buffer.conv1.weight`, `exp_avg.conv1.weight`); with ema_decay also `mean.conv1.weight`.
        """
        state = {f"network.{name}": tensor.detach() for name, tensor in self._network.state_dict().items()}
        for name, tensor in self._network.named_parameters():
            own = self._optimiser.state.get(tensor, {})
            state |= {f"{key}.{name}": value for key, value in own.items() if value is not None}
        if self._result is not self._network:
            state |= {f"mean.{name}": tensor for name, tensor in self.weights().items()}
        return state

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Copy a state into the network and its optimiser; raises RuntimeError if it does not fit."""
        groups: defaultdict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        for name, tensor in state.items():
            group, _, own_name = name.partition(".")
            groups[group][own_name] = tensor
        self._network.load_state_dict(groups.pop("network", {}))
        if self._result is not self._network:
            self._result.load_state_dict(groups.pop("mean", {}))
        for key, tensors in groups.items():
            for name, parameter in _trainable(self._network):
                if name not in tensors or tensors[name].shape not in (parameter.shape, ()):
                    raise RuntimeError(f"{key} of {name} is missing or has the wrong shape")
                self._optimiser.state[parameter][key] = _laid_out_as(parameter, tensors[name])

    def _average(self, decay: float) -> None:
        with torch.no_grad():
            for mean, latest in zip(self._result.parameters(), self._network.parameters(), strict=True):
                # The mean of equal values is not always their bits: -0.0 would become 0.0.
                if latest.requires_grad:
                    mean.lerp_(latest, 1 - decay)

    def _loss(self, views: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self._logits(self._forward, views)
        if not len(targets):
            # The mean of no images is NaN. The other ranks wait for this rank's gradients, which must be zeros.
            return logits.sum()
        smoothing = self._recipe.label_smoothing
        if self._class_weights is None:
            return functional.cross_entropy(logits, targets, label_smoothing=smoothing)
        # Not the `weight` of cross_entropy: it divides by the sum of the weights, which differs between ranks.
        losses = functional.cross_entropy(logits, targets, label_smoothing=smoothing, reduction="none")
        return (losses * self._class_weights[targets]).mean()

    def _augmented(self, images: torch.Tensor, epoch: int, draws: torch.Generator, part: Part) -> torch.Tensor:
        recipe = self._recipe
        limits = CropRange(
            min_area=recipe.min_scale,
            max_aspect=recipe.max_ratio,
            max_rotation=recipe.max_rotation,
            mirror=recipe.mirror,
            is_random=recipe.random_crops,
        )
        if recipe.min_scale < 1 or recipe.max_ratio > 1 or recipe.max_rotation > 0:
            crops = scaled_crop_and_mirror(images, self._size, limits, draws, part)
        else:
            crops = crop_and_mirror(images, self._size, draws, part, limits).float()
        if recipe.color_jitter:
            crops = jitter_colors(crops, self._preprocessing.mean, recipe.color_jitter, draws, part)
        shift = None
        if epoch <= recipe.color_noise_epochs or not recipe.color_noise_epochs:
            # Drawn in any case, so that the numbers that follow are the same.
            shift = color_shift(self._color_axes, recipe.color_noise, draws, part)
        views = standardised(crops, self._preprocessing, shift if recipe.color_noise else None)
        if recipe.random_erasing:
            views = erase(views, recipe.random_erasing, draws, part)
        return views.contiguous(memory_format=torch.channels_last)

    def _logits(self, forward: Callable[[torch.Tensor], torch.Tensor], views: torch.Tensor) -> torch.Tensor:
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._recipe.precision == "bf16"):
            return forward(views).float()


def balanced_weights(class_counts: Sequence[int]) -> np.ndarray:
    """Return the loss weight of each of K classes, float64 (K,): inversely proportional to its number of images.

    The mean weight over all images is 1: sum(count * weight) equals sum(count).
    """
    counts = np.asarray(class_counts, np.float64)
    return np.asarray(counts.sum() / (len(counts) * counts))


def _freeze(network: nn.Module, frozen: Sequence[str]) -> None:
    for name, parameter in network.named_parameters():
        if layer_of(name) in frozen:
            parameter.requires_grad_(False)


def _trainable(network: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, tensor) for name, tensor in network.named_parameters() if tensor.requires_grad)


def _optimiser(recipe: Recipe, network: nn.Module, start: Start | None) -> torch.optim.Optimizer:
    new = None if start is None or recipe.pretrained_rate == 1 else start.basis.record.new_layers
    groups: list[dict[str, object]] = []
    for is_new in (True, False):
        rate_scale = 1.0 if is_new else recipe.pretrained_rate
        part = [entry for entry in _trainable(network) if (new is None or layer_of(entry[0]) in new) is is_new]
        weights = [tensor for name, tensor in part if name.endswith(".weight")]
        biases = [tensor for name, tensor in part if name.endswith(".bias")]
        for tensors, decay, own_rate in (
            (weights, recipe.weight_decay, 0.0),
            (biases, 0.0, recipe.bias_learning_rate),
        ):
            if tensors:
                groups.append(
                    {"params": tensors, "weight_decay": decay, "own_rate": own_rate, "rate_scale": rate_scale}
                )
    # Fused: one pass over memory, which takes most of the time of the optimiser's step.
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(recipe.momentum, _BETA2), fused=True)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)


def _laid_out_as(parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of an optimiser's tensor in the memory layout of its parameter."""
    if tensor.shape != parameter.shape:
        return tensor.to(parameter.device, copy=True)
    return torch.empty_like(parameter).copy_(tensor).detach()
