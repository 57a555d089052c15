"""Files of other programs, written by torch: state dicts under the names that people's files have, and ONNX graphs."""

import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn

from alexnet_deploy.core.model.weights import Weights

TORCHVISION = dict(
    zip(
        ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"),
        (*(f"features.{n}" for n in (0, 3, 6, 8, 10)), *(f"classifier.{n}" for n in (1, 4, 6))),
        strict=True,
    )
)
JIECAOYU = dict(
    zip(
        TORCHVISION,
        (*(f"features.{n}" for n in (0, 4, 8, 10, 12)), *(f"classifier.{n}" for n in (0, 3, 6))),
        strict=True,
    )
)


def state_dict(weights: Weights, names: Mapping[str, str] | None = None) -> dict[str, torch.Tensor]:
    """The tensors under other names of their layers, in order; without any, under ours."""
    state = {}
    for name, tensor in weights.tensors.items():
        layer, _, kind = name.rpartition(".")
        state[f"{layer if names is None else names[layer]}.{kind}"] = torch.from_numpy(tensor.copy())
    return state


class TakenApart(nn.Module):
    """LRN as people wrote it before torch had one."""

    def __init__(self) -> None:
        super().__init__()
        self.average = nn.AvgPool3d((5, 1, 1), stride=1, padding=(2, 0, 0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / self.average(x.pow(2).unsqueeze(1)).squeeze(1).mul(1e-4).add(1.0).pow(0.75)


class Caffe(nn.Module):
    """jiecaoyu's network, as torch programs write it."""

    def __init__(self, state: Mapping[str, torch.Tensor], norm: type[nn.Module]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(state, "features.0", stride=4),
            nn.ReLU(),
            _norm(norm),
            nn.MaxPool2d(3, 2),
            _conv(state, "features.4", padding=2, groups=2),
            nn.ReLU(),
            _norm(norm),
            nn.MaxPool2d(3, 2),
            _conv(state, "features.8", padding=1),
            nn.ReLU(),
            _conv(state, "features.10", padding=1, groups=2),
            nn.ReLU(),
            _conv(state, "features.12", padding=1, groups=2),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
        )
        self.classifier = nn.Sequential(
            _fc(state, "classifier.0"),
            nn.ReLU(),
            nn.Dropout(),
            _fc(state, "classifier.3"),
            nn.ReLU(),
            nn.Dropout(),
            _fc(state, "classifier.6"),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


class TorchVision(nn.Module):
    """torchvision's network."""

    def __init__(self, state: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.features = nn.Sequential(
            _conv(state, "features.0", stride=4, padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            _conv(state, "features.3", padding=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
            _conv(state, "features.6", padding=1),
            nn.ReLU(inplace=True),
            _conv(state, "features.8", padding=1),
            nn.ReLU(inplace=True),
            _conv(state, "features.10", padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2),
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))
        self.classifier = nn.Sequential(
            nn.Dropout(),
            _fc(state, "classifier.1"),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            _fc(state, "classifier.4"),
            nn.ReLU(inplace=True),
            _fc(state, "classifier.6"),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))


def exported(module: nn.Module, size: int, path: Path, *, dynamo: bool) -> Path:
    """The module as torch's exporter writes it; the older exporter for any number of images."""
    options: dict[str, object] = {"external_data": False} if dynamo else {"dynamic_axes": {"input": {0: "N"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, 3, size, size),),
            path,
            dynamo=dynamo,
            input_names=["input"],
            verbose=False,
            **options,  # type: ignore[arg-type]
        )
    return path


def _conv(
    state: Mapping[str, torch.Tensor], name: str, *, stride: int = 1, padding: int = 0, groups: int = 1
) -> nn.Module:
    weight = state[f"{name}.weight"]
    module = nn.Conv2d(weight.shape[1] * groups, len(weight), weight.shape[2], stride, padding, groups=groups)
    return _filled(module, state, name)


def _fc(state: Mapping[str, torch.Tensor], name: str) -> nn.Module:
    weight = state[f"{name}.weight"]
    return _filled(nn.Linear(weight.shape[1], len(weight)), state, name)


def _filled(module: nn.Module, state: Mapping[str, torch.Tensor], name: str) -> nn.Module:
    module.load_state_dict({kind: state[f"{name}.{kind}"] for kind in ("weight", "bias")})
    return module


def _norm(kind: type[nn.Module]) -> nn.Module:
    return nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0) if kind is nn.LocalResponseNorm else kind()


def same(found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> bool:
    """Whether all tensors are there, bit for bit."""
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)
