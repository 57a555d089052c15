"""Images of concurrent requests run together, in their order, each answer for its own request."""

import asyncio
import threading
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from standing_in import engine_info

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.errors import BackendError
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.serve.batching import Batcher


class Marking:
    """Returns the first pixel of each image as a feature; remembers its batches; waits while it is held."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.error: Exception | None = None

    def run(self, images: np.ndarray) -> np.ndarray:
        assert self.go.wait(60)
        marks = images[:, 0, 0, 0]
        self.batches.append(marks.tolist())
        if self.error is not None:
            raise self.error
        return marks.astype(np.float32)[:, None]

    def close(self) -> None:
        pass


def engine_of(runner: Marking, streams: int = 1) -> Engine:
    info = engine_info(num_streams=streams, batch_size=4)
    return Engine([runner] * streams, info, name="a graph", output=Output(size=1, layer="fc7"), max_batch=100)


def images(*marks: int) -> np.ndarray:
    made = np.zeros((len(marks), 256, 256, 3), np.uint8)
    made[:, 0, 0, 0] = marks
    return made


def with_batcher(
    work: Callable[[Batcher, Marking], Awaitable[None]], *, delay_s: float = 60.0, streams: int = 1
) -> Marking:
    runner = Marking()

    async def main() -> None:
        batcher = Batcher(engine_of(runner, streams), max_delay_s=delay_s)
        try:
            await work(batcher, runner)
        finally:
            await batcher.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    return runner


def test_a_full_batch_runs_at_once_and_each_request_gets_its_rows() -> None:
    async def work(batcher: Batcher, runner: Marking) -> None:
        answers = await asyncio.gather(batcher.run(images(1)), batcher.run(images(2, 3)), batcher.run(images(4)))
        assert [answer.ravel().tolist() for answer in answers] == [[1], [2, 3], [4]]
        assert all(answer.base is None for answer in answers)

    assert with_batcher(work).batches == [[1, 2, 3, 4]]


def test_a_lone_request_runs_after_the_delay() -> None:
    async def work(batcher: Batcher, runner: Marking) -> None:
        assert (await batcher.run(images(9))).tolist() == [[9]]

    assert with_batcher(work, delay_s=0.05).batches == [[9]]
    assert with_batcher(work, delay_s=0.0).batches == [[9]]


def test_requests_are_not_split_and_keep_their_order() -> None:
    async def work(batcher: Batcher, runner: Marking) -> None:
        parts = [batcher.run(images(1, 1, 1)), batcher.run(images(2, 2)), batcher.run(images(*[3] * 6))]
        await asyncio.gather(*parts, batcher.run(images(4)))

    # The last one waits for others until the delay is over.
    assert with_batcher(work, delay_s=0.05).batches == [[1, 1, 1], [2, 2], [3] * 6, [4]]


def test_a_request_whose_caller_has_gone_is_not_run() -> None:
    async def work(batcher: Batcher, runner: Marking) -> None:
        runner.go.clear()
        first = asyncio.create_task(batcher.run(images(1, 1, 1, 1)))
        await asyncio.sleep(0)
        gone = asyncio.create_task(batcher.run(images(2, 2)))
        last = asyncio.create_task(batcher.run(images(3, 3)))
        while not batcher._waiting:
            await asyncio.sleep(0.001)
        gone.cancel()
        runner.go.set()
        await asyncio.gather(first, last)

    assert with_batcher(work, delay_s=0.05).batches == [[1, 1, 1, 1], [3, 3]]


def test_an_error_of_the_engine_is_the_answer_of_its_requests_alone() -> None:
    async def work(batcher: Batcher, runner: Marking) -> None:
        runner.error = BackendError("the device is lost")
        with pytest.raises(BackendError, match="the device is lost"):
            await batcher.run(images(1))
        runner.error = None
        assert (await batcher.run(images(2))).tolist() == [[2]]

    with_batcher(work, delay_s=0.0)


def test_each_stream_of_the_engine_works() -> None:
    async def work(batcher: Batcher, runner: Marking) -> None:
        runner.go.clear()
        tasks = [asyncio.create_task(batcher.run(images(*[mark] * 4))) for mark in (1, 2)]
        # Both batches have left the queue, so both streams are running.
        while batcher._waiting:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        runner.go.set()
        await asyncio.gather(*tasks)

    assert sorted(with_batcher(work, streams=2).batches) == [[1] * 4, [2] * 4]


def test_sizes_of_batches_are_reported() -> None:
    sizes: list[int] = []

    async def main() -> None:
        batcher = Batcher(engine_of(Marking()), max_delay_s=0.0, on_batch=sizes.append)
        await batcher.run(images(1, 2, 3))
        await batcher.close()

    asyncio.run(main())
    assert sizes == [3]
