"""Pictures to predictions, streamed: exactly one for each input, in the inputs' order, whatever the pictures are like.

predictor = alexnet_deploy.load("bundles/my.bundle")
for prediction in predictor.predict(["images/"]):
    print(prediction.path, prediction.top[0].label)
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeAlias

import numpy as np

from alexnet_deploy.core.ahead import decode_threads, map_ahead
from alexnet_deploy.core.bundle import Bundle, open_bundle
from alexnet_deploy.core.errors import ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.image import DEFAULT_LIMITS, DecodeLimits, read_image
from alexnet_deploy.core.inputs import PAUSE, Input, find_inputs
from alexnet_deploy.defaults import find_bundle
from alexnet_deploy.engines.engine import Backend, Device, Engine, EngineInfo, Tuning, open_engine

_Read: TypeAlias = tuple[Input, np.ndarray | ImageError]


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
    """The input's path; what UTF-8 cannot hold is written as backslash escapes."""
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
        batch_size: int | None = None,
        limits: DecodeLimits = DEFAULT_LIMITS,
        listed: Iterable[bytes | None] | None = None,
        done: Iterable[str] = (),
    ) -> Generator[Prediction]:
        """Yield one prediction for each input, in order; see core/inputs.py for what names may stand for.

        `topk` guesses each, or all classes where there are fewer. `batch_size` pictures go to the engine at once; the
        engine's own choice unless given. `listed` are the lines that the name `-` stands for, None among them where no
        more is there for now: what came before is answered then, in however small a batch. `done` are the paths of
        predictions that were made before: the first inputs, which are passed over. What cannot be read is a
        prediction with an error, never an exception. Pictures are decoded, and other batches run, while the caller
        uses what it was given; how far ahead does not depend on how many there are. A caller who stops early may
        close() it, which ends that work.

        Raises UsageError for a topk or batch_size under 1, for a `-` without a list and for `done` that are not the
        first inputs, BackendError where the engine fails.
        """
        size = self.info.batch_size if batch_size is None else batch_size
        if topk < 1 or size < 1:
            raise UsageError(f"topk {topk} and batch size {size} must both be 1 or more")
        names = [inputs] if isinstance(inputs, str | Path) else inputs
        return self._stream(pass_over(done, find_inputs(names, listed)), topk, size, limits)

    def _stream(
        self, inputs: Iterable[Input], topk: int, batch_size: int, limits: DecodeLimits
    ) -> Generator[Prediction]:
        def read(item: Input) -> _Read:
            if item.error is not None:
                return item, ImageError(*item.error)
            try:
                return item, read_image(item.path, self._resize, limits)
            except ImageError as error:
                return item, error.alone()

        def answer(batch: list[_Read]) -> list[Prediction]:
            return list(self._answer(batch, topk))

        num_streams = self.info.num_streams
        pictures = map_ahead(
            read,
            inputs,
            threads=decode_threads(),
            ahead=(num_streams + 1) * batch_size,
            is_awaited=lambda item: item is PAUSE,
        )
        batches = _in_batches(pictures, batch_size)
        # What runs one batch at a time runs it in this thread: a GPU's context belongs to the thread that opened it.
        if num_streams == 1:
            answers = (answer(batch) for batch in batches)
        else:
            answers = map_ahead(answer, batches, threads=num_streams, ahead=num_streams, is_awaited=_ends_in_pause)
        # From the end to the beginning, so that a caller who stops leaves no thread behind.
        with closing(pictures), closing(batches), closing(answers):
            for predictions in answers:
                yield from predictions

    def _answer(self, batch: list[_Read], topk: int) -> Iterator[Prediction]:
        images = [result for _, result in batch if isinstance(result, np.ndarray)]
        rows = iter(self._engine.run(np.stack(images)) if images else ())
        for item, result in batch:
            if item is PAUSE:
                continue
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


def pass_over(done: Iterable[str], inputs: Iterator[Input]) -> Iterator[Input]:
    """Yield the inputs after those of `done`, paths in order; raises UsageError where they are not the first inputs."""
    for number, path in enumerate(done, start=1):
        found = next((item for item in inputs if item is not PAUSE), None)
        if found is None or found.text != path:
            there = "there is no input any more" if found is None else f"the input there is {found.text} now"
            raise UsageError(f"row {number:,} is of {path}, and {there}; rows of other inputs cannot be gone on with")
    yield from inputs


def _in_batches(pictures: Iterable[_Read], batch_size: int) -> Generator[list[_Read]]:
    """Yield them in order, each time as many as hold `batch_size` that could be read."""
    batch: list[_Read] = []
    num_images = 0
    for found in pictures:
        batch.append(found)
        num_images += isinstance(found[1], np.ndarray)
        # Failures do not fill a batch; but a long run of them must not pile up behind one picture either.
        if num_images == batch_size or len(batch) == 4 * batch_size or _ends_in_pause(batch):
            yield batch
            batch, num_images = [], 0
    if batch:
        yield batch


def _ends_in_pause(batch: list[_Read]) -> bool:
    return batch[-1][0] is PAUSE


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
    tuned_for: Tuning = "throughput",
) -> Predictor:
    """Open a bundle for prediction: its directory, a `latest` file, or its name in ./bundles.

    See open_engine for what the rest means. Raises UsageError where there is no such bundle, and what open_bundle and
    open_engine raise.

    Whoever waits for single pictures one after another is answered sooner by an engine that is tuned for latency.
    """
    opened = open_bundle(find_bundle(Path(bundle)))
    return Predictor(opened, open_engine(opened, backend, device, threads, tuned_for))
