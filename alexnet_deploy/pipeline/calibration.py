"""Ranges for an INT8 graph, found on real images through the real decode path.

The images are seen through the centre view: where a crop lies changes a range by less than which images were taken.
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
from alexnet_deploy.core.model.preprocessing import ResizePolicy
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.core.process.say import Say, counted, lines_about_excluded
from alexnet_deploy.export.calibration import Histogram, gather, ranges_for
from alexnet_deploy.export.calibration_cache import load_cache, save_cache
from alexnet_deploy.export.float16 import HALF_MAX
from alexnet_deploy.export.graph import build_graph

NUM_CALIBRATION_IMAGES = 512

METHOD_ORDER: tuple[CalibrationMethod, ...] = ("mse", "entropy", "minmax", "percentile")
"""The order in which methods are tried: the least mean divergence on photographs first (docs/decisions.md)."""

_FEW_IMAGES = 32

_MOST_BEYOND_RANGE = 0.03
"""Ranges found on photographs and on drawn images left out at most 1 % of the golden ones; on flat or noisy ones that
harm a network, 4 to 48 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8Request:
    """What an INT8 export was asked for."""

    calibrate: Path | None = None
    """Images to calibrate on: a folder, or a packed set or archives, whose training images are taken; None: the
    training images that the weights name."""
    num_images: int = NUM_CALIBRATION_IMAGES
    """Most images to calibrate on, evenly spaced among those there are."""
    method: CalibrationMethod | None = None
    """How ranges are found; None: the first of METHOD_ORDER that holds on the golden images."""
    rest: Rest = "fp32"
    keep_float: tuple[str, ...] = ()
    """Layers that are not to be in int8."""
    max_drop_points: float = 0.5
    """Most percentage points of top-1 that may be lost on `data`."""
    cache: Path | None = None
    """File that keeps the histograms between exports."""

    def __post_init__(self) -> None:
        """Raise UsageError for numbers that ask for nothing."""
        if self.num_images < 1:
            raise UsageError(f"{self.num_images} images are none to calibrate on; 1 or more are needed")
        if not 0 <= self.max_drop_points <= 100:
            raise UsageError(f"a drop of {self.max_drop_points} points cannot be allowed; it must be 0 to 100")


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated:
    """What calibration found."""

    images: ImageSet
    """What it was found on."""
    histograms: dict[str, Histogram]
    """Of each layer's input, the first layer's excepted."""
    ranges: dict[str, float]
    """For each layer that can be in int8, in order: the magnitude of its input that becomes 127."""
    calibration: Calibration
    alternatives: dict[CalibrationMethod, dict[str, float]]
    """Ranges by the other methods that may be taken, in the order in which to try them; none if one was asked for."""


def calibrate(weights: Weights, request: Int8Request, say: Say) -> Calibrated:
    """Find the range of each layer's input.

    Raises UsageError where there is nothing to calibrate on, DataError where none of it can be decoded, ExportError for
    a kept calibration that is damaged, ParityError for ranges that real images reach far beyond.
    """
    images = _calibration_images(weights, request, say)
    graph = build_graph(weights, views_by_name("center", weights.architecture.input_size))
    graph_sha256 = sha256(graph.SerializeToString(deterministic=True))
    histograms = _kept_histograms(request.cache, graph_sha256, images.sha256, say)
    if histograms is None:
        say(f"calibrating on {counted(len(images.sources), 'image')}")
        histograms = gather(graph, decode_batches(images.sources, weights.preprocessing.resize))
        if request.cache is not None:
            save_cache(
                request.cache,
                histograms,
                graph_sha256=graph_sha256,
                images_sha256=images.sha256,
                num_images=len(images.sources),
            )
    first, *others = METHOD_ORDER if request.method is None else (request.method,)
    ranges = ranges_for(graph, weights.preprocessing, histograms, first)
    seen = gather(graph, [golden_images()])
    golden = {layer: seen[layer] for layer in seen if layer not in request.keep_float}
    _refuse_ranges_too_small(ranges, golden)
    alternatives = {method: ranges_for(graph, weights.preprocessing, histograms, method) for method in others}
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
    """Return the images to calibrate on, those set aside that cannot be decoded."""
    sources: Sequence[Source]
    if request.calibrate is not None:
        sources = _named_images(request.calibrate, weights.preprocessing.resize)
    else:
        sources = _training_images(weights)
        say(f"calibrating on the training images in {_training_data(weights)}")
    found = look_through(evenly(sources, request.num_images), weights.preprocessing.resize)
    for line in lines_about_excluded((place_of(source), error.code.value) for source, error in found.excluded):
        say(line)
    if len(found.sources) < _FEW_IMAGES:
        say(f"calibration images: {len(found.sources)}; fewer than {_FEW_IMAGES} seldom show how large numbers get")
    if not found.sources:
        raise DataError("none of the images to calibrate on can be decoded")
    return found


