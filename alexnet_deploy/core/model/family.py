"""The members of the AlexNet family, by name, each with the source of its numbers."""

from dataclasses import dataclass
from types import MappingProxyType

import msgspec

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import (
    Architecture,
    Conv,
    Dropout,
    Flatten,
    Layer,
    Linear,
    LocalNorm,
    MaxPool,
    Relu,
    SpatialNorm,
)
from alexnet_deploy.core.model.preprocessing import Preprocessing


def _all_around(pixels: int) -> tuple[int, int, int, int]:
    return (pixels, pixels, pixels, pixels)


def _convolutions(widths: tuple[int, int, int, int, int], groups: int) -> tuple[Conv, Conv, Conv, Conv, Conv]:
    """Return the five convolutions of the paper's section 3.5 at these widths."""
    first, second, third, fourth, fifth = widths
    return (
        Conv(name="conv1", out_channels=first, kernel=11, stride=4),
        Conv(name="conv2", out_channels=second, kernel=5, padding=_all_around(2), groups=groups),
        Conv(name="conv3", out_channels=third, kernel=3, padding=_all_around(1)),
        Conv(name="conv4", out_channels=fourth, kernel=3, padding=_all_around(1), groups=groups),
        Conv(name="conv5", out_channels=fifth, kernel=3, padding=_all_around(1), groups=groups),
    )


def _classifier(width: int, num_classes: int = 1000) -> tuple[Layer, ...]:
    return (
        Flatten(name="flatten"),
        Linear(name="fc6", out_features=width),
        Relu(name="relu6"),
        Dropout(name="drop6"),
        Linear(name="fc7", out_features=width),
        Relu(name="relu7"),
        Dropout(name="drop7"),
        Linear(name="fc8", out_features=num_classes),
    )


_PAPER_WIDTHS = (96, 256, 384, 384, 256)


def _tail(third: Conv, fourth: Conv, fifth: Conv) -> tuple[Layer, ...]:
    return (
        third,
        Relu(name="relu3"),
        fourth,
        Relu(name="relu4"),
        fifth,
        Relu(name="relu5"),
        MaxPool(name="pool5"),
    )


def _norm_then_pool(
    name: str,
    *,
    alpha: float,
    k: float,
    widths: tuple[int, int, int, int, int] = _PAPER_WIDTHS,
    classifier_width: int = 4096,
) -> Architecture:
    """Return conv, ReLU, LRN, pool: the order of the paper's text and of BVLC AlexNet."""
    conv1, conv2, *rest = _convolutions(widths, groups=2)
    return Architecture(
        name=name,
        input_size=227,
        layers=(
            conv1,
            Relu(name="relu1"),
            LocalNorm(name="norm1", size=5, alpha=alpha, beta=0.75, k=k),
            MaxPool(name="pool1"),
            conv2,
            Relu(name="relu2"),
            LocalNorm(name="norm2", size=5, alpha=alpha, beta=0.75, k=k),
            MaxPool(name="pool2"),
            *_tail(*rest),
            *_classifier(classifier_width),
        ),
    )


def _original() -> Architecture:
    # The released network normalises conv1's values before the ReLU, keeps each LRN within its column, adds a spatial
    # normalisation after conv2, and has 224-pixel inputs with 3 pixels of zeros to the right and below.
    conv1, conv2, conv3, conv4, conv5 = _convolutions(_PAPER_WIDTHS, groups=2)
    return Architecture(
        name="original",
        input_size=224,
        layers=(
            msgspec.structs.replace(conv1, padding=(0, 0, 3, 3)),
            LocalNorm(name="norm1", size=5, alpha=1e-4, beta=0.75, k=2.0, groups=2),
            MaxPool(name="pool1"),
            Relu(name="relu1"),
            conv2,
            Relu(name="relu2"),
            LocalNorm(name="norm2", size=5, alpha=1e-4, beta=0.75, k=2.0, groups=2),
            SpatialNorm(name="spatial_norm2", size=5, alpha=1e-3, beta=0.75, k=1.0),
            MaxPool(name="pool2"),
            conv3,
            Relu(name="relu3"),
            conv4,
            Relu(name="relu4"),
            conv5,
            MaxPool(name="pool5"),
            Relu(name="relu5"),
            *_classifier(4096),
        ),
    )


def _caffenet() -> Architecture:
    conv1, conv2, *rest = _convolutions(_PAPER_WIDTHS, groups=2)
    return Architecture(
        name="caffenet",
        input_size=227,
        layers=(
            conv1,
            Relu(name="relu1"),
            MaxPool(name="pool1"),
            LocalNorm(name="norm1", size=5, alpha=1e-4, beta=0.75, k=1.0),
            conv2,
            Relu(name="relu2"),
            MaxPool(name="pool2"),
            LocalNorm(name="norm2", size=5, alpha=1e-4, beta=0.75, k=1.0),
            *_tail(*rest),
            *_classifier(4096),
        ),
    )


