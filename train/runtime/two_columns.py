"""Model parallelism as in the paper: each of the two columns on its own device.

The columns exchange their activations before conv3, fc6, fc7 and fc8, and nowhere else (Krizhevsky et al. 2012, section
3.5 and figure 2). fc8, which the figure draws once, is not split; it is on the first device, which returns the logits.

N images, C channels, H height, W width, K classes.
"""

import msgspec
import torch
from torch import nn
from torch.nn import functional

from alexnet_deploy.core.errors import BackendError, UsageError
from alexnet_deploy.core.model.architecture import Architecture, Conv, Dropout, Layer, LayerCost, Linear, LocalNorm
from alexnet_deploy.core.model.network import Network, module_of


class TwoColumns(nn.Module):
    """A grouped network computed as two columns, each on its device; results differ by rounding only.

    `state_dict` joins the ordinary tensors (conv1.weight, ..., fc8.bias) on the CPU, and `load_state_dict` splits
    them again, so weights files do not depend on the columns.
    """

    def __init__(self, architecture: Architecture, devices: tuple[torch.device | str, torch.device | str]) -> None:
        """Create the columns without values; two_columns fills them from a network.

        Raises UsageError if the architecture is not two columns.
        """
        super().__init__()
        check_columns(architecture)
        self.architecture = architecture
        self.devices = tuple(torch.device(device) for device in devices)
        with torch.device("meta"):
            self.columns = nn.ModuleList([_column(architecture, number) for number in (0, 1)])
        self.register_state_dict_post_hook(_gather)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_part)  # type: ignore[no-untyped-call]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (N, K), on the first device, for preprocessed views (N, 3, H, W) on any."""
        *layers, last = self.architecture.layers
        halves = [x.to(device) for device in self.devices]
        for layer in layers:
            if isinstance(layer, Dropout):
                halves = self._drop(halves, layer.probability)
                continue
            # The first layer gets the whole image in both columns; only activations are exchanged.
            if _sees_both(layer) and layer is not layers[0]:
                halves = [self._joined(halves, device) for device in self.devices]
            halves = [column.get_submodule(layer.name)(half) for column, half in zip(self.columns, halves, strict=True)]
        logits: torch.Tensor = self.columns[0].get_submodule(last.name)(self._joined(halves, self.devices[0]))
        return logits

    def _joined(self, halves: list[torch.Tensor], device: torch.device) -> torch.Tensor:
        return torch.cat([half.to(device) for half in halves], dim=1)

    def _drop(self, halves: list[torch.Tensor], probability: float) -> list[torch.Tensor]:
        """Apply dropout as to the whole layer: one mask, drawn on the first device and split.

        Devices with equal seeds draw equal masks, so separate masks would drop the same features in both columns.
        """
        if not self.training:
            return halves
        first, second = halves
        whole = first.new_ones(first.shape[0], first.shape[1] + second.shape[1], *first.shape[2:])
        mask = functional.dropout(whole, probability)
        return [first * mask[:, : first.shape[1]], second * mask[:, first.shape[1] :].to(second.device)]


def two_columns(network: Network, devices: tuple[torch.device | str, torch.device | str]) -> TwoColumns:
    """Return the network as two columns on these devices, in the same mode, with copies of its tensors.

    Raises UsageError if its architecture is not two columns; see check_columns.
    """
    columns = TwoColumns(network.architecture, devices)
    columns.load_state_dict(network.state_dict(), assign=True)
    return columns.train(network.training)


def second_device(first: torch.device) -> torch.device:
    """Return the device of the second column: the next GPU, or the CPU for a first column on the CPU.

    Raises BackendError if there is no second GPU.
    """
    if first.type == "cpu":
        return first
    number = (first.index or 0) + 1
    if number >= (there := torch.cuda.device_count()):
        raise BackendError(f"two columns need two GPUs, but torch finds {there}; use --device cpu for both columns")
    return torch.device("cuda", number)


