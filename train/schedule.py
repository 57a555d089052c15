"""What changes from step to step, from the recipe and the epochs behind it alone: nothing to be kept between steps."""

import math
from collections.abc import Sequence

from alexnet_deploy.core.model.weights import EpochMetrics
from alexnet_deploy.train.recipe import Recipe

# Of a validation error, 0..1: less than that is no improvement.
_IMPROVEMENT = 1e-4


def learning_rate(recipe: Recipe, epochs: Sequence[EpochMetrics], step: int, num_steps: int) -> float:
    """Return the rate of a step of the epoch that comes after `epochs`.

    `step` is 0 for the epoch's first of `num_steps`.
    """
    done = len(epochs) + step / num_steps
    if done < recipe.warmup_epochs:
        # The first step learns something too.
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
    """Return what the running mean of the weights keeps at a step; the arguments are those of learning_rate.

    Over the first steps less than later, so that the first values fade: the rule of TensorFlow's
    ExponentialMovingAverage for `num_updates`.
    """
    done = len(epochs) * num_steps + step
    return min(recipe.ema_decay, (1 + done) / (10 + done))


def has_ended(*, num_epochs: int, early_stopping: int, epochs_done: int, best_epoch: int) -> bool:
    """Return whether a run is over: its recipe's epochs are done, or so many in a row brought no new best one."""
    waited = epochs_done - best_epoch
    return epochs_done >= num_epochs or (0 < early_stopping <= waited)


def _plateaus(patience: int, epochs: Sequence[EpochMetrics]) -> int:
    """Return how often `patience` epochs in a row had no validation error clearly under the least before."""
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
