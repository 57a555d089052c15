"""The trained network itself, in torch, float32: the reference for every other engine.

N images, V views, K classes.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from alexnet_deploy.core.bundle.contract import FEATURES, PROBABILITIES, output_of
from alexnet_deploy.core.bundle.layout import PIXELS, SOFTMAX, VIEWS
from alexnet_deploy.core.errors import BackendError, UsageError
from alexnet_deploy.core.model.network import Network, cut, network_from, preprocess
from alexnet_deploy.core.model.views import View
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.engines.batching import batch_size_for, max_batch_for
from alexnet_deploy.engines.engine import Engine, EngineInfo


class _Runner:
    def __init__(
        self,
        network: Network,
        weights: Weights,
        views: Sequence[View],
        device: torch.device,
        output_layer: str | None = None,
    ) -> None:
        self._network = network
        self._weights = weights
        self._views = views
        self._device = device
        self._output_layer = output_layer

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> np.ndarray:
        if self._output_layer is not None:
            *_, (_, values) = self._outputs_of_layers(self._cut(self._pixels(images)))
            return self._average(values)
        result: np.ndarray = torch.softmax(self.logits(images), dim=2).mean(0).cpu().numpy()
        return result

    @torch.inference_mode()
    def logits(self, images: np.ndarray) -> torch.Tensor:
        """Return the logits of each view, float32 (V, N, K)."""
        logits: torch.Tensor = self._network(self._cut(self._pixels(images)))
        return logits.view(len(self._views), len(images), -1)

    @torch.inference_mode()
    def run_layers(self, images: np.ndarray) -> dict[str, np.ndarray]:
        pixels = self._pixels(images)
        views = self._cut(pixels)
        found = {PIXELS: pixels, VIEWS: views, **dict(self._outputs_of_layers(views))}
        name, last = FEATURES, next(reversed(found.values()))
        if self._output_layer is None:
            name, last = PROBABILITIES, torch.softmax(last, dim=1)
            found[SOFTMAX] = last
        arrays: dict[str, np.ndarray] = {name: tensor.cpu().numpy() for name, tensor in found.items()}
        return arrays | {name: self._average(last)}

    def _outputs_of_layers(self, values: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the name and output of each layer, the output layer last."""
        for name, module in self._network.named_children():
            values = module(values)
            yield name, values
            if name == self._output_layer:
                return

    def _pixels(self, images: np.ndarray) -> torch.Tensor:
        weights = self._weights
        return preprocess(torch.tensor(images, device=self._device), weights.preprocessing, weights.mean_image)

    def _cut(self, pixels: torch.Tensor) -> torch.Tensor:
        size = self._weights.architecture.input_size
        return torch.cat([cut(pixels, view, size) for view in self._views])

    def _average(self, values: torch.Tensor) -> np.ndarray:
        """Return the mean over views of values (V * N, ...), flat, float32 (N, K) or (N, D)."""
        num_views = len(self._views)
        mean: np.ndarray = values.reshape(num_views, len(values) // num_views, -1).mean(0).cpu().numpy()
        return mean

    def close(self) -> None:
        del self._network


def open_reference(
    weights: Weights, views: Sequence[View], device: str = "cpu", output_layer: str | None = None
) -> Engine:
    """Open trained weights as an engine, in float32, TF32 off; `device` is cpu or cuda.

    With an `output_layer` it returns the features of that layer. Raises UsageError for another device, or a layer that
    gives no features; BackendError where CUDA was requested but is not available.
    """
    if device not in ("cpu", "cuda"):
        raise UsageError(f"{device!r} is not a device of torch; choose from cpu, cuda")
    if device == "cuda":
        if not torch.cuda.is_available():
            raise BackendError("torch: no CUDA device found; use the device cpu")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
    network = network_from(weights.architecture, weights.tensors).to(device)
    info = EngineInfo(
        backend="torch",
        # A subclass of str, which some encoders reject.
        version=str(torch.__version__),
        device=device,
        precision="fp32",
        arithmetic="float32",
        num_threads=torch.get_num_threads(),
        num_streams=1,
        batch_size=batch_size_for(len(views)),
        bundle_sha256=None,
    )
    return Engine(
        [_Runner(network, weights, tuple(views), torch.device(device), output_layer)],
        info,
        name=f"the trained network, {weights.architecture.name}",
        output=output_of(weights.architecture, output_layer),
        max_batch=max_batch_for(len(views)),
    )


def view_logits(weights: Weights, views: Sequence[View], batches: Iterable[np.ndarray]) -> np.ndarray:
    """Return the trained network's logits, float32 (V, N, K), on the CPU, for batches of images in order."""
    network = network_from(weights.architecture, weights.tensors)
    runner = _Runner(network, weights, tuple(views), torch.device("cpu"))
    return np.concatenate([runner.logits(images).numpy() for images in batches], axis=1)
