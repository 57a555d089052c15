"""Where a run computes: its devices, and the rank of this process."""

from dataclasses import dataclass

import torch
from msgspec import Struct

from alexnet_deploy.train.runtime.distributed import ALONE, Ranks
from alexnet_deploy.train.runtime.two_columns import second_device

_CPU = torch.device("cpu")


class Machine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What must be equal for results to be bit-identical, besides the inputs."""

    processes: int = 1
    """Number of processes that train together."""
    device: str
    """`cpu`, or the GPU's name."""
    threads: int
    """Torch's CPU threads."""
    instructions: str
    """Widest vector instructions that torch uses, by torch's name."""
    torch: str
    """Torch's version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a run computes; `placed` makes one from names."""

    device: torch.device = _CPU
    """Device of this process."""
    second_device: torch.device | None = None
    """Device of the second column; None if the network is not split."""
    ranks: Ranks = ALONE
    """This process among several: each trains on its share of every batch; only the first writes and prints."""
    threads: int | None = None
    """Threads that decode images that are not packed; None: one per processor, 8 at most."""

    @property
    def is_two_columns(self) -> bool:
        """Whether the two columns are computed on separate devices."""
        return self.second_device is not None

    def machine(self) -> Machine:
        """Return what the bits of a result depend on here."""
        return Machine(
            device=torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            threads=torch.get_num_threads(),
            instructions=torch.backends.cpu.get_cpu_capability(),
            torch=str(torch.__version__),
            processes=self.ranks.size,
        )


HERE = Placement()
"""One process, on the CPU."""


def placed(device: str, *, ranks: Ranks = ALONE, columns: bool = False, threads: int | None = None) -> Placement:
    """Return a placement on a device that choose_device returned; with `columns` on two devices, see second_device.

    Raises BackendError if there is no GPU for the second column.
    """
    first = torch.device(device)
    second = second_device(first) if columns else None
    return Placement(device=first, second_device=second, ranks=ranks, threads=threads)
