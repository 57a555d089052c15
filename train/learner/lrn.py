"""Local response normalisation for training: the values of torch's module, several times faster on a CPU.

torch uses a three-dimensional average pool and stores every intermediate result for the gradient: half the time of a
full-size network's step. Here the window sum adds shifted slices, and the gradient is explicit. The reference network
that engines are compared with keeps torch's module.

N images, C channels, H height, W width; b_c = a_c / s_c^beta with s_c = k + alpha / size * sum of a^2 over the window.
"""

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, once_differentiable

from alexnet_deploy.core.model.architecture import LocalNorm
from alexnet_deploy.core.model.network import LocalNormModule


class TrainingLocalNorm(nn.Module):
    """The same as LocalNormModule up to rounding."""

    def __init__(self, layer: LocalNorm) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalised values of (N, C, H, W), with its shape and dtype; sums are at least float32."""
        num_groups = self.layer.groups
        columns = x.tensor_split(num_groups, dim=1) if num_groups > 1 else (x,)
        normed = [_Normalise.apply(column, self.layer) for column in columns]  # type: ignore[no-untyped-call]
        return torch.cat(normed, dim=1) if num_groups > 1 else normed[0]


def use_training_norms(network: nn.Module) -> None:
    """Replace every LocalNormModule in the network by a TrainingLocalNorm."""
    for name, module in list(network.named_modules()):
        if isinstance(module, LocalNormModule):
            network.set_submodule(name, TrainingLocalNorm(module.layer))


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, x: torch.Tensor, layer: LocalNorm) -> torch.Tensor:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        sums = _window_sum(values.square(), layer.size).mul_(layer.alpha / layer.size).add_(layer.k)
        factors = sums.pow(-layer.beta)
        ctx.save_for_backward(values, sums, factors)
        ctx.layer = layer  # type: ignore[attr-defined]
        return (values * factors).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        layer: LocalNorm = ctx.layer  # type: ignore[attr-defined]
        values, sums, factors = ctx.saved_tensors  # type: ignore[attr-defined]
        direct = gradient * factors
        through_sums = _window_sum((direct * values).div_(sums), layer.size).mul_(values)
        return direct.sub_(through_sums, alpha=2 * layer.alpha * layer.beta / layer.size).to(gradient.dtype), None


def _window_sum(values: torch.Tensor, size: int) -> torch.Tensor:
    """Return, for each channel, the sum over the `size` channels around it (size is odd); zeros outside."""
    total = values.clone()
    for distance in range(1, size // 2 + 1):
        total[:, distance:] += values[:, :-distance]
        total[:, :-distance] += values[:, distance:]
    return total
