"""Several processes that train one network, started by torchrun, each on its share of every batch.

    torchrun --nproc-per-node 2 -m alexnet_deploy train images/

torch.distributed brings them together: gloo between CPUs, NCCL between GPUs. Several machines are torchrun's business.
"""

import gc
import os
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch

# Its functions keep the group of the moment they are imported as a default, and DistributedDataParallel imports them:
# a group they held would outlive its end, and gloo's threads Python's, which aborts the process now and then.
import torch.distributed.nn.functional
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_deploy.core.errors import BackendError, TrainingError, UsageError
from alexnet_deploy.train.learner.augment import Part

Given = TypeVar("Given")

# The first process may look over a million images while the others wait; torchrun ends them all when one fails.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Which of the processes that train together this is."""

    rank: int
    """0 is the first, which alone writes files and speaks."""
    size: int
    """How many there are."""

    @property
    def is_first(self) -> bool:
        """Whether this one writes and speaks."""
        return self.rank == 0

    def part(self, num_images: int) -> Part:
        """Return which images of a batch of this many are this process's: every `size`-th, none of them twice."""
        return Part(num_images=num_images, rows=slice(self.rank, None, self.size))

    def shard(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return this process's part of a batch, (N, ...); it may be empty where N is under the number of processes."""
        return numbers[self.part(len(numbers)).rows]

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network so that backward() leaves the mean of all processes' gradients in every one of them.

        The mean over a batch of B images is that of losses summed over a share and divided by B / size. Every process
        has the first one's tensors from then on.
        """
        if self.size == 1:
            return network
        # Buckets as views: no second copy of the gradients, 244 MB of them.
        return DistributedDataParallel(network, gradient_as_bucket_view=True)

    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over all processes, float64, the same in each of them."""
        total = torch.from_numpy(np.asarray(values, dtype=np.float64).copy())
        if self.size > 1:
            distributed.all_reduce(total)
        return total.numpy()

    def all_reduce_mean(self, value: float) -> float:
        """Return the mean over all processes, the same in each of them."""
        return float(self.all_reduce(np.array(value))) / self.size

    def barrier(self) -> None:
        """Return once every process has come here."""
        self.all_reduce(np.zeros(1))

    def broadcast(self, make: Callable[[], Given]) -> Given:
        """Return what the first process makes of it; the others wait for it and make nothing."""
        if self.size == 1:
            return make()
        made = [make() if self.is_first else None]
        distributed.broadcast_object_list(made)
        return made[0]  # type: ignore[return-value]


ALONE = Ranks(rank=0, size=1)
"""A process that was not started by torchrun."""


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Give this process's place among those that torchrun started, and the device that is its own.

    `device` is what choose_device returns; of several GPUs each process takes that of its number on its machine. Raises
    UsageError for an environment that is half torchrun's, BackendError where there are fewer GPUs than processes, and
    TrainingError where another process ends before this one is done.
    """
    size = _number("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1
    if size == 1:
        yield ALONE, device
        return
    ranks, local_rank = Ranks(rank=_number("RANK"), size=size), _number("LOCAL_RANK")
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise BackendError(
                f"process {local_rank} of this machine has no GPU of its own, for there are "
                f"{torch.cuda.device_count()}; --nproc-per-node can be as many at most"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    try:
        # Counts and words are exchanged between CPUs in any case.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if "cuda" in device else "gloo", timeout=_PATIENCE)
        try:
            yield ranks, device
        except (KeyboardInterrupt, SystemExit) as asked:
            # Asked of all. A group that is left to the end of a process that ends in order aborts it. The frames that
            # the exception came through keep DistributedDataParallel: it ends before its group, or waits, with Python's
            # lock held, for a gloo thread that waits for that lock (pytorch#56297).
            _forget_frames(asked)
            distributed.destroy_process_group()
            raise
        distributed.destroy_process_group()
    except RuntimeError as error:
        # After an error the group is left to the process's end: leaving it in order would wait for the others.
        if _is_of_another_process(error):
            raise TrainingError(
                f"process {ranks.rank} stops, for another has ended; what that one said tells why"
            ) from error
        raise


def _forget_frames(error: BaseException) -> None:
    """Drop what the functions that an exception ended, and those before it, still hold."""
    reason: BaseException | None = error
    while reason is not None:
        traceback.clear_frames(reason.__traceback__)
        reason = reason.__context__
    # The network and what wraps it refer to each other.
    gc.collect()


def _is_of_another_process(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdigit():
        raise UsageError(
            f"WORLD_SIZE is set and {name} is {text!r}, where torchrun gives a number; start with torchrun"
        )
    return int(text)
