"""Stateless random numbers: every generator is derived from (seed, epoch, step), so any step can be repeated."""

import numpy as np
import torch

# Purposes: different purposes have independent random numbers.
_ORDER, _AUGMENTATION, _DROPOUT = range(3)


def epoch_order(seed: int, epoch: int, num_images: int) -> torch.Tensor:
    """Return the image numbers 0 to num_images - 1 in the order of an epoch, int64."""
    return torch.randperm(num_images, generator=_generator(seed, _ORDER, epoch))


def augmentation_draws(seed: int, epoch: int, step: int) -> torch.Generator:
    """Return the CPU generator for the crops, mirrors and colours of a step."""
    return _generator(seed, _AUGMENTATION, epoch, step)


def seed_dropout(seed: int, epoch: int, step: int, rank: int = 0) -> None:
    """Seed torch's global generators, which dropout uses, for a step, on every device.

    Each rank has different dropout masks; those of rank 0 equal those of a single process.
    """
    own = (rank,) if rank else ()
    torch.manual_seed(_number(seed, _DROPOUT, epoch, step, *own))


def _generator(*place: int) -> torch.Generator:
    return torch.Generator().manual_seed(_number(*place))


def _number(*place: int) -> int:
    """Return a 63-bit number that depends on every bit of the arguments; close arguments give unrelated numbers."""
    return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))
