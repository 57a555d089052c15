"""`bench --loadgen`: a bundle under MLPerf's load generator, in performance or accuracy mode."""

from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace as with_fields

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.images.batches import decode_batches
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.say import Say, counted, say_nothing
from alexnet_deploy.engines.engine import Engine, Tuning, open_engine
from alexnet_deploy.pipeline.bench import image_files
from alexnet_deploy.pipeline.loadgen.run import LoadRequest, LoadResult, guesses_under_load, highest_rate, run_load
from alexnet_deploy.predict.predictor import LoadOptions

_MOST_IMAGES = 1024
"""As in MLPerf's image classification: 200 MB in memory."""


class LoadBenchmark(Struct, frozen=True, kw_only=True):
    """The verdict of the load generator about one bundle on one engine."""

    bundle: str
    bundle_sha256: str
    precision: str
    backend: str
    version: str
    device: str
    arithmetic: str
    processor: str
    num_images: int
    result: LoadResult | None = None
    """The run; for a search, the highest valid one; None if no rate was valid, and in accuracy mode."""
    tries: tuple[LoadResult, ...] = ()
    """All runs of a search."""
    num_equal: int | None = None
    """accuracy mode: images whose guess is that of a direct run of the engine; None in performance mode."""

    @property
    def passed(self) -> bool:
        """Whether the run was valid or, in accuracy mode, every guess was equal."""
        if self.num_equal is not None:
            return self.num_equal == self.num_images
        return self.result is not None and self.result.is_valid


def bench_under_load(
    bundle: Bundle,
    options: LoadOptions,
    data: Path | None,
    request: LoadRequest,
    *,
    accuracy: bool = False,
    say: Say = say_nothing,
) -> LoadBenchmark:
    """Drive a bundle's engine with queries for up to 1,024 images of `data`, or 64 drawn ones.

    The scenario decides what the engine is tuned for. In the scenario server without a rate, the highest valid rate is
    searched. Raises UsageError for a bundle of features, and what image_files, open_engine and run_load raise.
    """
    bundle.refuse_features("bench --loadgen")
    with image_files(data, bundle.manifest.preprocessing.image_policy, _MOST_IMAGES) as files:
        say(f"decoding {counted(len(files), 'image')}")
        images = np.concatenate(list(decode_batches(files, bundle.manifest.preprocessing.image_policy)))
    tuning: Tuning = "latency" if request.scenario == "single-stream" else "throughput"
    with open_engine(bundle, options.backend, options.device, options.threads, tuning) as engine:
        info = engine.info
        found = LoadBenchmark(
            bundle=str(bundle.path),
            bundle_sha256=bundle.sha256,
            precision=bundle.manifest.precision,
            backend=info.backend,
            version=info.version,
            device=info.device,
            arithmetic=info.arithmetic,
            processor=processor(),
            num_images=len(images),
        )
        say(f"running {request.scenario} on {info.backend}")
        if accuracy:
            return with_fields(found, num_equal=_num_equal(engine, images, request))
        if request.scenario == "server" and not request.rate:
            best, tries = highest_rate(engine, images, request, say)
            return with_fields(found, result=best, tries=tries)
        return with_fields(found, result=run_load(engine, images, request))


def _num_equal(engine: Engine, images: np.ndarray, request: LoadRequest) -> int:
    direct = np.concatenate([engine.run(image[None]).argmax(axis=1) for image in images])
    return int((guesses_under_load(engine, images, request.scenario) == direct).sum())
