"""Facts about widespread files that the files themselves do not contain: one entry for each source.

A state dict holds no layers, and no file says how its images were resized. Every fact from this module is printed as an
assumption, with the words of its entry as the reason.
"""

from dataclasses import dataclass, replace
from types import MappingProxyType

from alexnet_deploy.core.model.family import ARCHITECTURES, PUBLISHED_PREPROCESSING
from alexnet_deploy.export.importing.source import (
    Activate,
    Connect,
    Convolve,
    Drop,
    Normalise,
    Pool,
    SourceLayer,
    SourcePreprocessing,
    Unroll,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSource:
    """One source of files, such as torchvision."""

    key: str
    """Its name in Source.origin."""
    words: str
    """The reason given for an assumption: "as in torchvision's AlexNet"."""
    preprocessing: SourcePreprocessing
    """The preprocessing of its network."""
    architecture: str | None = None
    """The member of the family with these layers; None if its files contain their layers."""
    layers: tuple[SourceLayer, ...] | None = None
    """Its layers, with the tensor names of such files; None if the files contain their layers."""

    @property
    def tensor_names(self) -> tuple[str, ...]:
        """Names of the tensors that its layers use, in order."""
        used = (layer for layer in self.layers or () if isinstance(layer, Convolve | Connect))
        return tuple(name for layer in used for name in (layer.weight, layer.bias) if name is not None)


def fed_like(member: str) -> SourcePreprocessing:
    """Return the preprocessing that the authors of a member of the family used."""
    fed = PUBLISHED_PREPROCESSING[member]
    return SourcePreprocessing(
        resize=fed.resize,
        channel_order=fed.channel_order,
        mean=fed.mean,
        scale=fed.scale,
        input_size=ARCHITECTURES[member].input_size,
    )


def known_as(member: str) -> KnownSource:
    """Return the facts about a file whose layers are those of a member of the family."""
    return KnownSource(key=member, words=f"as in the original {member}", preprocessing=fed_like(member))


def _conv(name: str, padding: int = 0, stride: int = 1, groups: int = 1) -> Convolve:
    return Convolve(
        name=name,
        weight=f"{name}.weight",
        bias=f"{name}.bias",
        layout="OIHW",
        stride=stride,
        padding=(padding,) * 4,
        groups=groups,
    )


def _fc(name: str) -> Connect:
    return Connect(name=name, weight=f"{name}.weight", bias=f"{name}.bias", layout="OI")


def _relu(name: str) -> Activate:
    return Activate(name=name, function="relu")


def _pool(name: str) -> Pool:
    return Pool(name=name, function="max", kernel=3, stride=2)


def _lrn(name: str) -> Normalise:
    return Normalise(name=name, size=5, alpha=1e-4, alpha_is_divided=True, beta=0.75, k=1.0)


_TORCHVISION = KnownSource(
    key="torchvision",
    words="as in torchvision's AlexNet",
    preprocessing=fed_like("torchvision"),
    architecture="torchvision",
    layers=(
        _conv("features.0", padding=2, stride=4),
        _relu("features.1"),
        _pool("features.2"),
        _conv("features.3", padding=2),
        _relu("features.4"),
        _pool("features.5"),
        _conv("features.6", padding=1),
        _relu("features.7"),
        _conv("features.8", padding=1),
        _relu("features.9"),
        _conv("features.10", padding=1),
        _relu("features.11"),
        _pool("features.12"),
        Unroll(name="flatten", order="CHW"),
        Drop(name="classifier.0"),
        _fc("classifier.1"),
        _relu("classifier.2"),
        Drop(name="classifier.3"),
        _fc("classifier.4"),
        _relu("classifier.5"),
        _fc("classifier.6"),
    ),
)
"""Source: torchvision/models/alexnet.py. Its adaptive pooling is the identity at 224 pixels."""

_JIECAOYU = KnownSource(
    key="jiecaoyu",
    words="as in jiecaoyu/pytorch_imagenet, which follows Caffe",
    preprocessing=fed_like("caffe"),
    architecture="caffe",
    layers=(
        _conv("features.0", stride=4),
        _relu("features.1"),
        _lrn("features.2"),
        _pool("features.3"),
        _conv("features.4", padding=2, groups=2),
        _relu("features.5"),
        _lrn("features.6"),
        _pool("features.7"),
        _conv("features.8", padding=1),
        _relu("features.9"),
        _conv("features.10", padding=1, groups=2),
        _relu("features.11"),
        _conv("features.12", padding=1, groups=2),
        _relu("features.13"),
        _pool("features.14"),
        Unroll(name="flatten", order="CHW"),
        _fc("classifier.0"),
        _relu("classifier.1"),
        Drop(name="classifier.2"),
        _fc("classifier.3"),
        _relu("classifier.4"),
        Drop(name="classifier.5"),
        _fc("classifier.6"),
    ),
)
"""Source: jiecaoyu/pytorch_imagenet, networks/model_list/alexnet.py; its images come from Caffe's own LMDB."""

_ONNX_ZOO = KnownSource(
    key="onnx-zoo",
    words="as in the ONNX model zoo's bvlcalexnet and caffenet",
    preprocessing=SourcePreprocessing(
        resize="warp", channel_order="BGR", mean=(123.68, 116.779, 103.939), scale=(1.0, 1.0, 1.0)
    ),
)
"""Source: onnx/models, validated/vision/classification/alexnet."""


def _npy_conv(name: str, padding: int = 0, stride: int = 1, groups: int = 1) -> Convolve:
    like = _conv(name, padding, stride, groups)
    return replace(like, weight=f"{name}/weights", bias=f"{name}/biases", layout="HWIO")


def _npy_fc(name: str) -> Connect:
    return Connect(name=name, weight=f"{name}/weights", bias=f"{name}/biases", layout="IO")


def _npy_lrn(name: str) -> Normalise:
    return Normalise(name=name, size=5, alpha=2e-5, alpha_is_divided=False, beta=0.75, k=1.0)


_TENSORFLOW_NPY = KnownSource(
    key="tensorflow-npy",
    words="as in bvlc_alexnet.npy, which was converted from Caffe's",
    preprocessing=fed_like("caffe"),
    architecture="caffe",
    layers=(
        _npy_conv("conv1", stride=4),
        _relu("relu1"),
        _npy_lrn("lrn1"),
        _pool("maxpool1"),
        _npy_conv("conv2", padding=2, groups=2),
        _relu("relu2"),
        _npy_lrn("lrn2"),
        _pool("maxpool2"),
        _npy_conv("conv3", padding=1),
        _relu("relu3"),
        _npy_conv("conv4", padding=1, groups=2),
        _relu("relu4"),
        _npy_conv("conv5", padding=1, groups=2),
        _relu("relu5"),
        _pool("maxpool5"),
        Unroll(name="flatten", order="HWC"),
        _npy_fc("fc6"),
        _relu("relu6"),
        Drop(name="dropout6"),
        _npy_fc("fc7"),
        _relu("relu7"),
        Drop(name="dropout7"),
        _npy_fc("fc8"),
    ),
)
"""Source: kratzert/finetune_alexnet_with_tensorflow, alexnet.py, whose conv1 has no padding, as Caffe's."""

_MATCONVNET = KnownSource(
    key="matconvnet",
    words="as MatConvNet's importer of Caffe's models writes it",
    preprocessing=replace(fed_like("caffe"), channel_order="RGB", input_size=None),
)
"""Source: vlfeat/matconvnet, utils/import-caffe.py, which turns the first layer's filters to RGB."""

_KERAS = KnownSource(
    key="keras",
    words="as Keras's image_dataset_from_directory and most of its tutorials have it",
    preprocessing=SourcePreprocessing(
        resize="warp", channel_order="RGB", mean=(0.0, 0.0, 0.0), scale=(1 / 255, 1 / 255, 1 / 255)
    ),
)
"""Source: keras/src/utils/image_dataset_utils.py, which warps and keeps RGB; the tutorials divide by 255."""

_DIGITS = KnownSource(
    key="digits",
    words="as DIGITS has it unless told otherwise",
    preprocessing=SourcePreprocessing(resize="warp", channel_order="BGR", mean=(0.0, 0.0, 0.0), scale=(1.0, 1.0, 1.0)),
)
"""Source: NVIDIA/DIGITS, digits/dataset/images; the mean is in a file of its own wherever one is subtracted."""

_ALL = (
    _TORCHVISION,
    _JIECAOYU,
    _ONNX_ZOO,
    _TENSORFLOW_NPY,
    _MATCONVNET,
    _KERAS,
    _DIGITS,
)

KNOWN = MappingProxyType({source.key: source for source in _ALL})
"""Every source, by key."""
