"""The stream from inputs to predictions: images are decoded and run ahead of the caller, in order, batch by batch.

A None among the inputs means that no more of them are available yet, as for a list on stdin that is still being
written: all inputs before it are predicted, even in a small batch. The predictions themselves hold no such marker.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeAlias, TypeVar

import numpy as np

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import ImageError, UsageError, WrongAnswerError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits, decode_image, read_image, reserve_file
from alexnet_deploy.core.inputs.in_memory import decode_in_memory
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.process.ahead import decode_threads, map_ahead
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.predict.prediction import Prediction, best_guesses, check_threshold

Read: TypeAlias = tuple[Input, np.ndarray | ImageError]
"""An input without the image that it held, and its pixels or why there are none."""

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """An engine and what it takes to make predictions with it; the caller owns the engine."""

    bundle: Bundle
    """The bundle that the engine was opened from; it has the labels and the image policy."""
    engine: Engine
    topk: int = 5
    """Number of classes of a prediction; all, if there are fewer."""
    subset: tuple[int, ...] | None = None
    """Indices of the only classes that are predicted; their probabilities are scaled to sum to 1. None for all."""
    limits: DecodeLimits = DEFAULT_LIMITS
    reject: float | None = None
    """Predictions with a lower confidence are rejected, 0..1; None for no threshold."""

    def __post_init__(self) -> None:
        check_classes(self.bundle, self.topk, self.reject)

    def classify(self, item: Input) -> Prediction:
        """Return the prediction for one input, decoded and run in the calling thread."""
        self.engine.refuse_fork()
        (prediction,) = self._answer([_read(item, self.decode)])
        return prediction

    def stream(self, inputs: Iterable[Input | None], batch_size: int | None = None) -> Generator[Prediction]:
        """Yield one prediction per input, in order; None among the inputs awaits all inputs before it.

        `batch_size` is the number of images per batch, by default the engine's choice. Raises UsageError at once if it
        is below 1, BackendError if the engine fails, is closed or was opened before a fork.
        """
        return stream_answers(self.engine, inputs, batch_size, decode=self.decode, answer=self._answer)

    def decode(self, item: Input) -> np.ndarray:
        """Return the image of one input, uint8 (256, 256, 3), RGB, upright; raises ImageError if it cannot be read."""
        return decode_input(item, self.bundle.manifest.preprocessing.image_policy, self.limits)

    def _answer(self, batch: list[Read]) -> list[Prediction]:
        return [
            self._failed(item, result) if isinstance(result, ImageError) else self._predicted(item, result)
            for item, result in answers_of(self.engine, batch)
        ]

    def _failed(self, item: Input, error: ImageError) -> Prediction:
        rejected = None if self.reject is None else False
        return Prediction(path=item.text, top=(), error=error.code, message=str(error), rejected=rejected)

    def _predicted(self, item: Input, probabilities: np.ndarray) -> Prediction:
        num_guesses = self.topk if self.subset is None else min(self.topk, len(self.subset))
        top = best_guesses(self._among_subset(probabilities), self.bundle.labels, num_guesses)
        rejected = None if self.reject is None else top[0].probability < self.reject
        return Prediction(path=item.text, top=top, error=None, message="", rejected=rejected)

    def _among_subset(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the probabilities (K,) scaled to sum to 1 over the subset, -1 for the other classes."""
        if self.subset is None:
            return probabilities
        kept = np.full_like(probabilities, -1.0)
        places = list(self.subset)
        chosen = probabilities[places]
        total = chosen.sum()
        # Where every class of the subset underflowed to 0, nothing can be scaled: all stay at 0.
        kept[places] = chosen / total if total > 0 else chosen
        return kept


def check_classes(bundle: Bundle, topk: int, reject: float | None) -> None:
    """Raise UsageError for a bundle of features, a topk below 1, or a threshold that is not in 0..1."""
    bundle.refuse_features("a prediction of classes")
    if topk < 1:
        raise UsageError(f"topk {topk} must be 1 or more")
    check_threshold(reject)