def _without_norm(
    name: str, input_size: int, convolutions: tuple[Conv, Conv, Conv, Conv, Conv], classifier: tuple[Layer, ...]
) -> Architecture:
    conv1, conv2, *rest = convolutions
    return Architecture(
        name=name,
        input_size=input_size,
        layers=(
            conv1,
            Relu(name="relu1"),
            MaxPool(name="pool1"),
            conv2,
            Relu(name="relu2"),
            MaxPool(name="pool2"),
            *_tail(*rest),
            *classifier,
        ),
    )


def _torchvision() -> Architecture:
    conv1, conv2, conv3, conv4, conv5 = _convolutions((64, 192, 384, 256, 256), groups=1)
    conv1 = msgspec.structs.replace(conv1, padding=_all_around(2))
    classifier = (
        Flatten(name="flatten"),
        Dropout(name="drop6"),
        Linear(name="fc6", out_features=4096),
        Relu(name="relu6"),
        Dropout(name="drop7"),
        Linear(name="fc7", out_features=4096),
        Relu(name="relu7"),
        Linear(name="fc8", out_features=1000),
    )
    return _without_norm("torchvision", 224, (conv1, conv2, conv3, conv4, conv5), classifier)


# ImageNet's mean and standard deviation from torchvision, for pixels in 0..255.
_TORCHVISION_MEAN = (123.675, 116.28, 103.53)
_TORCHVISION_SCALE = (1 / 58.395, 1 / 57.12, 1 / 57.375)
_RELEASED = Preprocessing(resize="shorter-side", channel_order="RGB", mean=(127.3, 119.7, 104.9), scale=(1.0, 1.0, 1.0))
_CAFFE = Preprocessing(resize="warp", channel_order="BGR", mean=(123.0, 117.0, 104.0), scale=(1.0, 1.0, 1.0))
_STANDARDISED = Preprocessing(
    resize="shorter-side", channel_order="RGB", mean=_TORCHVISION_MEAN, scale=_TORCHVISION_SCALE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One network of the family."""

    architecture: Architecture
    """Its table, with the published number of classes (1000)."""
    preprocessing: Preprocessing
    """The authors' preprocessing; training replaces mean and scale by those of its own images."""
    source: str
    """Where its numbers come from."""


FAMILY = (
    Member(
        # The paper sums over adjacent kernel maps of the layer and does not mention columns: one group.
        architecture=_norm_then_pool("paper", alpha=5e-4, k=2.0),
        preprocessing=_RELEASED,
        source="Krizhevsky, Sutskever and Hinton 2012",
    ),
    Member(
        architecture=_original(),
        preprocessing=_RELEASED,
        source="computerhistory/AlexNet-Source-Code, layers-145.cfg",
    ),
    Member(
        architecture=_norm_then_pool("caffe", alpha=1e-4, k=1.0),
        preprocessing=_CAFFE,
        source="BVLC/caffe models/bvlc_alexnet",
    ),
    Member(
        architecture=_caffenet(),
        preprocessing=_CAFFE,
        source="BVLC/caffe models/bvlc_reference_caffenet",
    ),
    Member(
        architecture=_without_norm("single_tower", 227, _convolutions(_PAPER_WIDTHS, groups=1), _classifier(4096)),
        preprocessing=_STANDARDISED,
        source="the TensorFlow and Keras tutorials",
    ),
    Member(
        architecture=_torchvision(),
        preprocessing=_STANDARDISED,
        source='Krizhevsky 2014, "One weird trick", as torchvision has it',
    ),
    Member(
        # For first runs and tests, where 61 million parameters would only cost time.
        architecture=_norm_then_pool("tiny", alpha=5e-4, k=2.0, widths=(24, 64, 96, 96, 64), classifier_width=256),
        preprocessing=_RELEASED,
        source="`paper` at a quarter of its width",
    ),
)

ARCHITECTURES = MappingProxyType({member.architecture.name: member.architecture for member in FAMILY})
PUBLISHED_PREPROCESSING = MappingProxyType({member.architecture.name: member.preprocessing for member in FAMILY})


def preprocessing_for(name: str) -> Preprocessing:
    """Return the authors' preprocessing of a family member, or that of the paper for any other table."""
    return PUBLISHED_PREPROCESSING.get(name, _RELEASED)


def architecture_by_name(name: str) -> Architecture:
    """Return the table of this name, with the published number of classes (1000).

    Raises UsageError for a name that is not in the family.
    """
    try:
        return ARCHITECTURES[name]
    except KeyError:
        raise UsageError(f"unknown architecture {name!r}; choose from {', '.join(ARCHITECTURES)}") from None
