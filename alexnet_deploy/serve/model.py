"""A served model: a bundle with an engine that was proved in this process, and its queue."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.bundle.manifest import ParityRow
from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.errors import ImageError, ParityError
from alexnet_deploy.core.golden.record import GoldenFiles
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.process.ahead import decode_threads
from alexnet_deploy.core.process.say import Say
from alexnet_deploy.engines.engine import Engine, open_engine
from alexnet_deploy.engines.proof.golden_files import prove_decoder, prove_files
from alexnet_deploy.engines.proof.parity import prove
from alexnet_deploy.serve.batching import Batcher
from alexnet_deploy.serve.errors import BusyError
from alexnet_deploy.serve.metrics import Metrics
from alexnet_deploy.serve.settings import ModelPlace, ServerLimits, ServerRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Proved:
    """An open bundle whose engine and decoder gave the golden answers in this process."""

    place: ModelPlace
    bundle: Bundle
    engine: Engine
    rows: tuple[ParityRow, ...]
    """How far the engine was from the golden vectors and files."""


def open_proved(place: ModelPlace, request: ServerRequest, say: Say) -> Proved:
    """Open a bundle and prove it: its bytes, its engine on the golden vectors and files, this program's decoder.

    Raises ParityError where one of them differs, and what open_bundle, Bundle.verify and open_engine raise.
    """
    bundle = open_bundle(place.bundle)
    say(f"verifying {place.bundle}")
    bundle.verify()
    engine = open_engine(bundle, request.backend, request.device, request.threads, tuned_for="throughput")
    try:
        say(f"proving {place.bundle} on {engine.info.backend}")
        rows = (*prove(engine, bundle), *prove_files(engine, bundle))
        failures = [f"{row.images}: {failure}" for row in rows for failure in row.failures]
        if isinstance(bundle.manifest.golden.files, GoldenFiles):
            failures += prove_decoder(bundle).failures
        if failures:
            raise ParityError(f"{place.bundle}: not served: {'; '.join(failures)}")
    except BaseException:
        engine.close()
        raise
    return Proved(place=place, bundle=bundle, engine=engine, rows=rows)


class Model:
    """A proved bundle that answers requests in one event loop."""

    def __init__(self, proved: Proved, limits: ServerLimits, metrics: Metrics) -> None:
        """Start its queue, in the running event loop; close() ends it and closes the engine."""
        self.proved = proved
        self.labels = proved.bundle.labels
        self._limits = limits
        self._metrics = metrics
        self._num_admitted = 0
        self._decoding = ThreadPoolExecutor(decode_threads(), thread_name_prefix="decode")
        self._batcher = Batcher(
            proved.engine,
            max_delay_s=limits.max_delay_s,
            on_batch=lambda size: metrics.batches.labels(*self.key).observe(size),
        )

    @property
    def key(self) -> tuple[str, str]:
        """Name and version."""
        return self.proved.place.name, self.proved.place.version

    @property
    def output(self) -> Output:
        """What it returns."""
        return self.proved.engine.output

    async def run(self, images: np.ndarray) -> np.ndarray:
        """Return the outputs for images, uint8 (N, 256, 256, 3); raises BusyError, and what Engine.run raises."""
        async with self._admitted(len(images)):
            return await self._batcher.run(images)

    async def run_files(self, files: Iterable[bytes]) -> np.ndarray:
        """Return the outputs for image files; raises BusyError, ImageError with the file's index, as Engine.run."""
        held = tuple(files)
        async with self._admitted(len(held)):
            decoded = [self._decode(data, number) for number, data in enumerate(held)]
            return await self._batcher.run(np.stack(await asyncio.gather(*decoded)))

    async def close(self) -> None:
        """Stop the queue and close the engine; no request may be running."""
        await self._batcher.close()
        self._decoding.shutdown()
        self.proved.engine.close()

    async def _decode(self, data: bytes, number: int) -> np.ndarray:
        resize = self.proved.bundle.manifest.preprocessing.resize
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decoding, decode_image, data, resize, self._limits.decode)
        except ImageError as error:
            raise ImageError(error.code, f"element {number}: {error}" if number else str(error)) from error

    @asynccontextmanager
    async def _admitted(self, num_images: int) -> AsyncIterator[None]:
        if self._num_admitted + num_images > self._limits.queued_images:
            raise BusyError(f"{self.key[0]}: {self._num_admitted:,} images are waiting, and the queue is full")
        self._num_admitted += num_images
        self._metrics.waiting.labels(*self.key).set(self._num_admitted)
        try:
            yield
        finally:
            self._num_admitted -= num_images
            self._metrics.waiting.labels(*self.key).set(self._num_admitted)
