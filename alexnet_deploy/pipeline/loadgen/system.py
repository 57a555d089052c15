"""The system under test: worker threads that answer the load generator's queries with an engine."""

import queue
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol, Self

import numpy as np

from alexnet_deploy.engines.engine import Engine


class Query(Protocol):
    """One query of the load generator."""

    id: int
    """The load generator's name for the query."""
    index: int
    """Number of the image, from 0."""


class System:
    """Answers each query with the top-1 class of its image, int32; waiting queries are answered in batches.

    One thread for each of the engine's streams takes what is waiting, up to `batch_size` queries at once.
    """

    def __init__(self, loadgen: ModuleType, engine: Engine, images: np.ndarray, batch_size: int) -> None:
        self._loadgen, self._engine, self._images, self._batch_size = loadgen, engine, images, batch_size
        self._waiting: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(engine.info.num_streams)]
        self.error: Exception | None = None
        """The first error of the engine; the queries after it get -1."""

    def issue(self, queries: Sequence[Query]) -> None:
        """Take queries; the load generator calls it and does not wait for the answers."""
        for query in queries:
            self._waiting.put((query.id, query.index))

    def flush(self) -> None:
        """Answer what is waiting; nothing waits for more queries here."""

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch = [first]
            while len(batch) < self._batch_size:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    # The end is for the next turn of this thread.
                    self._waiting.put(None)
                    break
                batch.append(more)
            self._answer(batch)

    def _answer(self, batch: list[tuple[int, int]]) -> None:
        guesses = np.full(len(batch), -1, dtype=np.int32)
        try:
            guesses[:] = self._engine.run(self._images[[index for _, index in batch]]).argmax(axis=1)
        except Exception as error:  # noqa: BLE001 - raised by the caller: a query without an answer would hang for ever
            self.error = self.error or error
        responses = [
            self._loadgen.QuerySampleResponse(name, guesses[place:].ctypes.data, guesses.itemsize)
            for place, (name, _) in enumerate(batch)
        ]
        self._loadgen.QuerySamplesComplete(responses)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
