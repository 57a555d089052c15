"""Images to predictions, streamed: exactly one for each input, in the inputs' order, whatever the images are like.

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
    """Its place in labels.txt, from 0."""
    label: str
    probability: float
    """0..1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What came of one input: guesses, or the reason there are none."""

    path: str
    """The input's path; what UTF-8 cannot hold is written as backslash escapes. In memory: #0, #1 and so on."""
    top: tuple[Guess, ...]
    """The likeliest classes, best first, equals by index; empty where the image could not be read."""
    error: ImageErrorCode | None
    """Why there are no guesses; None where there are."""
    message: str
    """The error in words; empty where there is none."""

    @property
    def ok(self) -> bool:
        """True where there are guesses."""
        return self.error is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A prediction that was made before, of an input that is to be asked again."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """What load() was asked for, beside the bundle: enough to open the same engine in another process."""

    backend: Backend | Literal["auto"] = "auto"
    device: Device | Literal["auto"] = "auto"
    threads: int | None = None
    tuned_for: Tuning = "throughput"


class Predictor:
    """An engine with its labels and decoding policy: images in, predictions out.

    Any number of threads may call run and classify at once: each call waits for a free stream of the engine, of which
    there are `info.num_streams`, and no call sees another's images. An iterator of predict belongs to one thread; each
    thread may have its own.

    It works in the process that opened it. In a fork of that process run, classify and predict raise BackendError, and
    close() does nothing. What load() returned can be pickled, so pools of processes that start by `spawn` take it: the
    bundle is opened again at its first use there, once in each process, and refused if its digest has changed. Those
    unpickled in one process share an engine, and close() closes it for all of them.
    """

    def __init__(self, bundle: Bundle, engine: Engine, options: LoadOptions | None = None) -> None:
        """Join a bundle and an engine of it; the predictor closes the engine. Without `options` it is not pickled."""
        self._resize: ResizePolicy = bundle.manifest.preprocessing.resize
        self._engine = engine
        self._options = options
        self.bundle = bundle
        self.labels = bundle.labels

    @property
    def info(self) -> EngineInfo:
        """What is really running."""
        return self._engine.info

    def run(self, images: np.ndarray) -> np.ndarray:
        """Return class probabilities, float32 (N, K), for `images`, uint8 (N, 256, 256, 3), RGB, upright, N >= 1.

        Columns are in the order of `labels`, and each row sums to 1; the result is the caller's. `decode` makes such
        images. A batch larger than the engine takes at once is split. Any thread may call it.

        Raises UsageError for another shape or type, BackendError where the engine fails, is closed or was opened
        before a fork.
        """
        return self._engine.run(images)

    def decode(self, image: Source, *, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
        """Return one image as the graph takes it, uint8 (256, 256, 3), RGB, upright; the array is the caller's.

        `image` is as classify takes it. Raises ImageError, with a code, for an image that cannot be read, UsageError
        for what is no image.
        """
        return _pixels(input_of(image), self._resize, limits)

    def classify(self, image: Source, *, topk: int = 5, limits: DecodeLimits = DEFAULT_LIMITS) -> Prediction:
        """Return the prediction for one image, decoded and run in the calling thread; any thread may call it.

        `image` is a file's path, taken as it is (no pattern, no folder), the bytes of an image file, a PIL image, or an
        array, uint8 (H, W, 3) or (1, H, W, 3), RGB, upright. An image that cannot be read gives a prediction with an
        error.

        Raises UsageError for a topk under 1, an array of another layout or what is no image, BackendError as run does.
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
        """Yield one prediction for each input, in order.

        `inputs` are files, folders and patterns (see core/inputs/paths.py), and images in memory: the bytes of an image
        file, PIL images, and arrays, uint8 (H, W, 3) for one or (N, H, W, 3) for N images, RGB, upright. That an array
        is RGB and not BGR cannot be seen. What is in memory has the paths #0, #1 and so on; bytes and arrays are copied
        when they are taken, a PIL image must not change before its row has come.

        `topk` guesses each, or all classes where there are fewer. `batch_size` images go to the engine at once; the
        engine's own choice unless given. `listed` are the lines that the name `-` stands for, None among them where no
        more is there for now: what came before is answered then, in however small a batch. `done` are the paths of
        predictions that were made before: the first inputs, which are passed over, but for those marked Again. What
        cannot be read is a prediction with an error, never an exception. Images are decoded, and other batches run,
        while the caller uses what it was given; how far ahead does not depend on how many there are. A caller who stops
        early may close() it, which ends that work.

        Raises UsageError for a topk or batch_size under 1, for a `-` without a list, for arrays of another layout, for
        what is no input and for `done` that are not the first inputs, BackendError as run does.
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
        # What runs one batch at a time runs it in this thread: a GPU's context belongs to the thread that opened it.
        if num_streams == 1:
            answers = (answer(batch) for batch in batches)
        else:
            answers = map_ahead(answer, batches, threads=num_streams, ahead=num_streams, is_awaited=_ends_in_pause)
        # From the end to the beginning, so that a caller who stops leaves no thread behind.
        with closing(images), closing(batches), closing(answers):
            for predictions in answers:
                for prediction in predictions:
                    yield prediction
                    # A fork goes on here too, where nobody decodes or runs any more what it would wait for.
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
        """Give back what the engine holds; in a fork of the process that opened it, do nothing."""
        self._engine.close()

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the bundle's place, its digest and what load() was asked for; raises TypeError where it was not."""
        if self._options is None:
            raise TypeError("this Predictor was not opened by load(), and only what load() returns can be pickled")
        return _Unpickled, (self.bundle.path.absolute(), self.bundle.sha256, self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Unpickled(Predictor):
    """A predictor whose bundle is opened at its first use.

    Not while it is unpickled: a pool loses a task whose arguments raise there, and waits for its result for good.
    """

    def __init__(self, path: Path, sha256: str, options: LoadOptions) -> None:
        self._origin = (path, sha256, options)

    def __getattr__(self, name: str) -> object:
        # Asked for what __init__ of a Predictor would have set.
        if name not in ("_resize", "_engine", "_options", "bundle", "labels"):
            raise AttributeError(name)
        path, sha256, options = self._origin
        with _opening:
            # A pool unpickles its predictor anew for every chunk of its tasks.
            if self._origin not in _opened:
                _opened[self._origin] = _load(path, options, sha256)
            vars(self).update(vars(_opened[self._origin]))
        return vars(self)[name]

    def close(self) -> None:
        """Give back what the engine holds, if anything was opened."""
        with _opening:
            _opened.pop(self._origin, None)
        if "_engine" in vars(self):
            super().close()

    def __reduce__(self) -> tuple[object, ...]:
        return _Unpickled, self._origin


_opening = threading.Lock()
_opened: dict[tuple[Path, str, LoadOptions], Predictor] = {}


def pass_over(done: Iterable[str | Again], inputs: Iterator[Input]) -> Iterator[Input]:
    """Yield the inputs of `done` that are marked Again, and those after them all.

    `done` are paths, in order. Raises UsageError where they are not those of the first inputs.
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
    # Without the image itself, which need not be kept until its row.
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
    """Yield them in order, each time as many as hold `batch_size` that could be read."""
    batch: list[_Read] = []
    num_images = 0
    for found in images:
        batch.append(found)
        num_images += isinstance(found[1], np.ndarray)
        # Failures do not fill a batch; but a long run of them must not pile up behind one image either.
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

    Whoever waits for single images one after another is answered sooner by an engine that is tuned for latency. A
    process that will fork, as a server that loads before it starts its workers, opens the bundle in each worker.
    """
    return _load(
        find_bundle(Path(bundle)), LoadOptions(backend=backend, device=device, threads=threads, tuned_for=tuned_for)
    )


def _load(path: Path, options: LoadOptions, sha256: str | None = None) -> Predictor:
    bundle = open_bundle(path)
    if sha256 is not None and bundle.sha256 != sha256:
        raise IntegrityError(
            f"{path}: its digest is {bundle.sha256[:12]}..., and a Predictor of {sha256[:12]}... was pickled; load "
            "the bundle again"
        )
    engine = open_engine(bundle, options.backend, options.device, options.threads, options.tuned_for)
    # Where the choice was free, the next process makes the same.
    return Predictor(bundle, engine, replace(options, backend=_named_backend(engine)))


def _named_backend(engine: Engine) -> Backend:
    (backend,) = (name for name in SPECS if name == engine.info.backend)
    return backend
