"""Compare our network with the source itself on images, from pixels to probabilities.

The source's input is prepared here in NumPy, from the facts about the source and not from our Preprocessing.

N images, K classes, S side of the input.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import msgspec
import numpy as np
import torch

from alexnet_deploy.core.errors import ParityError
from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_image, golden_images
from alexnet_deploy.core.model.architecture import Architecture, Flatten, Linear, LocalNorm, MaxPool
from alexnet_deploy.core.model.network import cut, network_from, preprocess
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE, Preprocessing
from alexnet_deploy.core.model.views import View, views_by_name
from alexnet_deploy.export.importing.recognise import Recognised
from alexnet_deploy.export.importing.registry import Referee
from alexnet_deploy.export.importing.source import SourcePreprocessing

MAX_ERROR = 1e-5
"""Tolerance of a probability: the same sums in another order, as for an FP32 graph."""
_RELATIVE_LOG_ERROR = 1e-5
_LEAST_SPAN = 10.0
"""A log-probability may differ by 1e-5 of the largest one, or of 10 nats if more: float32 errors are relative."""

_LOG_FLOOR = 1e-30
_IMAGES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The differences between our network and the source."""

    num_images: int
    max_error: float
    """Largest absolute difference of a probability; NaN if either returned NaN."""
    max_log_error: float
    """Largest difference of a log-probability, in nats."""
    allowed_log_error: float
    """Tolerance of max_log_error."""
    tells_images_apart: bool
    """Whether the source's probabilities differ between the images: if not, no fault of preprocessing can be felt."""

    @property
    def holds(self) -> bool:
        """Whether both differences are within tolerance; NaN is not."""
        return self.max_error <= MAX_ERROR and self.max_log_error <= self.allowed_log_error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ours:
    """Everything that determines our network's output."""

    architecture: Architecture
    tensors: Mapping[str, np.ndarray]
    preprocessing: Preprocessing
    mean_image: np.ndarray | None
    view: View


@cache
def proof_images() -> np.ndarray:
    """Return the images of the proof, uint8 (16, 256, 256, 3): the golden ones, and eight more drawn ones."""
    drawn = [np.asarray(draw_image(thing, seed)) for seed in (1, 2) for thing in DRAWN_CLASSES]
    return np.concatenate([golden_images(), np.stack(drawn)])


def prove(recognised: Recognised, referee: Referee, *, view: View | None = None) -> Agreement:
    """Compare our network with the source itself, on the centre view unless another is given.

    Raises ParityError if they disagree; the error names the mistake that explains the difference, if one does.
    """
    images = proof_images()
    source = recognised.source
    expected = referee(source, source_inputs(images, source.preprocessing))
    (center,) = views_by_name("center", recognised.architecture.input_size)
    ours = _Ours(
        architecture=recognised.architecture,
        tensors=recognised.tensors,
        preprocessing=recognised.preprocessing,
        mean_image=recognised.mean_image,
        view=view or center,
    )
    agreement = _compare(expected, _answers(ours, images))
    if agreement.holds:
        return agreement
    found = [name for name, mended in _mended(ours) if _compare(expected, _answers(mended, images)).holds]
    cause = f"; they agree with {' or with '.join(found)}" if found else ""
    raise ParityError(
        f"{source.path}: the imported network disagrees with the file: on {len(images)} images, probabilities "
        f"differ by up to {agreement.max_error:.2g} ({MAX_ERROR:g} allowed), log-probabilities by up to "
        f"{agreement.max_log_error:.2g} ({agreement.allowed_log_error:.2g} allowed){cause}"
    )


def source_inputs(images: np.ndarray, fed: SourcePreprocessing) -> np.ndarray:
    """Return the input of a source's first layer, float32 (N, 3, S, S), for images, uint8 (N, 256, 256, 3)."""
    assert fed.input_size is not None, "filled in"
    assert fed.scale is not None, "filled in"
    order = slice(None, None, 1 if fed.channel_order == "RGB" else -1)
    if fed.mean_image is not None:
        # Its channels are in the order of the network's input.
        mean = fed.mean_image.pixels
    else:
        mean = np.array(fed.mean, np.float32)[order].reshape(3, 1, 1)
    scale = np.array(fed.scale, np.float32)[order].reshape(3, 1, 1)
    offset = (IMAGE_SIZE - fed.input_size) // 2
    rows = slice(offset, offset + fed.input_size)
    pixels = (images.astype(np.float32).transpose(0, 3, 1, 2)[:, order] - mean) * scale
    return np.ascontiguousarray(pixels[:, :, rows, rows])


