"""What a run's own numbers say is wrong with it."""

import math
from collections.abc import Sequence

from alexnet_deploy.core.model.weights import EpochMetrics
from alexnet_deploy.train.recipe import Recipe

_PLATEAU_BAND = 0.01
_PLATEAU_EPOCHS = 3


def plateau_remarks(recipe: Recipe, epochs: Sequence[EpochMetrics], num_classes: int) -> tuple[str, ...]:
    """Return a sentence, with its remedy, for each time that training stood still at ln K, the loss of a blind guess.

    That is three epochs in a row whose training loss was within 1 % of it. Source of the phenomenon and the remedy:
    BVLC/caffe, models/bvlc_alexnet/readme.md, and pull request 3243.
    """
    blind = math.log(num_classes)
    remarks, in_a_row = [], 0
    for metrics in epochs:
        in_a_row = in_a_row + 1 if abs(metrics.train_loss - blind) <= _PLATEAU_BAND * blind else 0
        if in_a_row == _PLATEAU_EPOCHS:
            remarks.append(
                f"for {_PLATEAU_EPOCHS} epochs up to {metrics.epoch} the training loss has stood within "
                f"{_PLATEAU_BAND:.0%} of ln {num_classes} = {blind:.3f}, where nothing is learnt; {_remedy(recipe)}"
            )
    return tuple(remarks)


def _remedy(recipe: Recipe) -> str:
    if recipe.initialisation != "kaiming":
        return f"the first values {recipe.initialisation!r} are known for it: --set initialisation=kaiming"
    return f"try a --lr of {recipe.learning_rate / 3:.2g} or {3 * recipe.learning_rate:.2g}, and look at the labels"
