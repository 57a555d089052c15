"""Schedules without state: learning rate, EMA decay and early stopping follow from the recipe and past epochs."""

import math
from collections.abc import Sequence

from alexnet_deploy.core.model.weights import EpochMetrics
from alexnet_deploy.train.recipe import Recipe

# Smallest decrease of the validation error, 0..1, that counts as an improvement.
_IMPROVEMENT = 1e-4


def learning_rate(recipe: Recipe, epochs: Sequence[EpochMetrics], step: int, num_steps: int) -> float:
    """Return the learning rate of a step of the epoch after `epochs`.

    `step` is 0 for the first of the epoch's `num_steps` steps.
    """
    done = len(epochs) + step / num_steps
    if done < recipe.warmup_epochs:
        # Counted from 1, so that the first step has a rate above 0.
        return recipe.learning_rate * (done + 1 / num_steps) / recipe.warmup_epochs
    match recipe.schedule:
        case "cosine":
            share = (done - recipe.warmup_epochs) / (recipe.epochs - recipe.warmup_epochs)
            return recipe.learning_rate * (1 + math.cos(math.pi * share)) / 2
        case "step":
            divisions = sum(epoch <= len(epochs) + 1 for epoch in recipe.milestones)
        case "plateau":
            divisions = min(recipe.divisions, _plateaus(recipe.patience, epochs))
    return float(recipe.learning_rate / 10**divisions)


def mean_decay(recipe: Recipe, epochs: Sequence[EpochMetrics], step: int, num_steps: int) -> float:
    """Return the decay of the weights' moving average at a step; the arguments are those of learning_rate.

    It is smaller in the first steps, so that the initial values fade: the rule of TensorFlow's ExponentialMovingAverage
    for `num_updates`.
    """
    done = len(epochs) * num_steps + step
    return min(recipe.ema_decay, (1 + done) / (10 + done))


def has_ended(*, num_epochs: int, early_stopping: int, epochs_done: int, best_epoch: int) -> bool:
    """Return whether a run is over: all epochs are done, or `early_stopping` epochs passed without a new best one."""
    waited = epochs_done - best_epoch
    return epochs_done >= num_epochs or (0 < early_stopping <= waited)


def _plateaus(patience: int, epochs: Sequence[EpochMetrics]) -> int:
    """Return how many times the validation error failed to improve for `patience` consecutive epochs."""
    least, waited, num_plateaus = math.inf, 0, 0
    for metrics in epochs:
        error = 1 - metrics.validation_top1
        if error < least - _IMPROVEMENT:
            least, waited = error, 0
        else:
            waited += 1
        if waited == patience:
            num_plateaus, waited = num_plateaus + 1, 0
    return num_plateaus
