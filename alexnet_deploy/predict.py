"""Pictures to predictions, streamed: exactly one for each input, in the inputs' order, whatever the pictures are like.

predictor = alexnet_deploy.load("bundles/my.bundle")
for prediction in predictor.predict(["images/"]):
    print(prediction.path, prediction.top[0].label)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from alexnet_deploy.core.ahead import decode_threads, map_ahead
from alexnet_deploy.core.bundle import Bundle, open_bundle
from alexnet_deploy.core.errors import ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.image import DEFAULT_LIMITS, DecodeLimits, read_image
from alexnet_deploy.core.inputs import Input, find_inputs
from alexnet_deploy.engines.engine import Backend, Device, Engine, EngineInfo, open_engine

DEFAULT_BATCH_SIZE = 8
"""Ten views each make 80 crops: enough for every engine here to be at its full speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One class with its probability."""

    index: int
    """Its place in labels.txt, from 0."""
    label: str
    probability: float
    """0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What came of one input: guesses, or the reason there are none."""

    path: str
    """The input's path; bytes that are not UTF-8 are written as backslash escapes."""
    top: tuple[Guess, ...]
    """The likeliest classes, best first, equals by index; empty where the picture could not be read."""
    error: ImageErrorCode | None
    """Why there are no guesses; None where there are."""
    message: str
    """The error in words; empty where there is none."""

    @property
    def ok(self) -> bool:
        """True where there are guesses."""
        return self.error is None


class Predictor:
    """An engine with its labels and decoding policy: file names in, predictions out."""

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self._resize = bundle.manifest.preprocessing.resize
        self._engine = engine
        self.bundle = bundle
        self.labels = bundle.labels

    @property
    def info(self) -> EngineInfo:
        """What is really running."""
        return self._engine.info

    def predict(
        self,
        inputs: Iterable[str | Path] | str | Path,
        *,
        topk: int = 5,
        batch_size: int = DEFAULT_BATCH_SIZE,
        limits: DecodeLimits = DEFAULT_LIMITS,
        listed: Iterable[bytes] | None = None,
    ) -> Iterator[Prediction]:
        """Yield one prediction for each input, in order; see core/inputs.py for what names may stand for.

        `topk` guesses each, or all classes where there are fewer. `batch_size` pictures go to the engine at once.
        `listed` are the lines that the name `-` stands for. What cannot be read is a prediction with an error, never
        an exception. Raises UsageError for a topk or batch_size under 1 and for a `-` without a list, BackendError
        where the engine fails.
        """
        if topk < 1 or batch_size < 1:
            raise UsageError(f"topk {topk} and batch size {batch_size} must both be 1 or more")
        names = [inputs] if isinstance(inputs, str | Path) else inputs
        return self._stream(find_inputs(names, listed), topk, batch_size, limits)

    def _stream(
        self, inputs: Iterable[Input], topk: int, batch_size: int, limits: DecodeLimits
    ) -> Iterator[Prediction]:
        def read(item: Input) -> tuple[Input, np.ndarray | ImageError]:
            if item.error is not None:
                return item, ImageError(*item.error)
            try:
                return item, read_image(item.path, self._resize, limits)
            except ImageError as error:
                return item, error

        waiting: list[tuple[Input, np.ndarray | ImageError]] = []
        num_images = 0
        for found in map_ahead(read, inputs, threads=decode_threads(), ahead=2 * batch_size):
            waiting.append(found)
            num_images += isinstance(found[1], np.ndarray)
            # Failures do not fill a batch; but a long run of them must not pile up behind one picture either.
            if num_images == batch_size or len(waiting) == 4 * batch_size:
                yield from self._answer(waiting, topk)
                waiting, num_images = [], 0
        yield from self._answer(waiting, topk)

    def _answer(self, batch: list[tuple[Input, np.ndarray | ImageError]], topk: int) -> Iterator[Prediction]:
        images = [result for _, result in batch if isinstance(result, np.ndarray)]
        rows = iter(self._engine.run(np.stack(images)) if images else ())
        for item, result in batch:
            if isinstance(result, ImageError):
                yield Prediction(path=item.text, top=(), error=result.code, message=str(result))
            else:
                yield Prediction(
                    path=item.text, top=best_guesses(next(rows), self.labels, topk), error=None, message=""
                )

    def close(self) -> None:
        """Give back what the engine holds."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def best_guesses(probabilities: np.ndarray, labels: tuple[str, ...], topk: int) -> tuple[Guess, ...]:
    """Return the `topk` likeliest classes of one row, float32 (K,), best first, equals by index."""
    order = np.argsort(-probabilities, kind="stable")[:topk]
    return tuple(
        Guess(index=int(index), label=labels[index], probability=float(probabilities[index])) for index in order
    )


def load(
    bundle: str | Path,
    backend: Backend | Literal["auto"] = "auto",
    device: Device | Literal["auto"] = "auto",
    threads: int | None = None,
) -> Predictor:
    """Open a bundle for prediction; see open_engine for `backend`, `device` and `threads`, and for what is raised."""
    opened = open_bundle(Path(bundle))
    return Predictor(opened, open_engine(opened, backend, device, threads))
