"""Ordered prefetching in threads, with a limit on the number of results in memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from alexnet_deploy.core.process.interruption import is_interrupted
from alexnet_deploy.core.process.machine import num_processors

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode_threads() -> int:
    """Return the number of decoding threads: one for each usable processor, 8 at most.

    More threads gain little speed and hold more large images in memory.
    """
    return min(8, num_processors())


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    threads: int,
    ahead: int,
    is_awaited: Callable[[Item], bool] = lambda item: False,
) -> Generator[Result]:
    """Yield function(item) for each item, in order; up to `ahead` results are computed before they are used.

    If an item `is_awaited`, its result is yielded before the next item is fetched. An exception of the function is
    raised at the item's position. If the caller stops early, calls that have not started are cancelled and running ones
    are waited for: no thread outlives the iterator, unless a signal is ending the process.
    """
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            while len(pending) > (0 if is_awaited(item) else ahead):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # A decoder cannot be stopped and may run for many seconds: an interrupted process does not wait for it.
        pool.shutdown(wait=not is_interrupted(), cancel_futures=True)