def _answers(ours: _Ours, images: np.ndarray) -> np.ndarray:
    network = network_from(ours.architecture, ours.tensors)
    parts = []
    with torch.inference_mode():
        for part in np.array_split(images, -(-len(images) // _IMAGES_AT_ONCE)):
            pixels = preprocess(torch.from_numpy(part), ours.preprocessing, ours.mean_image)
            parts.append(network(cut(pixels, ours.view, ours.architecture.input_size)))
        probabilities: np.ndarray = torch.softmax(torch.cat(parts).double(), dim=1).numpy()
    return probabilities


def _compare(expected: np.ndarray, actual: np.ndarray) -> Agreement:
    reference, candidate = expected.astype(np.float64), actual.astype(np.float64)
    assert reference.shape == candidate.shape, "both are of the same images and classes"
    logs = [np.log(np.maximum(values, _LOG_FLOOR)) for values in (reference, candidate)]
    allowed = _RELATIVE_LOG_ERROR * max(_LEAST_SPAN, float(-logs[0].min()))
    return Agreement(
        num_images=len(reference),
        max_error=float(np.abs(candidate - reference).max()),
        max_log_error=float(np.abs(logs[1] - logs[0]).max()),
        allowed_log_error=allowed,
        tells_images_apart=float(np.ptp(logs[0], axis=0).max()) > allowed,
    )


def _mended(ours: _Ours) -> Iterator[tuple[str, _Ours]]:
    """Yield our network with one known mistake of imports corrected, and the correction in words; each in turn."""
    for words, factor in (("multiplied", lambda size: size), ("divided", lambda size: 1 / size)):
        changed = _with_alpha(ours.architecture, factor)
        if changed is not None:
            yield f"LRN's alpha {words} by its window", replace(ours, architecture=changed)
    other = "BGR" if ours.preprocessing.channel_order == "RGB" else "RGB"
    swapped = msgspec.structs.replace(ours.preprocessing, channel_order=other)
    yield f"channels in {other} order", replace(ours, preprocessing=swapped)
    if ours.mean_image is not None:
        for words, image in (
            ("the mean image in the other channel order", ours.mean_image[::-1]),
            ("the mean image upside down", ours.mean_image[:, ::-1]),
        ):
            yield words, replace(ours, mean_image=np.ascontiguousarray(image))
    name, shape = _first_linear(ours.architecture)
    for order, back in (("H, W, C", False), ("C, H, W", True)):
        tensors = {**ours.tensors, name: _reordered(ours.tensors[name], shape, back=back)}
        yield f"{name} read in {order} order", replace(ours, tensors=tensors)
    exchanged = _with_norm_and_pool_exchanged(ours.architecture)
    if exchanged is not None:
        yield "normalisation and pooling in the other order", replace(ours, architecture=exchanged)
    far = IMAGE_SIZE - ours.architecture.input_size
    for step in (-1, 1):
        top, left = ours.view.top + step, ours.view.left + step
        if min(top, left) >= 0 and max(top, left) <= far:
            moved = View(top=top, left=left, mirrored=ours.view.mirrored)
            yield f"a crop at {top} for {ours.view.top}", replace(ours, view=moved)


def _with_alpha(architecture: Architecture, factor: Callable[[int], float]) -> Architecture | None:
    layers = tuple(
        msgspec.structs.replace(layer, alpha=layer.alpha * factor(layer.size))
        if isinstance(layer, LocalNorm)
        else layer
        for layer in architecture.layers
    )
    return None if layers == architecture.layers else msgspec.structs.replace(architecture, layers=layers)


def _with_norm_and_pool_exchanged(architecture: Architecture) -> Architecture | None:
    layers = list(architecture.layers)
    place = 0
    while place + 1 < len(layers):
        if {type(layers[place]), type(layers[place + 1])} == {LocalNorm, MaxPool}:
            layers[place], layers[place + 1] = layers[place + 1], layers[place]
            place += 1
        place += 1
    changed = tuple(layers)
    return None if changed == architecture.layers else msgspec.structs.replace(architecture, layers=changed)


def _first_linear(architecture: Architecture) -> tuple[str, tuple[int, ...]]:
    costs = list(architecture.costs())
    shape = next(cost.in_shape for cost in costs if isinstance(cost.layer, Flatten))
    return next(f"{cost.layer.name}.weight" for cost in costs if isinstance(cost.layer, Linear)), shape


def _reordered(weight: np.ndarray, shape: tuple[int, ...], *, back: bool) -> np.ndarray:
    """Return weights with their inputs reordered from H, W, C to C, H, W, or back."""
    channels, height, width = shape
    if back:
        parted = weight.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    else:
        parted = weight.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return np.ascontiguousarray(parted.reshape(weight.shape))
