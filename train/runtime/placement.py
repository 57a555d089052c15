"""Where a run computes: its devices, and this process among those that train together."""

from dataclasses import dataclass

import torch
from msgspec import Struct

from alexnet_deploy.train.runtime.distributed import ALONE, Ranks
from alexnet_deploy.train.runtime.two_columns import second_device

_CPU = torch.device("cpu")


class Machine(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What decides the last bits of a sum, beside the numbers in it."""

    processes: int = 1
    """That train together."""
    device: str
    """`cpu`, or the GPU's name."""
    threads: int
    """Of torch, on the CPU."""
    instructions: str
    """The widest vectors that torch uses, as it names them."""
    torch: str
    """Its version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a run computes; `placed` makes one of names."""

    device: torch.device = _CPU
    """This process's own."""
    second_device: torch.device | None = None
    """Of the second column; None where the network is whole."""
    ranks: Ranks = ALONE
    """Of several processes each learns from its share of every batch, and the first alone writes and speaks."""
    threads: int | None = None
    """That decode ahead what is not packed; None for one a processor, 8 at most."""

    @property
    def is_two_columns(self) -> bool:
        """Whether the table's two columns are computed apart."""
        return self.second_device is not None

    def machine(self) -> Machine:
        """Return what computes here."""
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
    """Return a placement on a device, which is what choose_device returns; with `columns` on two, see second_device.

    Raises BackendError where the second column has no GPU.
    """
    first = torch.device(device)
    second = second_device(first) if columns else None
    return Placement(device=first, second_device=second, ranks=ranks, threads=threads)