def stream_answers(
    engine: Engine,
    inputs: Iterable[Input | None],
    batch_size: int | None,
    *,
    decode: Callable[[Input], np.ndarray],
    answer: Callable[[list[Read]], list[Answer]],
) -> Generator[Answer]:
    """Yield what `answer` makes of each input, in order; None among the inputs awaits all inputs before it.

    `batch_size` is the number of images per batch, by default the engine's choice. `decode` and `answer` are called
    from several threads. Raises UsageError at once for a batch size below 1, BackendError if the engine fails, is
    closed or was opened before a fork.
    """
    size = engine.info.batch_size if batch_size is None else batch_size
    if size < 1:
        raise UsageError(f"batch size {size} must be 1 or more")
    return _stream(engine, inputs, size, decode, answer)


def _stream(
    engine: Engine,
    inputs: Iterable[Input | None],
    batch_size: int,
    decode: Callable[[Input], np.ndarray],
    answer: Callable[[list[Read]], list[Answer]],
) -> Generator[Answer]:
    engine.refuse_fork()
    num_streams = engine.info.num_streams
    images = map_ahead(
        lambda item: None if item is None else _read(item, decode),
        inputs,
        threads=decode_threads(),
        ahead=(num_streams + 1) * batch_size,
        is_awaited=lambda item: item is None,
    )
    batches = _in_batches(images, batch_size)
    # An engine with one stream runs in this thread: a GPU context belongs to the thread that opened it.
    if num_streams == 1:
        answers = (answer(batch) for batch in batches)
    else:
        answers = map_ahead(answer, batches, threads=num_streams, ahead=num_streams, is_awaited=lambda batch: not batch)
    # Closed from last to first, so that no thread is left behind when a caller stops early.
    with closing(images), closing(batches), closing(answers):
        for of_batch in answers:
            for one in of_batch:
                yield one
                # A fork also continues here, but has no threads that decode and run what it would wait for.
                engine.refuse_fork()


def _read(item: Input, decode: Callable[[Input], np.ndarray]) -> Read:
    # Drop the image itself: it is not needed until its row is written.
    kept = item if item.held is None and item.file is None else replace(item, held=None, file=None)
    try:
        return kept, decode(item)
    except ImageError as error:
        return kept, error.alone()


def answers_of(engine: Engine, batch: list[Read]) -> Iterator[Read]:
    """Yield each input of a batch with its row of the engine's output, float32 (K,) or (D,), or with its error."""
    images = [result for _, result in batch if isinstance(result, np.ndarray)]
    try:
        rows = iter(engine.run(np.stack(images)) if images else ())
    except WrongAnswerError as error:
        paths = [item.text for item, result in batch if isinstance(result, np.ndarray)]
        raise WrongAnswerError(f"{error} ({paths[error.image]})", image=error.image) from error
    for item, result in batch:
        yield item, result if isinstance(result, ImageError) else next(rows)


def decode_input(item: Input, policy: ImagePolicy, limits: DecodeLimits) -> np.ndarray:
    """Return the image of an input, uint8 (256, 256, 3), RGB, upright; raises ImageError if it cannot be read."""
    if item.error is not None:
        raise ImageError(*item.error)
    if item.stored is not None:
        return item.stored.decode(item.stored.read(), policy)
    if item.file is not None:
        with reserve_file(item.file.num_bytes, limits):
            return decode_image(item.file.read(limits), policy, limits)
    if item.held is not None:
        return decode_in_memory(item.held, policy, limits)
    return read_image(item.path, policy, limits)


def _in_batches(images: Iterable[Read | None], batch_size: int) -> Generator[list[Read]]:
    """Yield batches in order, each with up to `batch_size` images that could be read; an empty one for a None."""
    batch: list[Read] = []
    num_images = 0
    for found in images:
        if found is not None:
            batch.append(found)
            num_images += isinstance(found[1], np.ndarray)
        # Failures do not count towards the batch size, but a long run of them must not pile up behind one image.
        if batch and (found is None or num_images == batch_size or len(batch) == 4 * batch_size):
            yield batch
            batch, num_images = [], 0
        if found is None:
            yield []
    if batch:
        yield batch
