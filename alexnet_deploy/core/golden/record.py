"""The golden vectors of a bundle as records: which files hold them, and how far an engine may be from them."""

from typing import Annotated, Literal, Self, TypeAlias, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

# Few: a product of thousands of large numbers takes hours.
_MOST_DIMENSIONS = 8


class TensorFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file of raw numbers, little-endian, row-major."""

    file: str
    dtype: Literal["uint8", "float32"]
    shape: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1, max_length=_MOST_DIMENSIONS)]


class Tolerance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Largest allowed differences between an engine and the trained network."""

    probability: float
    """Largest absolute difference of a probability."""
    log_probability: float
    """Largest difference of a log-probability, in nats: the scale of logits, so a saturated softmax hides no error."""
    top1_agreement: float
    """Smallest share of images with the same top-1 prediction, 0..1, near ties excluded."""


class FeatureTolerance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Largest allowed differences between the features of an engine and those of the trained network."""

    error: float
    """Largest difference of a feature, divided by the largest magnitude of all expected features."""
    cosine_distance: float
    """Largest distance, 1 minus cosine similarity, between the two features of an image."""


AnyTolerance: TypeAlias = Tolerance | FeatureTolerance


class GoldenGraph(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Outputs of an int8 graph for the golden images, by ONNX's reference definition of the operators.

    Rounding to int8 changes the outputs of the trained network, most for images unlike the calibration images. An
    engine that runs the graph should match the graph much more closely, so it is compared with these outputs.
    """

    probabilities: TensorFile | UnsetType = UNSET
    tolerance: Tolerance | UnsetType = UNSET
    features: TensorFile | UnsetType = UNSET
    feature_tolerance: FeatureTolerance | UnsetType = UNSET

    def __post_init__(self) -> None:
        _check_kinds((self.probabilities, self.features), (self.tolerance, self.feature_tolerance))

    @classmethod
    def of(cls, outputs: TensorFile, allowed: AnyTolerance) -> Self:
        """Return the record of outputs, of the kind that the tolerance is for."""
        if isinstance(allowed, FeatureTolerance):
            return cls(features=outputs, feature_tolerance=allowed)
        return cls(probabilities=outputs, tolerance=allowed)

    @property
    def expected(self) -> TensorFile:
        """The stored outputs, of either kind."""
        return _either(self.probabilities, self.features)

    @property
    def allowed(self) -> AnyTolerance:
        """The tolerance of these outputs."""
        return _either(self.tolerance, self.feature_tolerance)


class GoldenFiles(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stored image files, with the pixels and the probabilities that must come of them."""

    names: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^golden/files/[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")], ...], Meta(min_length=1)
    ]
    """Paths inside the bundle, in the order of both tensors."""
    pixels: TensorFile
    """Under the bundle's resize policy, equal to the bit in every decoder."""
    probabilities: TensorFile | UnsetType = UNSET
    """The trained network's outputs for these pixels; those of the graph itself if it is int8."""
    features: TensorFile | UnsetType = UNSET
    """The same in a bundle of features."""

    def __post_init__(self) -> None:
        _check_kinds((self.probabilities, self.features))

    @property
    def expected(self) -> TensorFile:
        """The stored outputs, of either kind."""
        return _either(self.probabilities, self.features)


class Golden(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stored images and the trained network's outputs for them."""

    images: TensorFile
    probabilities: TensorFile | UnsetType = UNSET
    tolerance: Tolerance | UnsetType = UNSET
    features: TensorFile | UnsetType = UNSET
    """In a bundle of features, instead of probabilities."""
    feature_tolerance: FeatureTolerance | UnsetType = UNSET
    graph: GoldenGraph | None = None
    """Outputs of the int8 graph itself; None if engines are compared with the trained network's outputs."""
    separation: dict[str, float]
    """For each planted fault: the change of these vectors as a multiple of the tolerance. Below 1 it would pass."""
    files: GoldenFiles | UnsetType = UNSET
    """Image files, for decoders; unset in bundles of format version 2."""

    def __post_init__(self) -> None:
        parts = [
            part for part in (self, self.graph, self.files) if isinstance(part, Golden | GoldenGraph | GoldenFiles)
        ]
        _check_kinds((self.tolerance, self.feature_tolerance), *((part.probabilities, part.features) for part in parts))

    @classmethod
    def of(
        cls,
        images: TensorFile,
        outputs: TensorFile,
        allowed: AnyTolerance,
        *,
        graph: GoldenGraph | None,
        separation: dict[str, float],
        files: GoldenFiles,
    ) -> Self:
        """Return the record of golden vectors whose outputs are of the kind that the tolerance is for."""
        is_features = isinstance(allowed, FeatureTolerance)
        return cls(
            images=images,
            probabilities=UNSET if is_features else outputs,
            tolerance=UNSET if isinstance(allowed, FeatureTolerance) else allowed,
            features=outputs if is_features else UNSET,
            feature_tolerance=allowed if isinstance(allowed, FeatureTolerance) else UNSET,
            graph=graph,
            separation=separation,
            files=files,
        )

    @property
    def has_features(self) -> bool:
        """Whether the stored outputs are features."""
        return isinstance(self.features, TensorFile)

    @property
    def expected(self) -> TensorFile:
        """The trained network's outputs for the images, of either kind."""
        return _either(self.probabilities, self.features)

    @property
    def allowed(self) -> AnyTolerance:
        """The tolerance of these outputs."""
        return _either(self.tolerance, self.feature_tolerance)


def _check_kinds(*pairs: tuple[object, object]) -> None:
    """Raise ValueError unless the same one of each pair is set, that of probabilities or that of features."""
    if any((first is UNSET) == (second is UNSET) for first, second in pairs) or len({a is UNSET for a, _ in pairs}) > 1:
        raise ValueError("golden vectors are either probabilities or features, with the tolerance of that kind")


_Kind = TypeVar("_Kind")
_OtherKind = TypeVar("_OtherKind")


def _either(first: _Kind | UnsetType, second: _OtherKind | UnsetType) -> _Kind | _OtherKind:
    """Return the one of two values that is set."""
    if not isinstance(first, UnsetType):
        return first
    assert not isinstance(second, UnsetType), "checked when the record was made"
    return second
