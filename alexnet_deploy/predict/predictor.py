"""Streamed prediction: exactly one prediction per input, in input order, also for inputs that cannot be read.

predictor = alexnet_deploy.load("bundles/my.bundle")
for prediction in predictor.predict(["images/"]):
    print(prediction.path, prediction.top[0].label)
print(predictor.classify(request.body).top)                          # one image: a path, bytes, PIL, uint8 array
probabilities = predictor.run(batch)                                 # uint8 (N, 256, 256, 3) -> float32 (N, K)

A bundle of features gives them instead:

for extraction in alexnet_deploy.load("bundles/fc7.bundle").features(["images/"]):
    print(extraction.path, extraction.features.shape)
"""

import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import numpy as np

from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits
from alexnet_deploy.core.inputs.paths import Source, as_sources, find_inputs, input_of
from alexnet_deploy.core.names import find_bundle
from alexnet_deploy.engines.engine import Device, Engine, EngineInfo, Tuning, open_engine
from alexnet_deploy.engines.registry import SPECS, Backend
from alexnet_deploy.predict.features.extraction import Extraction, Extractor
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.stream import Classifier, decode_input


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOptions:
    """The arguments of load() except the bundle: enough to open the same engine in another process."""

    backend: Backend | Literal["auto"] = "auto"
    device: Device | Literal["auto"] = "auto"
    threads: int | None = None
    tuned_for: Tuning = "throughput"

    def open(self, bundle: Bundle) -> Engine:
        """Open the engine of a bundle; raises what open_engine raises."""
        return open_engine(bundle, self.backend, self.device, self.threads, self.tuned_for)


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

        Columns are in the order of `labels`, and each row sums to 1; a bundle of features returns those, float32 (N,
        D). The caller owns the result. `decode` returns such images. A batch larger than the engine's largest is split.
        Any thread may call it.

        Raises UsageError for another shape or dtype, BackendError if the engine fails, is closed or was opened before
        a fork.
        """
        return self._engine.run(images)

    def decode(self, image: Source, *, limits: DecodeLimits = DEFAULT_LIMITS) -> np.ndarray:
        """Return one image as input for the graph, uint8 (256, 256, 3), RGB, upright; the caller owns the array.

        `image` is any input of classify. Raises ImageError, with a code, for an image that cannot be read, UsageError
        for an object that is not an image.
        """
        return decode_input(input_of(image), self.bundle.manifest.preprocessing.image_policy, limits)

    def classify(
        self,
        image: Source,
        *,
        topk: int = 5,
        reject: float | None = None,
        limits: DecodeLimits = DEFAULT_LIMITS,
    ) -> Prediction:
        """Return the prediction for one image, decoded and run in the calling thread; any thread may call it.

        `image` is a file's path, used literally (no pattern, no folder), the bytes of an image file, a PIL image, or an
        array, uint8 (H, W, 3) or (1, H, W, 3), RGB, upright. An image that cannot be read gives a prediction with an
        error. A prediction with a confidence below `reject`, 0..1, is marked as rejected.

        Raises UsageError for a topk below 1, a `reject` outside 0..1, an array of another layout or an object that is
        not an image, BackendError as run does.
        """
        return self._classifier(topk, reject, limits).classify(input_of(image))

    def predict(
        self,
        inputs: Iterable[Source] | Source,
        *,
        topk: int = 5,
        reject: float | None = None,
        batch_size: int | None = None,
        limits: DecodeLimits = DEFAULT_LIMITS,
    ) -> Generator[Prediction]:
        """Yield one prediction per input, in order.

        `inputs` are files, folders and patterns (see core/inputs/paths.py), and images in memory: the bytes of an image
        file, PIL images, and arrays, uint8 (H, W, 3) for one or (N, H, W, 3) for N images, RGB, upright. A BGR array
        cannot be detected. Images in memory have the paths #0, #1 and so on; bytes and arrays are copied when they are
        read, and a PIL image must not change before its prediction is yielded.

        Each prediction has `topk` classes, or all if there are fewer. One with a confidence below `reject`, 0..1, is
        marked as rejected. `batch_size` is the number of images per batch,
        by default the engine's choice. An input that cannot be read gives a prediction with an error, never an
        exception. While the caller uses a prediction, the next images are decoded and run; how many does not depend on
        the number of inputs, and `inputs` may be an endless iterator. A caller that stops early may close() the
        iterator, which ends that work.

        Raises UsageError for a topk or batch_size below 1, a `reject` outside 0..1, a `-`, arrays of another layout and
        an object that is not an input, BackendError as run does.
        """
        return self._classifier(topk, reject, limits).stream(find_inputs(as_sources(inputs)), batch_size)

    def features(
        self,
        inputs: Iterable[Source] | Source,
        *,
        batch_size: int | None = None,
        limits: DecodeLimits = DEFAULT_LIMITS,
    ) -> Generator[Extraction]:
        """Yield one extraction per input, in order: its features, float32 (D,), or an error.

        It needs a bundle of features, exported with an output layer; otherwise as predict. Raises UsageError for a
        bundle of probabilities, and what predict raises.
        """
        extractor = Extractor(bundle=self.bundle, engine=self._engine, limits=limits)
        return extractor.stream(find_inputs(as_sources(inputs)), batch_size)

    def _classifier(self, topk: int, reject: float | None, limits: DecodeLimits) -> Classifier:
        return Classifier(bundle=self.bundle, engine=self._engine, topk=topk, limits=limits, reject=reject)

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
        if name not in ("_engine", "_options", "bundle", "labels"):
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
    bundle = open_bundle(path, sha256)
    engine = options.open(bundle)
    # Store what `auto` chose, so that the next process opens the same backend.
    return Predictor(bundle, engine, replace(options, backend=_named_backend(engine)))


def _named_backend(engine: Engine) -> Backend:
    (backend,) = (name for name in SPECS if name == engine.info.backend)
    return backend
