"""Work done ahead of its use, in threads, in order, never more than a set amount of it."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from alexnet_deploy.core.process.interruption import is_interrupted
from alexnet_deploy.core.process.machine import num_processors

Item = TypeVar("Item")
Result = TypeVar("Result")


def decode_threads() -> int:
    """Return how many threads decode images: one for each processor this process may use, 8 at most.

    More would gain little and hold more large images in memory at once.
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
    """Yield function(item) for each item, in the items' order, up to `ahead` of them computed before they are used.

    Where an item `is_awaited`, its result is yielded before the next item is asked for. An exception of the function is
    raised in its place. When the caller stops early, what has not begun is dropped and what has is waited for: no
    thread outlives the iterator, unless a signal is ending the process.
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
        # A decoder cannot be stopped, and may work for many seconds: the end of the process does not wait for it.
        pool.shutdown(wait=not is_interrupted(), cancel_futures=True)
