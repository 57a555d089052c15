"""What is random in training, drawn from the seed and the place alone, so that any step can be done again exactly."""

import numpy as np
import torch

# What is drawn for: numbers from different purposes have nothing to do with each other.
_ORDER, _AUGMENTATION, _DROPOUT = range(3)


def epoch_order(seed: int, epoch: int, num_images: int) -> torch.Tensor:
    """Return the numbers 0 to num_images - 1 in the order of an epoch, int64."""
    return torch.randperm(num_images, generator=_generator(seed, _ORDER, epoch))


def augmentation_draws(seed: int, epoch: int, step: int) -> torch.Generator:
    """Return the generator of a step's crops, mirrors and colours, on the CPU."""
    return _generator(seed, _AUGMENTATION, epoch, step)


def seed_dropout(seed: int, epoch: int, step: int, rank: int = 0) -> None:
    """Set torch's own generators, on every device, to those of a step: dropout draws from them.

    Of processes that train together each has masks of its own, the first those of one alone.
    """
    own = (rank,) if rank else ()
    torch.manual_seed(_number(seed, _DROPOUT, epoch, step, *own))


def _generator(*place: int) -> torch.Generator:
    return torch.Generator().manual_seed(_number(*place))


def _number(*place: int) -> int:
    """Return 64 bits that depend on every bit of the place; numbers next to each other give unlike ones."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))