def check_columns(architecture: Architecture, processes: int = 1) -> None:
    """Raise UsageError unless the architecture is two columns that meet only in ungrouped layers, in one process."""
    if processes > 1:
        raise UsageError(f"two columns train in one process, but torchrun started {processes}")
    remedy = "use an architecture of two columns, such as `original`"
    *layers, _ = architecture.layers
    for layer in layers:
        if isinstance(layer, LocalNorm) and layer.groups != 2:
            raise UsageError(
                f"{architecture.name}: {layer.name} normalises {layer.groups} groups of channels, but two columns need "
                f"2; {remedy}"
            )
        if isinstance(layer, Conv) and layer.groups not in (1, 2):
            raise UsageError(
                f"{architecture.name}: {layer.name} has {layer.groups} groups, but two columns need 1 or 2; {remedy}"
            )
        num_outputs = _num_outputs(layer)
        if num_outputs is not None and num_outputs % 2:
            raise UsageError(f"{architecture.name}: {layer.name} has {num_outputs} outputs, an odd number; {remedy}")
    if not any(isinstance(layer, Conv) and layer.groups == 2 for layer in layers):
        raise UsageError(f"{architecture.name}: no convolution has 2 groups, so there are no columns; {remedy}")


def _num_outputs(layer: Layer) -> int | None:
    match layer:
        case Conv():
            return layer.out_channels
        case Linear():
            return layer.out_features
    return None


def _sees_both(layer: Layer) -> bool:
    return isinstance(layer, Linear) or (isinstance(layer, Conv) and layer.groups == 1)


def _column(architecture: Architecture, number: int) -> nn.Module:
    """Return a column's half of every layer; fc8 is in the first column only."""
    column = nn.Module()
    *costs, last = architecture.costs()
    for cost in costs:
        if not isinstance(cost.layer, Dropout):
            column.add_module(cost.layer.name, _half(cost))
    if number == 0:
        column.add_module(last.layer.name, module_of(last.layer, last.in_shape))
    return column


def _half(cost: LayerCost) -> nn.Module:
    layer, in_shape = cost.layer, cost.in_shape
    half_in_shape = (in_shape[0] // 2, *in_shape[1:])
    match layer:
        case Conv():
            narrow = msgspec.structs.replace(layer, out_channels=layer.out_channels // 2, groups=1)
            return module_of(narrow, in_shape if layer.groups == 1 else half_in_shape)
        case Linear():
            return module_of(msgspec.structs.replace(layer, out_features=layer.out_features // 2), in_shape)
        case LocalNorm():
            return module_of(msgspec.structs.replace(layer, groups=1), half_in_shape)
    return module_of(layer, half_in_shape)


def _gather(columns: nn.Module, state: dict[str, torch.Tensor], prefix: str, _: object) -> None:
    """Replace the columns' tensors by the architecture's, in its order; the first dimension was the one split."""
    assert isinstance(columns, TwoColumns)
    halves = {name: state.pop(name) for name in list(state) if name.startswith(f"{prefix}columns.")}
    for name in columns.architecture.tensor_shapes():
        names = (f"{prefix}columns.{number}.{name}" for number in (0, 1))
        state[f"{prefix}{name}"] = torch.cat([halves[part].cpu() for part in names if part in halves])


def _part(columns: nn.Module, state: dict[str, torch.Tensor], prefix: str, *_: object) -> None:
    """Replace the architecture's tensors by the columns', each on its device; other names stay."""
    assert isinstance(columns, TwoColumns)
    wanted = dict(columns.columns.named_parameters())
    for name in columns.architecture.tensor_shapes():
        if (whole := state.pop(f"{prefix}{name}", None)) is None:
            continue
        numbers = [number for number in (0, 1) if f"{number}.{name}" in wanted]
        for number, half in zip(numbers, whole.tensor_split(len(numbers)), strict=True):
            state[f"{prefix}columns.{number}.{name}"] = half.to(columns.devices[number], copy=True)
