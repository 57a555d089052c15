"""Dynamic batching: images of concurrent requests run together, in the order of arrival, with a bounded queue."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from alexnet_deploy.engines.engine import Engine


@dataclass(slots=True, kw_only=True)
class _Waiting:
    """The images of one request."""

    images: np.ndarray
    answer: asyncio.Future[np.ndarray]
    since: float = field(default_factory=time.monotonic)


class Batcher:
    """Runs the images of requests on an engine, several requests at a time; used from one event loop.

    A batch starts when it is full, or when its first request has waited for the longest delay. A request whose caller
    has gone is not run.
    """

    def __init__(
        self, engine: Engine, *, max_delay_s: float, on_batch: Callable[[int], None] = lambda size: None
    ) -> None:
        """Start one worker for each stream of the engine; `on_batch` is told the size of each batch."""
        self._engine = engine
        self._max_delay_s = max_delay_s
        self._on_batch = on_batch
        self._size = engine.info.batch_size
        self._waiting: deque[_Waiting] = deque()
        self._arrived = asyncio.Condition()
        # An engine with one stream always runs in the same thread: a GPU context belongs to the thread that uses it.
        self._threads = ThreadPoolExecutor(engine.info.num_streams, thread_name_prefix="engine")
        self._workers = [asyncio.create_task(self._work()) for _ in range(engine.info.num_streams)]

    async def run(self, images: np.ndarray) -> np.ndarray:
        """Return the engine's outputs for images, uint8 (N, 256, 256, 3); raises what Engine.run raises."""
        request = _Waiting(images=images, answer=asyncio.get_running_loop().create_future())
        async with self._arrived:
            self._waiting.append(request)
            self._arrived.notify()
        try:
            return await request.answer
        finally:
            request.answer.cancel()

    async def close(self) -> None:
        """Stop the workers; no request may be waiting."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._threads.shutdown()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._next_batch()
            if not batch:
                continue
            images = np.concatenate([request.images for request in batch])
            self._on_batch(len(images))
            running = loop.run_in_executor(self._threads, self._engine.run, images)
            await asyncio.wait([running])
            # Whatever the engine raised is the answer of these requests; the worker goes on.
            if (error := running.exception()) is not None:
                for request in batch:
                    if not request.answer.done():
                        request.answer.set_exception(error)
                continue
            outputs, start = running.result(), 0
            for request in batch:
                end = start + len(request.images)
                if not request.answer.done():
                    request.answer.set_result(outputs[start:end].copy())
                start = end

    async def _next_batch(self) -> list[_Waiting]:
        """Wait for requests, and return those that run together; one that is larger than a batch runs alone."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._waiting)
            end = self._waiting[0].since + self._max_delay_s
            while (left := end - time.monotonic()) > 0 and self._num_waiting() < self._size:
                try:
                    await asyncio.wait_for(self._arrived.wait(), left)
                except TimeoutError:
                    break
            batch: list[_Waiting] = []
            num_images = 0
            while self._waiting and (not batch or num_images + len(self._waiting[0].images) <= self._size):
                request = self._waiting.popleft()
                if not request.answer.done():
                    batch.append(request)
                    num_images += len(request.images)
            if self._waiting:
                self._arrived.notify()
            return batch

    def _num_waiting(self) -> int:
        return sum(len(request.images) for request in self._waiting)
