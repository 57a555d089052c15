"""Streamed prediction: exactly one prediction per input, in input order, also for inputs that cannot be read.

predictor = alexnet_deploy.load("bundles/my.bundle")
for prediction in predictor.predict(["images/"]):
    print(prediction.path, prediction.top[0].label)
print(predictor.classify(request.body).top)                          # one image: a path, bytes, PIL, uint8 array
probabilities = predictor.run(batch)                                 # uint8 (N, 256, 256, 3) -> float32 (N, K)
"""

import threading
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self, TypeAlias

import numpy as np

from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.errors import ImageError, ImageErrorCode, IntegrityError, UsageError, WrongAnswerError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits, read_image
from alexnet_deploy.core.inputs.in_memory import decode_in_memory
from alexnet_deploy.core.inputs.paths import PAUSE, Input, Source, as_sources, find_inputs, input_of
from alexnet_deploy.core.model.preprocessing import ResizePolicy
from alexnet_deploy.core.names import find_bundle
from alexnet_deploy.core.process.ahead import decode_threads, map_ahead
from alexnet_deploy.engines.engine import Device, Engine, EngineInfo, Tuning, open_engine
from alexnet_deploy.engines.registry import SPECS, Backend

_Read: TypeAlias = tuple[Input, np.ndarray | ImageError]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """One class with its probability."""

    index: int
    """Line in labels.txt, from 0."""
    label: str
    probability: float
    """0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """Result of one input: the most probable classes, or an error."""

    path: str
    """The input's path, with backslash escapes for bytes that are not UTF-8; #0, #1 and so on for images in memory."""
    top: tuple[Guess, ...]
    """The most probable classes, best first, ties by index; empty if the image could not be read."""
    error: ImageErrorCode | None
    """Why the image could not be classified; None if it was."""
    message: str
    """The error as a sentence; empty if there is none."""

    @property
    def ok(self) -> bool:
        """True if the image was classified."""
        return self.error is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """An earlier prediction whose input is to be predicted again."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The arguments of load() except the bundle: enough to open the same engine in another process."""

    backend: Backend | Literal["auto"] = "auto"
    device: Device | Literal["auto"] = "auto"
    threads: int | None = None
    tuned_for: Tuning = "throughput"


