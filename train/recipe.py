"""How a network is trained: every number that has a say, in one record that the weights keep."""

from types import MappingProxyType
from typing import Literal, TypeAlias

from msgspec import Struct

from alexnet_deploy.core.errors import UsageError

Initialisation: TypeAlias = Literal["kaiming", "paper"]


class Recipe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """SGD with momentum; the learning rate is divided by 10 when validation error stops improving.

    Source of the scheme: Krizhevsky et al. 2012, sections 4 and 5. What differs from the paper is the
    initialisation "kaiming" (He et al. 2015), which does not stall at ln K as the paper's small weights can on small
    data, and its inputs, which are divided by their deviation.
    """

    name: str
    epochs: int
    """Passes over the training pictures."""
    batch_size: int
    """Pictures a step."""
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    """On weights, not on biases."""
    patience: int
    """Epochs without a better validation error before the learning rate is divided by 10."""
    initialisation: Initialisation = "kaiming"
    """`paper`: N(0, 0.01), biases 1 on conv2, conv4, conv5, fc6, fc7, pixels on 0..255."""
    color_noise: float = 0.1
    """Deviation of the paper's PCA colour noise, in deviations of the data's own colours; 0 is none."""
    seed: int = 0
    """Of initialisation, order and augmentation."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "learning_rate", "patience"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} of {getattr(self, name)} trains nothing; it must be over 0")
        if not (self.color_noise >= 0 and self.weight_decay >= 0 and 0 <= self.momentum < 1):
            raise UsageError("color_noise and weight_decay must be 0 or more, momentum 0 or more and under 1")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"seed of {self.seed} is out of range; it must be 0 to {2**32 - 1}")


RECIPES = MappingProxyType(
    {
        recipe.name: recipe
        for recipe in (
            Recipe(name="drawn", epochs=8, batch_size=16, learning_rate=0.005, patience=2, color_noise=0.0),
            Recipe(name="folder", epochs=24, batch_size=64, learning_rate=0.01, patience=5),
            Recipe(name="paper", epochs=90, batch_size=128, learning_rate=0.01, patience=6, initialisation="paper"),
        )
    }
)
"""`drawn` for the pictures this program draws, `folder` for a few thousand photographs, `paper` for ImageNet."""


def recipe_by_name(name: str) -> Recipe:
    """Return the recipe of this name; raises UsageError for any other."""
    try:
        return RECIPES[name]
    except KeyError:
        raise UsageError(f"{name!r} is no recipe; there are {', '.join(RECIPES)}") from None
