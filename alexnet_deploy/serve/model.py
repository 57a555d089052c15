"""A served model: a proved bundle and its queue."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.process.ahead import decode_threads
from alexnet_deploy.serve.batching import Batcher
from alexnet_deploy.serve.errors import BusyError
from alexnet_deploy.serve.metrics import Metrics
from alexnet_deploy.serve.proof import Proved
from alexnet_deploy.serve.settings import ServerLimits


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
        policy = self.proved.bundle.manifest.preprocessing.image_policy
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._decoding, decode_image, data, policy, self._limits.decode)
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
