import numpy as np
import pytest
import torch
from networks import narrowed

from alexnet_deploy.core.model.architecture import LocalNorm
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.network import LocalNormModule, Network
from alexnet_deploy.train.learner.lrn import TrainingLocalNorm, use_training_norms

LAYERS = [
    LocalNorm(name="norm", size=5, alpha=5e-4, beta=0.75, k=2.0),
    LocalNorm(name="norm", size=5, alpha=1e-4, beta=0.75, k=1.0),
    LocalNorm(name="norm", size=3, alpha=0.7, beta=0.5, k=0.5),
    LocalNorm(name="norm", size=1, alpha=0.3, beta=1.0, k=1.0),
    LocalNorm(name="norm", size=9, alpha=0.2, beta=0.75, k=2.0),
    LocalNorm(name="norm", size=5, alpha=0.1, beta=0.75, k=2.0, groups=2),
]


def values_and_gradients(module: torch.nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> list[torch.Tensor]:
    x = x.detach().clone().requires_grad_()
    y = module(x)
    y.backward(gradient)
    assert x.grad is not None
    return [y.detach(), x.grad]


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_those_of_torch(layer: LocalNorm, memory_format: torch.memory_format) -> None:
    draws = torch.Generator().manual_seed(0)
    x, gradient = (
        torch.randn((3, 12, 5, 7), generator=draws, dtype=torch.float64).mul(6).contiguous(memory_format=memory_format)
        for _ in range(2)
    )
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        expected = values_and_gradients(LocalNormModule(layer), x, gradient)
        found = values_and_gradients(TrainingLocalNorm(layer), x.to(dtype), gradient.to(dtype))
        for ours, torchs in zip(found, expected, strict=True):
            assert ours.dtype == dtype
            torch.testing.assert_close(
                ours.double(), torchs, rtol=tolerance, atol=tolerance * float(torchs.abs().max())
            )


def test_gradient_is_that_of_the_values() -> None:
    x = torch.randn((2, 7, 2, 2), dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    for layer in LAYERS[:5]:
        assert torch.autograd.gradcheck(TrainingLocalNorm(layer), (x,))


def test_bfloat16_goes_in_and_out_and_sums_are_float32() -> None:
    x = (torch.randn((2, 12, 3, 3), generator=torch.Generator().manual_seed(2)) * 30).bfloat16()
    expected, expected_gradient = values_and_gradients(LocalNormModule(LAYERS[0]), x.double(), x.double())
    found, gradient = values_and_gradients(TrainingLocalNorm(LAYERS[0]), x, x)
    assert found.dtype == gradient.dtype == torch.bfloat16
    # Rounded to eight bits once.
    np.testing.assert_allclose(found.double(), expected, rtol=2**-8)
    np.testing.assert_allclose(gradient.double(), expected_gradient, rtol=2**-7, atol=2**-8)


@pytest.mark.parametrize("name", ["paper", "original"])
def test_networks_with_training_norms_have_the_same_tensors_and_logits(name: str) -> None:
    architecture = narrowed(ARCHITECTURES[name])
    network, other = Network(architecture).eval(), Network(architecture).eval()
    other.load_state_dict(network.state_dict())
    use_training_norms(other)
    assert not any(isinstance(module, LocalNormModule) for module in other.children())
    assert [name for name, _ in other.named_children()] == [name for name, _ in network.named_children()]
    assert other.state_dict().keys() == network.state_dict().keys()
    size = architecture.input_size
    views = torch.randn((2, 3, size, size), generator=torch.Generator().manual_seed(3)) * 50
    with torch.inference_mode():
        torch.testing.assert_close(other(views), network(views), rtol=1e-5, atol=1e-5)
