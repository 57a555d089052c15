"""How often one host is asked: a limit on requests at a time, a delay between them, and the rests it asks for."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.process.versions import __version__
from alexnet_deploy.train.gather.web.errors import FetchError

PRODUCT = "alexnet-deploy"
"""The name that robots.txt knows this program by."""

LONGEST_REST_SECONDS = 120.0
"""A host that asks for a longer rest is not asked again."""

_BACK_OFF_SECONDS = (1.0, 4.0, 16.0, 60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manners:
    """How servers are asked."""

    connections: int = 16
    """Requests at the same time, to all hosts together."""
    per_host: int = 2
    """Requests at the same time to one host."""
    delay_seconds: float = 0.5
    """Time between the starts of two requests to one host; a longer Crawl-delay of its robots.txt is obeyed."""
    timeout_seconds: float = 30.0
    """Time for one request, from the connection to the last byte."""
    retries: int = 3
    """Further attempts after a transient error."""
    contact: str | None = None
    """Who can be asked about these requests, a URL or an address of mail; part of the user agent."""
    sleep: Callable[[float], Awaitable[object]] = field(default=asyncio.sleep, repr=False)
    """Function that waits."""
    clock: Callable[[], float] = field(default=time.monotonic, repr=False)
    """Function that returns the time in seconds."""

    def __post_init__(self) -> None:
        if self.connections < 1 or self.per_host < 1 or self.retries < 0:
            raise UsageError(
                "connections and requests per host must be 1 or more and retries 0 or more, got "
                f"{self.connections}, {self.per_host} and {self.retries}"
            )
        # This form also refuses NaN.
        if not (self.delay_seconds >= 0 and self.timeout_seconds > 0):
            raise UsageError(
                f"a delay must be 0 or more and a timeout above 0, got {self.delay_seconds} and {self.timeout_seconds}"
            )
        if self.contact is not None and not (self.contact.isascii() and self.contact.isprintable()):
            raise UsageError(f"a contact must be printable ASCII characters, got {self.contact!r}")

    @property
    def user_agent(self) -> str:
        """The header User-Agent."""
        return f"{PRODUCT}/{__version__}" + (f" ({self.contact})" if self.contact else "")

    def back_off_seconds(self, attempt: int) -> float:
        """Return the rest after failed attempt number `attempt`, from 0, of a server that does not ask for one."""
        return _BACK_OFF_SECONDS[min(attempt, len(_BACK_OFF_SECONDS) - 1)]


class Host:
    """One host, which gives turns to requests."""

    def __init__(self, manners: Manners) -> None:
        """Give turns by these manners."""
        self._manners = manners
        self._turns = asyncio.Semaphore(manners.per_host)
        self._next_start = 0.0
        self._delay_seconds = manners.delay_seconds
        self.closed: FetchError | None = None
        """Why the host must not be asked any more; None if it may be."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn, and hold it during the block."""
        async with self._turns:
            while True:
                now = self._manners.clock()
                if now >= self._next_start:
                    break
                # The host may be given a longer rest meanwhile.
                await self._manners.sleep(self._next_start - now)
            self._next_start = now + self._delay_seconds
            yield

    def slow_down(self, delay_seconds: float) -> None:
        """Leave at least this time between requests from now on."""
        self._delay_seconds = max(self._delay_seconds, delay_seconds)

    def rest(self, seconds: float) -> None:
        """Start no request within this time."""
        self._next_start = max(self._next_start, self._manners.clock() + seconds)


def rest_asked_for(retry_after: str | None) -> float | None:
    """Return the seconds that a header Retry-After asks for, by a number or a date; None if it holds neither."""
    text = (retry_after or "").strip()
    if text.isascii() and text.isdigit():
        # A number of thousands of digits is infinite.
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
