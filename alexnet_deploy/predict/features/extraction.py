"""Features of images: one extraction per input, in input order, also for inputs that cannot be read."""

from collections.abc import Generator, Iterable
from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.stream import Read, answers_of, decode_input, stream_answers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extraction:
    """Result of one input: the features of its image, or an error."""

    path: str
    """The input's path, as in a Prediction."""
    features: np.ndarray | None
    """Float32 (D,), owned by the caller; None if the image could not be read."""
    error: ImageErrorCode | None
    """Why the image could not be read; None if it was."""
    message: str
    """The error as a sentence; empty if there is none."""

    @property
    def ok(self) -> bool:
        """True if the image was read."""
        return self.error is None

    @property
    def row(self) -> Prediction:
        """The same without features: a prediction of no class."""
        return Prediction(path=self.path, top=(), error=self.error, message=self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extractor:
    """An engine of features, and what it takes to read images for it; the caller owns the engine."""

    bundle: Bundle
    """The bundle that the engine was opened from; it has the image policy."""
    engine: Engine
    limits: DecodeLimits = DEFAULT_LIMITS

    def __post_init__(self) -> None:
        """Raise UsageError for a bundle of probabilities."""
        if self.bundle.manifest.output.layer is None:
            raise UsageError(
                f"{self.bundle.path}: returns probabilities, not features; `alexnet-deploy export --output-layer fc7` "
                "makes a bundle that returns features"
            )

    def stream(self, inputs: Iterable[Input | None], batch_size: int | None = None) -> Generator[Extraction]:
        """Yield one extraction per input, in order; as Classifier.stream otherwise."""
        return stream_answers(self.engine, inputs, batch_size, decode=self._decode, answer=self._answer)

    def _decode(self, item: Input) -> np.ndarray:
        return decode_input(item, self.bundle.manifest.preprocessing.image_policy, self.limits)

    def _answer(self, batch: list[Read]) -> list[Extraction]:
        return [
            Extraction(path=item.text, features=None, error=result.code, message=str(result))
            if isinstance(result, ImageError)
            # Copied: otherwise one kept row would keep its whole batch.
            else Extraction(path=item.text, features=result.copy(), error=None, message="")
            for item, result in answers_of(self.engine, batch)
        ]
