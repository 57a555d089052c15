"""Calibration of an INT8 graph: activation ranges, measured on real images through the real decode path.

Calibration uses the centre view: the position of the crop changes a range by less than the choice of images does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet_deploy.core.bundle.quantization import Calibration
from alexnet_deploy.core.bundle.vocabulary import CalibrationMethod, Rest
from alexnet_deploy.core.errors import DataError, ExportError, ParityError, UsageError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.images.batches import ImageSet, Source, decode_batches, look_through, place_of
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.inputs.paths import find_files
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.core.process.say import Say, counted, lines_about_excluded
from alexnet_deploy.export.calibration import Histogram, gather, ranges_for
from alexnet_deploy.export.calibration_cache import CalibrationCache, load_cache, save_cache
from alexnet_deploy.export.float16 import HALF_MAX
from alexnet_deploy.export.graph import build_graph
from alexnet_deploy.pipeline.inputs.labelled import recorded_data, recorded_images

NUM_CALIBRATION_IMAGES = 512

METHOD_ORDER: tuple[CalibrationMethod, ...] = ("mse", "entropy", "minmax", "percentile")
"""The order in which methods are tried: lowest mean divergence on photographs first (docs/decisions.md)."""

_FEW_IMAGES = 32

_OTHER_IMAGES = "pass --calibrate DIR to calibrate on other images"

_MOST_BEYOND_RANGE = 0.03
"""Largest share of golden activations beyond a range. Ranges calibrated on photographs and on drawn images clip at most
1 % of them; ranges from flat or noisy images, which harm a network, clip 4 to 48 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Request:
    """Options of an INT8 export."""

    calibrate: Path | None = None
    """Calibration images: a folder, or a packed set or archives, of which the training images are used; None: the
    training images recorded in the weights."""
    num_images: int = NUM_CALIBRATION_IMAGES
    """Maximum number of calibration images, evenly spaced in the set."""
    method: CalibrationMethod | None = None
    """Calibration method; None: the first of METHOD_ORDER that passes on the golden images."""
    rest: Rest = "fp32"
    keep_float: tuple[str, ...] = ()
    """Layers to keep in float."""
    max_drop_points: float = 0.5
    """Maximum drop in top-1 on `data`, in percentage points."""
    cache: Path | None = None
    """File that caches the histograms between exports."""

    def __post_init__(self) -> None:
        """Raise UsageError for a number outside its range."""
        if self.num_images < 1:
            raise UsageError(f"number of calibration images must be 1 or more, got {self.num_images}")
        if not 0 <= self.max_drop_points <= 100:
            raise UsageError(f"allowed drop must be 0 to 100 points, got {self.max_drop_points}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """The result of calibration."""

    images: ImageSet
    """The calibration images."""
    histograms: dict[str, Histogram]
    """Histogram of each layer's input, except the first layer's."""
    ranges: dict[str, float]
    """For each layer that can be in int8, in order: the input magnitude that maps to 127."""
    calibration: Calibration
    alternatives: dict[CalibrationMethod, dict[str, float]]
    """Ranges by the other methods to try, in order; empty if one method was requested."""


def calibrate(weights: Weights, request: Int8Request, say: Say, output_layer: str | None = None) -> Calibrated:
    """Find the range of each layer's input, up to the layer whose features are the output, if there is one.

    Raises UsageError where there are no calibration images, DataError where none can be decoded, ExportError for a
    damaged calibration cache, ParityError for ranges that clip too many activations of the golden images.
    """
    images = _calibration_images(weights, request, say)
    center = views_by_name("center", weights.architecture.input_size)
    graph = build_graph(weights, center, output_layer=output_layer)
    graph_sha256 = sha256(graph.SerializeToString(deterministic=True))
    histograms = _kept_histograms(request.cache, graph_sha256, images.sha256, say)
    if histograms is None:
        say(f"calibrating on {counted(len(images.sources), 'image')}")
        histograms = gather(graph, decode_batches(images.sources, weights.preprocessing.image_policy))
        if request.cache is not None:
            save_cache(
                request.cache,
                CalibrationCache(
                    graph_sha256=graph_sha256,
                    images_sha256=images.sha256,
                    num_images=len(images.sources),
                    histograms=histograms,
                ),
            )
    first, *others = METHOD_ORDER if request.method is None else (request.method,)
    ranges = ranges_for(graph, histograms, first)
    seen = gather(graph, [golden_images()])
    golden = {layer: seen[layer] for layer in seen if layer not in request.keep_float}
    _refuse_ranges_too_small(ranges, golden)
    alternatives = {method: ranges_for(graph, histograms, method) for method in others}
    if request.rest == "fp16":
        _refuse_beyond_half(histograms)
    calibration = Calibration(
        method=first,
        num_images=len(images.sources),
        images_sha256=images.sha256,
        graph_sha256=graph_sha256,
    )
    return Calibrated(
        images=images,
        histograms=histograms,
        ranges=ranges,
        calibration=calibration,
        alternatives={
            method: found
            for method, found in alternatives.items()
            if _largest_share_beyond(found, golden)[1] <= _MOST_BEYOND_RANGE
        },
    )


def _calibration_images(weights: Weights, request: Int8Request, say: Say) -> ImageSet:
    """Return the calibration images, without those that cannot be decoded."""
    sources: Sequence[Source]
    if request.calibrate is not None:
        sources = _named_images(request.calibrate, weights.preprocessing.image_policy)
    else:
        sources = recorded_images(weights, _OTHER_IMAGES).train
        say(f"calibrating on the training images in {recorded_data(weights, _OTHER_IMAGES)}")
    found = look_through(evenly(sources, request.num_images), weights.preprocessing.image_policy)
    for line in lines_about_excluded((place_of(source), error.code.value) for source, error in found.excluded):
        say(line)
    if len(found.sources) < _FEW_IMAGES:
        say(f"calibration images: {len(found.sources)}; fewer than {_FEW_IMAGES} rarely cover the range of activations")
    if not found.sources:
        raise DataError("none of the calibration images can be decoded")
    return found


def evenly(sources: Sequence[Source], most: int) -> list[Source]:
    """Return at most `most` of the images, evenly spaced, in their order."""
    step = max(1.0, len(sources) / most)
    return [sources[int(place * step)] for place in range(min(len(sources), most))]


def refuse_empty(place: Path) -> None:
    """Raise UsageError where there are no calibration images, DataError for a single file."""
    from alexnet_deploy.train.data.scan import is_archived
    from alexnet_deploy.train.pack.format import is_packed

    if not place.exists():
        raise UsageError(f"{place}: there is no such folder of images")
    if is_packed(place) or is_archived(place):
        return
    if not place.is_dir():
        raise DataError(f"{place}: is not a folder of calibration images")
    if next(find_files(place), None) is None:
        raise UsageError(f"{place}: holds no images to calibrate on")


def _named_images(place: Path, policy: ImagePolicy) -> Sequence[Source]:
    """Return the images in a folder, or the training images of a packed set, of ILSVRC-2012 or of CIFAR-10."""
    from alexnet_deploy.train.data.scan import find_images, is_archived
    from alexnet_deploy.train.pack.format import is_packed, open_pack, survey_of

    refuse_empty(place)
    if is_packed(place):
        return survey_of(open_pack(place), policy).folder.train
    if is_archived(place):
        return find_images(place).train
    return list(find_files(place))


def _kept_histograms(path: Path | None, graph_sha256: str, images_sha256: str, say: Say) -> dict[str, Histogram] | None:
    if path is None or not path.exists():
        return None
    cache = load_cache(path)
    if mismatch := cache.mismatch(graph_sha256, images_sha256):
        say(f"{path}: {mismatch}; recalibrating and replacing it")
        return None
    say(f"{path}: matches this graph and these images; reusing it")
    return dict(cache.histograms)


def _refuse_beyond_half(histograms: Mapping[str, Histogram]) -> None:
    for layer, found in histograms.items():
        if not found.largest <= HALF_MAX:
            raise ExportError(
                f"{layer}: activations reach {found.largest:.3g}, beyond float16's maximum of {HALF_MAX:g}; "
                "use --rest fp32"
            )


def _refuse_ranges_too_small(ranges: Mapping[str, float], golden: Mapping[str, Histogram]) -> None:
    """Raise ParityError, naming the layer, where a range clips too many activations of the golden images."""
    worst, share = _largest_share_beyond(ranges, golden)
    if not share <= _MOST_BEYOND_RANGE:
        raise ParityError(
            f"nothing was published: {worst}: {share:.1%} of its inputs on the golden images are beyond the calibrated "
            f"range of {ranges[worst]:.3g} (at most {_MOST_BEYOND_RANGE:.0%} may be); calibrate on images like those "
            "the network will classify"
        )


def _largest_share_beyond(ranges: Mapping[str, float], golden: Mapping[str, Histogram]) -> tuple[str, float]:
    """Return the layer with the largest share of golden values beyond its range, and that share, 0..1."""
    shares = {layer: found.share_beyond(ranges[layer]) for layer, found in golden.items()}
    return max(shares.items(), key=lambda pair: pair[1], default=("", 0.0))
