"""Data-parallel training: torchrun starts several processes, and each trains on its share of every batch.

    torchrun --nproc-per-node 2 -m alexnet_deploy train images/

torch.distributed connects them: gloo between CPUs, NCCL between GPUs. torchrun also starts runs on several machines.
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

# Imported before any group exists. Its functions keep the group of the moment of import as a default, and
# DistributedDataParallel imports them: a group held there would outlive Python, and gloo's threads would sometimes
# abort the process.
import torch.distributed.nn.functional
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from alexnet_deploy.core.errors import BackendError, TrainingError, UsageError
from alexnet_deploy.train.learner.augment import Part

Given = TypeVar("Given")

# The first process may read a million images while the others wait; torchrun ends them all when one fails.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """The rank of this process among those that train together."""

    rank: int
    """0 is the first; only it writes files and prints."""
    size: int
    """Number of processes."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def part(self, num_images: int) -> Part:
        """Return this process's images of a batch of `num_images`: every `size`-th, no image in two processes."""
        return Part(num_images=num_images, rows=slice(self.rank, None, self.size))

    def shard(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return this process's part of a batch, (N, ...); empty for some if N is less than the number of processes."""
        return numbers[self.part(len(numbers)).rows]

    def wrap(self, network: nn.Module) -> nn.Module:
        """Wrap the network so that backward() leaves the mean gradient over all processes in each of them.

        To get the mean over a batch of B images, each process divides the sum of its losses by B / size. All processes
        start with the tensors of the first one.
        """
        if self.size == 1:
            return network
        # Buckets as views: no second copy of the gradients, 244 MB.
        return DistributedDataParallel(network, gradient_as_bucket_view=True)

    def all_reduce(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over all processes, float64, the same in each process."""
        total = torch.from_numpy(np.asarray(values, dtype=np.float64).copy())
        if self.size > 1:
            distributed.all_reduce(total)
        return total.numpy()

    def all_reduce_mean(self, value: float) -> float:
        """Return the mean over all processes, the same in each process."""
        return float(self.all_reduce(np.array(value))) / self.size

    def barrier(self) -> None:
        """Return once every process has called this."""
        self.all_reduce(np.zeros(1))

    def broadcast(self, make: Callable[[], Given]) -> Given:
        """Return the first process's result of `make` in every process; the others wait and do not call it."""
        if self.size == 1:
            return make()
        made = [make() if self.is_first else None]
        distributed.broadcast_object_list(made)
        return made[0]  # type: ignore[return-value]


ALONE = Ranks(rank=0, size=1)
"""A single process, not started by torchrun."""


@contextmanager
def joined(device: str) -> Iterator[tuple[Ranks, str]]:
    """Yield this process's rank among those that torchrun started, and its device.

    `device` is a result of choose_device; with several GPUs, each process uses the GPU of its local rank. Raises
    UsageError for an incomplete torchrun environment, BackendError if there are fewer GPUs than processes, and
    TrainingError if another process ends before this one.
    """
    size = _number("WORLD_SIZE") if "WORLD_SIZE" in os.environ else 1
    if size == 1:
        yield ALONE, device
        return
    ranks, local_rank = Ranks(rank=_number("RANK"), size=size), _number("LOCAL_RANK")
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise BackendError(
                f"no GPU for process {local_rank} of this machine: torch finds "
                f"{torch.cuda.device_count()}; lower --nproc-per-node to that number"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    try:
        # Counts and messages are always exchanged between CPUs.
        distributed.init_process_group("cpu:gloo,cuda:nccl" if "cuda" in device else "gloo", timeout=_PATIENCE)
        try:
            yield ranks, device
        except (KeyboardInterrupt, SystemExit) as stop:
            # Raised in every process. A group that still exists at a normal exit aborts the process. The exception's
            # frames keep DistributedDataParallel alive: it must end before its group, or it waits, with Python's lock
            # held, for a gloo thread that waits for that lock (pytorch#56297).
            _clear_frames(stop)
            distributed.destroy_process_group()
            raise
        distributed.destroy_process_group()
    except RuntimeError as error:
        # After an error the group is not destroyed: that would wait for the other processes.
        if _is_of_another_process(error):
            raise TrainingError(
                f"process {ranks.rank} stopped because another process ended; see the error of that process"
            ) from error
        raise


def _clear_frames(error: BaseException) -> None:
    """Clear the local variables of the frames of an exception and of the exceptions before it."""
    reason: BaseException | None = error
    while reason is not None:
        traceback.clear_frames(reason.__traceback__)
        reason = reason.__context__
    # The network and its wrapper refer to each other.
    gc.collect()


def _is_of_another_process(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or "gloo" in str(error)


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    if not text.isdigit():
        raise UsageError(
            f"WORLD_SIZE is set, but {name} is {text!r} and not a number; start the processes with torchrun"
        )
    return int(text)