class Predictor:
    """An engine with its labels and decoding policy: images in, predictions out.

    Any number of threads may call run and classify concurrently: each call waits for one of the engine's
    `info.num_streams` streams, and calls do not mix their images. An iterator of predict belongs to one thread; each
    thread may have its own.

    It works in the process that opened it. In a fork of that process run, classify and predict raise BackendError, and
    close() does nothing. A predictor returned by load() can be pickled, so it can be passed to process pools that use
    `spawn`: each process opens the bundle again at first use, and refuses it if its digest has changed. Predictors that
    are unpickled in the same process share one engine, and close() closes it for all of them.
    """

    def __init__(self, bundle: Bundle, engine: Engine, options: LoadOptions | None = None) -> None:
        """Combine a bundle with an engine opened from it, and own the engine; pickling needs `options`."""
        self._resize: ResizePolicy = bundle.manifest.preprocessing.resize
        self._engine = engine
        self._options = options
        self.bundle = bundle
        self.labels = bundle.labels

    @property
    def info(self) -> EngineInfo:
        """The backend, device and arithmetic that are in use."""
        return self._engine.info

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 (N, K), for `images`, uint8 (N, 256, 256, 3), RGB, upright, N >= 1.

        Columns are in the order of `labels`, and each row sums to 1; the caller owns the result. `decode` returns such
        images. A batch larger than the engine's largest is split. Any thread may call it.

        Raises UsageError for another shape or dtype, BackendError if the engine fails, is closed or was opened before
        a fork.
        """
        return self._engine.run(images)

    def decode(self, image: Source, *, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
        """Return one image as input for the graph, uint8 (256, 256, 3), RGB, upright; the caller owns the array.

        `image` is any input of classify. Raises ImageError, with a code, for an image that cannot be read, UsageError
        for an object that is not an image.
        """
        return _pixels(input_of(image), self._resize, limits)

    def classify(self, image: Source, *, topk: int = 5, limits: DecodeLimits = DEFAULT_LIMITS) -> Prediction:
        """Return the prediction for one image, decoded and run in the calling thread; any thread may call it.

        `image` is a file's path, used literally (no pattern, no folder), the bytes of an image file, a PIL image, or an
        array, uint8 (H, W, 3) or (1, H, W, 3), RGB, upright. An image that cannot be read gives a prediction with an
        error.

        Raises UsageError for a topk below 1, an array of another layout or an object that is not an image, BackendError
        as run does.
        """
        if topk < 1:
            raise UsageError(f"topk {topk} must be 1 or more")
        self._engine.refuse_fork()
        read = _read(input_of(image), self._resize, limits)
        (prediction,) = self._answer([read], topk)
        return prediction

    def predict(
        self,
        inputs: Iterable[Source] | Source,
        *,
        topk: int = 5,
        batch_size: int | None = None,
        limits: DecodeLimits = DEFAULT_LIMITS,
        listed: Iterable[bytes | None] | None = None,
        done: Iterable[str | Again] = (),
    ) -> Generator[Prediction]:
        """Yield one prediction per input, in order.

        `inputs` are files, folders and patterns (see core/inputs/paths.py), and images in memory: the bytes of an image
        file, PIL images, and arrays, uint8 (H, W, 3) for one or (N, H, W, 3) for N images, RGB, upright. A BGR array
        cannot be detected. Images in memory have the paths #0, #1 and so on; bytes and arrays are copied when they are
        read, and a PIL image must not change before its prediction is yielded.

        Each prediction has `topk` classes, or all if there are fewer. `batch_size` is the number of images per batch,
        by default the engine's choice. `listed` are the lines that the name `-` stands for; a None among them means
        that no more lines are available yet, and then all earlier inputs are predicted, even in a small batch. `done`
        are the paths of earlier predictions: they must be the first inputs, which are skipped unless marked Again. An
        input that cannot be read gives a prediction with an error, never an exception. While the caller uses a
        prediction, the next images are decoded and run; how many does not depend on the number of inputs. A caller that
        stops early may close() the iterator, which ends that work.

        Raises UsageError for a topk or batch_size below 1, a `-` without a list, arrays of another layout, an object
        that is not an input, and a `done` that does not match the first inputs, BackendError as run does.
        """
        size = self.info.batch_size if batch_size is None else batch_size
        if topk < 1 or size < 1:
            raise UsageError(f"topk {topk} and batch size {size} must both be 1 or more")
        return self._stream(pass_over(done, find_inputs(as_sources(inputs), listed)), topk, size, limits)

    def _stream(
        self, inputs: Iterable[Input], topk: int, batch_size: int, limits: DecodeLimits
    ) -> Generator[Prediction]:
        self._engine.refuse_fork()

        def read(item: Input) -> _Read:
            return _read(item, self._resize, limits)

        def answer(batch: list[_Read]) -> list[Prediction]:
            return list(self._answer(batch, topk))

        num_streams = self.info.num_streams
        images = map_ahead(
            read,
            inputs,
            threads=decode_threads(),
            ahead=(num_streams + 1) * batch_size,
            is_awaited=lambda item: item is PAUSE,
        )
        batches = _in_batches(images, batch_size)
        # An engine with one stream runs in this thread: a GPU context belongs to the thread that opened it.
        if num_streams == 1:
            answers = (answer(batch) for batch in batches)
        else:
            answers = map_ahead(answer, batches, threads=num_streams, ahead=num_streams, is_awaited=_ends_in_pause)
        # Closed from last to first, so that no thread is left behind when a caller stops early.
        with closing(images), closing(batches), closing(answers):
            for predictions in answers:
                for prediction in predictions:
                    yield prediction
                    # A fork also continues here, but has no threads that decode and run what it would wait for.
                    self._engine.refuse_fork()

    def _answer(self, batch: list[_Read], topk: int) -> Iterator[Prediction]:
        images = [result for _, result in batch if isinstance(result, np.ndarray)]
        try:
            rows = iter(self._engine.run(np.stack(images)) if images else ())
        except WrongAnswerError as error:
            paths = [item.text for item, result in batch if isinstance(result, np.ndarray)]
            raise WrongAnswerError(f"{error} ({paths[error.image]})", image=error.image) from error
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
        """Release the engine's resources; in a fork of the process that opened it, do nothing."""
        self._engine.close()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the bundle's path, its digest and the arguments of load(); raises TypeError if load() was not used."""
        if self._options is None:
            raise TypeError("this Predictor was not opened by load(), so it cannot be pickled; open it with load()")
        return _Unpickled, (self.bundle.path.absolute(), self.bundle.sha256, self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Unpickled(Predictor):
    """A predictor whose bundle is opened at its first use.

    Not during unpickling: a pool loses a task whose arguments raise there, and waits for its result forever.
    """

    def __init__(self, path: Path, sha256: str, options: LoadOptions) -> None:
        self._origin = (path, sha256, options)

    def __getattr__(self, name: str) -> object:
        # These are the attributes that Predictor.__init__ sets.
        if name not in ("_resize", "_engine", "_options", "bundle", "labels"):
            raise AttributeError(name)
        path, sha256, options = self._origin
        with _opening:
            # A pool unpickles its predictor again for every chunk of tasks.
            if self._origin not in _opened:
                _opened[self._origin] = _load(path, options, sha256)
            vars(self).update(vars(_opened[self._origin]))
        return vars(self)[name]

    def close(self) -> None:
        """Release the engine's resources, if it was opened."""
        with _opening:
            _opened.pop(self._origin, None)
        if "_engine" in vars(self):
            super().close()

    def __reduce__(self) -> tuple[object, ...]:
        return _Unpickled, self._origin


_opening = threading.Lock()
_opened: dict[tuple[Path, str, LoadOptions], Predictor] = {}


def pass_over(done: Iterable[str | Again], inputs: Iterator[Input]) -> Iterator[Input]:
    """Yield the inputs of `done` that are marked Again, and then all inputs after `done`.

    `done` are paths, in order. Raises UsageError if they do not match the first inputs.
    """
    is_awaited = False
    for number, mark in enumerate(done, start=1):
        path = mark.path if isinstance(mark, Again) else mark
        found = next(inputs, None)
        while found is PAUSE:
            if is_awaited:
                yield PAUSE
                is_awaited = False
            found = next(inputs, None)
        if found is None or found.text != path:
            there = "there are no more inputs" if found is None else f"input {number:,} is now {found.text}"
            raise UsageError(f"cannot resume: row {number:,} was written for {path}, but {there}")
        if isinstance(mark, Again):
            yield found
            is_awaited = True
    yield from inputs


def _read(item: Input, resize: ResizePolicy, limits: DecodeLimits) -> _Read:
    # Drop the image itself: it is not needed until its row is written.
    kept = item if item.held is None else replace(item, held=None)
    try:
        return kept, _pixels(item, resize, limits)
    except ImageError as error:
        return kept, error.alone()


def _pixels(item: Input, resize: ResizePolicy, limits: DecodeLimits) -> np.ndarray:
    if item.error is not None:
        raise ImageError(*item.error)
    if item.held is not None:
        return decode_in_memory(item.held, resize, limits)
    return read_image(item.path, resize, limits)


def _in_batches(images: Iterable[_Read], batch_size: int) -> Generator[list[_Read]]:
    """Yield batches in order, each with up to `batch_size` images that could be read."""
    batch: list[_Read] = []
    num_images = 0
    for found in images:
        batch.append(found)
        num_images += isinstance(found[1], np.ndarray)
        # Failures do not count towards the batch size, but a long run of them must not pile up behind one image.
        if num_images == batch_size or len(batch) == 4 * batch_size or _ends_in_pause(batch):
            yield batch
            batch, num_images = [], 0
    if batch:
        yield batch


def _ends_in_pause(batch: list[_Read]) -> bool:
    return batch[-1][0] is PAUSE


def best_guesses(probabilities: np.ndarray, labels: tuple[str, ...], topk: int) -> tuple[Guess, ...]:
    """Return the `topk` most probable classes of one row, float32 (K,), best first, ties by index."""
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

    See open_engine for the other arguments. Raises UsageError if there is no such bundle, and what open_bundle and
    open_engine raise.

    For single images one after another, use `tuned_for="latency"`. A process that forks later, such as a server that
    loads before it starts its workers, must load the bundle in each worker.
    """
    return _load(
        find_bundle(Path(bundle)), LoadOptions(backend=backend, device=device, threads=threads, tuned_for=tuned_for)
    )


def _load(path: Path, options: LoadOptions, sha256: str | None = None) -> Predictor:
    bundle = open_bundle(path)
    if sha256 is not None and bundle.sha256 != sha256:
        raise IntegrityError(
            f"{path}: its digest is {bundle.sha256[:12]}..., but the pickled Predictor was of {sha256[:12]}...; load "
            "the bundle again"
        )
    engine = open_engine(bundle, options.backend, options.device, options.threads, options.tuned_for)
    # Store what `auto` chose, so that the next process opens the same backend.
    return Predictor(bundle, engine, replace(options, backend=_named_backend(engine)))


def _named_backend(engine: Engine) -> Backend:
    (backend,) = (name for name in SPECS if name == engine.info.backend)
    return backend