def evenly(sources: Sequence[Source], most: int) -> list[Source]:
    """Return at most so many of the images, evenly spaced among them, in their order."""
    step = max(1.0, len(sources) / most)
    return [sources[int(place * step)] for place in range(min(len(sources), most))]


def refuse_empty(place: Path) -> None:
    """Raise UsageError where there is nothing to calibrate on, DataError for a single file."""
    from alexnet_deploy.train.data.scan import is_archived
    from alexnet_deploy.train.pack.format import is_packed

    if not place.exists():
        raise UsageError(f"{place}: there is no such folder of images")
    if is_packed(place) or is_archived(place):
        return
    if not place.is_dir():
        raise DataError(f"{place}: is not a folder of images to calibrate on")
    if next(find_files(place), None) is None:
        raise UsageError(f"{place}: holds no images to calibrate on")


def _named_images(place: Path, resize: ResizePolicy) -> Sequence[Source]:
    """Return the images in a folder, or the training images of a packed set, of ILSVRC-2012 or of CIFAR-10."""
    from alexnet_deploy.train.data.scan import find_images, is_archived
    from alexnet_deploy.train.pack.format import is_packed, open_pack, survey_of

    refuse_empty(place)
    if is_packed(place):
        return survey_of(open_pack(place), resize).folder.train
    if is_archived(place):
        return find_images(place).train
    return list(find_files(place))


def _training_data(weights: Weights) -> Path:
    if weights.training is None:
        raise UsageError("these weights name no training images; `--calibrate DIR` gives some to calibrate on")
    return Path(weights.training.data)


def _training_images(weights: Weights) -> Sequence[Source]:
    """Return the training images that the weights name, where they are still those, class by class."""
    from alexnet_deploy.train.run import look_over_for

    data = _training_data(weights)
    assert weights.training is not None
    remedy = "`--calibrate DIR` gives images to calibrate on"
    try:
        found = look_over_for(data, weights.preprocessing.resize)
    except DataError as error:
        raise UsageError(f"the training images are gone, {error}; {remedy}") from error
    if found.sha256 != weights.training.data_sha256:
        raise UsageError(
            f"{data}: its training and validation images are not those that the weights were trained on (changed "
            f"since, or split by an earlier version of this program); {remedy}"
        )
    return found.folder.train


def _kept_histograms(path: Path | None, graph_sha256: str, images_sha256: str, say: Say) -> dict[str, Histogram] | None:
    if path is None or not path.exists():
        return None
    cache = load_cache(path)
    if mismatch := cache.mismatch(graph_sha256, images_sha256):
        say(f"{path}: {mismatch}, so it is not used, and written anew")
        return None
    say(f"{path}: of this graph and these images, used again")
    return cache.histograms()


def _refuse_beyond_half(histograms: Mapping[str, Histogram]) -> None:
    for layer, found in histograms.items():
        if not found.largest <= HALF_MAX:
            raise ExportError(
                f"{layer}: gets numbers up to {found.largest:.3g}, and float16 ends at {HALF_MAX:g}; "
                "--rest fp32 holds them"
            )


def _refuse_ranges_too_small(ranges: Mapping[str, float], golden: Mapping[str, Histogram]) -> None:
    """Raise ParityError, by name, where images that are images reach far beyond a layer's range."""
    worst, share = _largest_share_beyond(ranges, golden)
    if not share <= _MOST_BEYOND_RANGE:
        raise ParityError(
            f"nothing was published: {share:.1%} of what {worst} sees of the golden images lies beyond the "
            f"{ranges[worst]:.3g} that calibration found, and {_MOST_BEYOND_RANGE:.0%} may; calibrate on images like "
            "those that it will be asked about"
        )


def _largest_share_beyond(ranges: Mapping[str, float], golden: Mapping[str, Histogram]) -> tuple[str, float]:
    """Return the layer with the largest share of golden values beyond its range, and that share, 0..1."""
    shares = {layer: found.share_beyond(ranges[layer]) for layer, found in golden.items()}
    return max(shares.items(), key=lambda pair: pair[1], default=("", 0.0))
