"""Known faults of AlexNet deployments, as changes to a trained network.

They show what the proof detects: each export plants them one at a time and measures how far they move the golden
vectors; the tests build graphs with them and see `check` fail.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.contract import Subject
from alexnet_deploy.core.model.architecture import (
    AdaptiveAveragePool,
    AveragePool,
    Conv,
    Flatten,
    Layer,
    Linear,
    LocalNorm,
    MaxPool,
    Relu,
    Tanh,
    adaptive_window,
)
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE


def planted_faults(subject: Subject) -> Iterator[tuple[str, Subject]]:
    """Yield the name of each fault that applies to this network, with the faulty network."""
    for name, plant in _FAULTS.items():
        faulty = plant(subject)
        if faulty is not None:
            yield name, faulty


def _with_layers(subject: Subject, change: Callable[[Layer], Layer]) -> Subject | None:
    table = subject.weights.architecture
    reached = {cost.layer.name for cost in subject.costs()}
    layers = tuple(change(layer) if layer.name in reached else layer for layer in table.layers)
    if layers == table.layers:
        return None
    changed = msgspec.structs.replace(table, layers=layers)
    return replace(subject, weights=replace(subject.weights, architecture=changed))


def _lrn_alpha_times_five(subject: Subject) -> Subject | None:
    def change(layer: Layer) -> Layer:
        return msgspec.structs.replace(layer, alpha=5 * layer.alpha) if isinstance(layer, LocalNorm) else layer

    return _with_layers(subject, change)


def _tanh_taken_for_relu(subject: Subject) -> Subject | None:
    return _with_layers(subject, lambda layer: Relu(name=layer.name) if isinstance(layer, Tanh) else layer)


def _pooling_padded_on_the_other_side(subject: Subject) -> Subject | None:
    def change(layer: Layer) -> Layer:
        if not isinstance(layer, MaxPool | AveragePool):
            return layer
        top, left, bottom, right = layer.margins
        return msgspec.structs.replace(layer, padding=(bottom, right, top, left))

    return _with_layers(subject, change)


def _padding_counted_otherwise(subject: Subject) -> Subject | None:
    def change(layer: Layer) -> Layer:
        if not isinstance(layer, AveragePool) or not any(layer.margins):
            return layer
        return msgspec.structs.replace(layer, counts_padding=not layer.counts_padding)

    return _with_layers(subject, change)


def _maximum_for_average(subject: Subject) -> Subject | None:
    windows = {
        cost.layer.name: adaptive_window(cost.layer, cost.in_shape)
        if isinstance(cost.layer, AdaptiveAveragePool)
        else cost.layer
        for cost in subject.costs()
        if isinstance(cost.layer, AveragePool | AdaptiveAveragePool)
    }

    def change(layer: Layer) -> Layer:
        window = windows.get(layer.name)
        # A window of one pixel is its own maximum.
        if window is None or window.kernel == 1:
            return layer
        return MaxPool(name=window.name, kernel=window.kernel, stride=window.stride, padding=window.padding)

    return _with_layers(subject, change)


def _channels_swapped(subject: Subject) -> Subject:
    weights = subject.weights
    other = "BGR" if weights.preprocessing.channel_order == "RGB" else "RGB"
    swapped = msgspec.structs.replace(weights.preprocessing, channel_order=other)
    return replace(subject, weights=replace(weights, preprocessing=swapped))


def _mean_dropped(subject: Subject) -> Subject:
    dropped = msgspec.structs.replace(subject.weights.preprocessing, mean=(0.0, 0.0, 0.0), has_mean_image=False)
    return replace(subject, weights=replace(subject.weights, preprocessing=dropped, mean_image=None))


def _mean_image_averaged(subject: Subject) -> Subject | None:
    weights = subject.weights
    if weights.mean_image is None:
        return None
    # The preprocessing holds the channel means.
    averaged = msgspec.structs.replace(weights.preprocessing, has_mean_image=False)
    return replace(subject, weights=replace(weights, preprocessing=averaged, mean_image=None))


def _mean_image_upside_down(subject: Subject) -> Subject | None:
    image = subject.weights.mean_image
    if image is None:
        return None
    return replace(subject, weights=replace(subject.weights, mean_image=np.ascontiguousarray(image[:, ::-1])))


def _mean_image_in_the_other_channel_order(subject: Subject) -> Subject | None:
    image = subject.weights.mean_image
    if image is None:
        return None
    return replace(subject, weights=replace(subject.weights, mean_image=np.ascontiguousarray(image[::-1])))


def _crop_off_by_one(subject: Subject) -> Subject:
    far = IMAGE_SIZE - subject.weights.architecture.input_size
    moved = (view.left + 1 if view.left < far else view.left - 1 for view in subject.views)
    views = zip(subject.views, moved, strict=True)
    return replace(subject, views=tuple(msgspec.structs.replace(view, left=left) for view, left in views))


def _mirror_forgotten(subject: Subject) -> Subject | None:
    plain = tuple(msgspec.structs.replace(view, mirrored=False) for view in subject.views)
    return None if plain == subject.views else replace(subject, views=plain)


def _view_doubled(subject: Subject) -> Subject | None:
    if len(subject.views) < 2:
        return None
    return replace(subject, views=(subject.views[0], subject.views[0], *subject.views[2:]))


def _groups_dropped(subject: Subject) -> Subject | None:
    weights = subject.weights
    table = weights.architecture
    reached = (cost.layer for cost in subject.costs())
    grouped = next((layer for layer in reached if isinstance(layer, Conv) and layer.groups > 1), None)
    if grouped is None:
        return None
    layers = tuple(msgspec.structs.replace(layer, groups=1) if layer is grouped else layer for layer in table.layers)
    # Every kernel gets the input channels of all groups, with its own weights repeated for each group.
    repeated = np.tile(weights.tensors[f"{grouped.name}.weight"], (1, grouped.groups, 1, 1))
    return replace(
        subject,
        weights=replace(
            weights,
            architecture=msgspec.structs.replace(table, layers=layers),
            tensors={**weights.tensors, f"{grouped.name}.weight": repeated},
        ),
    )


def _fed_channels_last(subject: Subject) -> Subject | None:
    weights = subject.weights
    costs = list(subject.costs())
    name = next((cost.layer.name for cost in costs if isinstance(cost.layer, Linear)), None)
    if name is None:
        return None
    channels, height, width = next(cost.in_shape for cost in costs if isinstance(cost.layer, Flatten))
    if height * width == 1:
        return None
    taps = weights.tensors[f"{name}.weight"]
    last = taps.reshape(len(taps), channels, height, width).transpose(0, 2, 3, 1).reshape(taps.shape)
    tensors = {**weights.tensors, f"{name}.weight": np.ascontiguousarray(last)}
    return replace(subject, weights=replace(weights, tensors=tensors))


_FAULTS: dict[str, Callable[[Subject], Subject | None]] = {
    "LRN alpha times 5": _lrn_alpha_times_five,
    "tanh taken for ReLU": _tanh_taken_for_relu,
    "maximum taken for average": _maximum_for_average,
    "pooling padded on the other side": _pooling_padded_on_the_other_side,
    "padding of an average counted otherwise": _padding_counted_otherwise,
    "red and blue swapped": _channels_swapped,
    "mean dropped": _mean_dropped,
    "mean image averaged": _mean_image_averaged,
    "mean image upside down": _mean_image_upside_down,
    "mean image in the other channel order": _mean_image_in_the_other_channel_order,
    "crop off by one": _crop_off_by_one,
    "mirror forgotten": _mirror_forgotten,
    "one view doubled, another missing": _view_doubled,
    "first grouped convolution ungrouped": _groups_dropped,
    "first linear layer fed channels last": _fed_channels_last,
}
