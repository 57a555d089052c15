"""Diagnosis of a run from its metrics."""

import math
from collections.abc import Sequence

from alexnet_deploy.core.model.weights import EpochMetrics
from alexnet_deploy.train.recipe import Recipe

_PLATEAU_BAND = 0.01
_PLATEAU_EPOCHS = 3


def plateau_remarks(recipe: Recipe, epochs: Sequence[EpochMetrics], num_classes: int) -> tuple[str, ...]:
    """Return a sentence, with a remedy, for each time that training stalled at ln K, the loss of random guessing.

    Stalled means three consecutive epochs with a training loss within 1 % of ln K. Source of the effect and the remedy:
    BVLC/caffe, models/bvlc_alexnet/readme.md, and pull request 3243.
    """
    blind = math.log(num_classes)
    remarks, in_a_row = [], 0
    for metrics in epochs:
        in_a_row = in_a_row + 1 if abs(metrics.train_loss - blind) <= _PLATEAU_BAND * blind else 0
        if in_a_row == _PLATEAU_EPOCHS:
            remarks.append(
                f"the training loss stayed within {_PLATEAU_BAND:.0%} of ln {num_classes} = {blind:.3f} (random "
                f"guessing) for {_PLATEAU_EPOCHS} epochs, up to epoch {metrics.epoch}; {_remedy(recipe)}"
            )
    return tuple(remarks)


def _remedy(recipe: Recipe) -> str:
    if recipe.initialisation != "kaiming":
        return f"initialisation {recipe.initialisation!r} is known for this: try --set initialisation=kaiming"
    return f"try --lr {recipe.learning_rate / 3:.2g} or {3 * recipe.learning_rate:.2g}, and check the labels"
