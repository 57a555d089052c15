"""Fetch the file behind a URL: redirects, limits, retries, robots.txt."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

import httpcore
import httpx

from alexnet_deploy.core.process.interruption import is_interrupted
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.train.gather.web.addresses import CheckedNetwork, CheckedTransport, Permits, is_public
from alexnet_deploy.train.gather.web.errors import FetchError, FetchErrorCode
from alexnet_deploy.train.gather.web.hosts import LONGEST_REST_SECONDS, Host, Manners, rest_asked_for
from alexnet_deploy.train.gather.web.robots import MOST_BYTES, Robots, robots_of

_MOST_REDIRECTS = 10
_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_TRANSIENT = frozenset((408, 425, 429))
_RESOLVERS = 8
_LARGEST_PORT = 65535
_ROBOTS_PATH = "/robots.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A file from the web."""

    url: str
    """Its URL, after redirects."""
    data: bytes = field(repr=False)
    """Its bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    url: httpx.URL
    status: int
    headers: httpx.Headers
    data: bytes
    is_cut: bool
    """Whether the file has more bytes than `data`, which holds its beginning."""

    @property
    def location(self) -> str | None:
        """Where a redirect leads to; None for another answer."""
        location: str | None = self.headers.get("Location") if self.status in _REDIRECTS else None
        return location

    @property
    def is_transient(self) -> bool:
        """Whether another attempt may give the file."""
        return self.status in _TRANSIENT or self.status >= 500

    @property
    def rest_seconds(self) -> float | None:
        """The rest that the server asks for; None if it does not."""
        return rest_asked_for(self.headers.get("Retry-After"))

    @property
    def coding(self) -> str | None:
        """How the file is compressed, which no request asks for; None if it is not."""
        coding = self.headers.get("Content-Encoding", "").strip().lower()
        return None if coding in ("", "identity") else coding


@dataclass(slots=True, kw_only=True)
class _Server:
    """A scheme, host and port."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    robots: Robots | FetchError | None = None
    """Its rules, or why it cannot be asked; None before the first question."""


class Fetcher:
    """Fetches files; its tasks share the hosts' turns and the rules of robots.txt."""

    def __init__(self, transport: httpx.AsyncBaseTransport, manners: Manners, max_bytes: int) -> None:
        """Ask through this transport; see fetching()."""
        self._transport = transport
        self._headers = {
            "User-Agent": manners.user_agent,
            "Accept": "image/*, */*;q=0.5",
            "Accept-Encoding": "identity",
        }
        self._manners = manners
        self._max_bytes = max_bytes
        self._hosts: dict[str, Host] = {}
        self._servers: dict[str, _Server] = {}

    async def fetch(self, url: str) -> Fetched:
        """Return the file behind a URL; raises FetchError."""
        return await self._followed(checked_url(url))

    async def _followed(self, url: httpx.URL) -> Fetched:
        seen = {url}
        while True:
            await self._check_robots(url)
            answer = await self._answer(url, self._max_bytes)
            if answer.location is None:
                return self._file_in(answer)
            url = _target(url, answer.location)
            if url in seen:
                raise FetchError(FetchErrorCode.REDIRECTS, "the redirects go in a circle", str(url))
            if len(seen) > _MOST_REDIRECTS:
                raise FetchError(FetchErrorCode.REDIRECTS, f"more than {_MOST_REDIRECTS} redirects", str(url))
            seen.add(url)

    def _file_in(self, answer: _Answer) -> Fetched:
        url = str(answer.url)
        if answer.status != HTTPStatus.OK:
            raise FetchError(f"http_{answer.status}", f"the server answered {_status_words(answer.status)}", url)
        if answer.is_cut:
            words = f"more than {counted(self._max_bytes, 'byte')}; --max-bytes sets the limit"
            raise FetchError(FetchErrorCode.TOO_LARGE, words, url)
        if answer.coding is not None:
            raise FetchError(
                FetchErrorCode.CONNECTION, f"the server sent {answer.coding}, which was not asked for", url
            )
        return Fetched(url=url, data=answer.data)

    async def _check_robots(self, url: httpx.URL) -> None:
        """Raise FetchError if the rules of a URL's server forbid it (robots), or if the server cannot be asked."""
        server = self._servers.setdefault(_origin(url), _Server())
        async with server.lock:
            if server.robots is None:
                server.robots = await self._robots(url.copy_with(raw_path=_ROBOTS_PATH.encode(), fragment=None))
        if isinstance(server.robots, FetchError):
            raise FetchError(server.robots.code, str(server.robots), server.robots.url)
        if (refusal := server.robots.refusal(str(url))) is not None:
            raise FetchError(FetchErrorCode.ROBOTS, refusal, str(url))
        self._host(url).slow_down(server.robots.delay_seconds)

    async def _robots(self, url: httpx.URL) -> Robots | FetchError:
        try:
            for _ in range(_MOST_REDIRECTS):
                answer = await self._answer(url, MOST_BYTES)
                if answer.location is not None:
                    url = _target(url, answer.location)
                elif answer.coding is not None:
                    return Robots(forbids_all=f"robots.txt cannot be read, it is sent as {answer.coding}")
                else:
                    return robots_of(answer.status, answer.data)
        except FetchError as error:
            return error
        # RFC 9309, 2.3.1.2: after five redirects it may be taken for missing.
        return Robots()

    async def _answer(self, url: httpx.URL, most_bytes: int) -> _Answer:
        """Return a server's last answer after retries; raises FetchError if it gives none."""
        host = self._host(url)
        for attempt in range(self._manners.retries + 1):
            is_last = attempt == self._manners.retries
            try:
                answer = await self._asked(host, url, most_bytes)
            except FetchError as error:
                if is_last or error.code not in (FetchErrorCode.TIMEOUT, FetchErrorCode.CONNECTION):
                    raise
                host.rest(self._manners.back_off_seconds(attempt))
                continue
            if is_last or not answer.is_transient or host.closed is not None:
                return answer
            if answer.rest_seconds is None:
                host.rest(self._manners.back_off_seconds(attempt))
        raise AssertionError("the last attempt returns or raises")

    async def _asked(self, host: Host, url: httpx.URL, most_bytes: int) -> _Answer:
        """Ask once, in a turn of the host, and give the host the rest that it asks for; raises FetchError."""
        async with host.turn():
            if host.closed is not None:
                raise FetchError(host.closed.code, str(host.closed))
            answer = await self._once(url, most_bytes)
        rest = answer.rest_seconds if answer.is_transient else None
        if rest is not None and rest > LONGEST_REST_SECONDS:
            words = f"not asked: the server wants no request for {rest:,.0f} s"
            host.closed = FetchError(f"http_{answer.status}", words)
        elif rest is not None:
            host.rest(rest)
        return answer

    async def _once(self, url: httpx.URL, most_bytes: int) -> _Answer:
        seconds = self._manners.timeout_seconds
        # Not through httpx.AsyncClient, which keeps cookies, reads proxies and passwords from the environment, and
        # raises for a Location that is no URL, even where it does not follow redirects.
        request = httpx.Request("GET", url, headers=self._headers)
        try:
            async with (
                asyncio.timeout(seconds),
                aclosing(await self._transport.handle_async_request(request)) as response,
            ):
                data, is_cut = await _body(response, most_bytes, wants_start=url.path == _ROBOTS_PATH)
                return _Answer(url=url, status=response.status_code, headers=response.headers, data=data, is_cut=is_cut)
        except TimeoutError as error:
            raise FetchError(FetchErrorCode.TIMEOUT, f"no whole answer within {seconds:g} s", str(url)) from error
        except FetchError as error:
            raise FetchError(error.code, str(error), str(url)) from error
        except httpcore.ConnectError as error:
            # The connection itself is CheckedNetwork's.
            words = f"no secure connection to {url.host}: {error}"
            raise FetchError(FetchErrorCode.UNREACHABLE, words, str(url)) from error
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            words = "the connection ended early, or the answer is not valid HTTP"
            raise FetchError(FetchErrorCode.CONNECTION, words, str(url)) from error

    def _host(self, url: httpx.URL) -> Host:
        if url.host not in self._hosts:
            self._hosts[url.host] = Host(self._manners)
        return self._hosts[url.host]


@asynccontextmanager
async def fetching(manners: Manners, *, max_bytes: int, permits: Permits = is_public) -> AsyncIterator[Fetcher]:
    """Yield a Fetcher of files of at most `max_bytes`, from hosts at permitted addresses.

    No proxy is used and no cookie is kept.
    """
    resolvers = ThreadPoolExecutor(_RESOLVERS, "resolver")
    transport = CheckedTransport(CheckedNetwork(permits, resolvers), manners.connections)
    try:
        async with transport:
            yield Fetcher(transport, manners, max_bytes)
    finally:
        # The system's resolver cannot be stopped.
        resolvers.shutdown(wait=not is_interrupted(), cancel_futures=True)


def checked_url(text: str) -> httpx.URL:
    """Return a URL of a web server; raises FetchError (invalid_url)."""
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchError(FetchErrorCode.INVALID_URL, f"not a valid URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise FetchError(FetchErrorCode.INVALID_URL, "not an http or https URL")
    if url.port is not None and url.port > _LARGEST_PORT:
        raise FetchError(FetchErrorCode.INVALID_URL, f"the port {url.port} is above {_LARGEST_PORT}")
    if url.userinfo:
        raise FetchError(FetchErrorCode.INVALID_URL, "a URL with a user name or a password is not fetched")
    return url.copy_with(fragment=None)


def _target(url: httpx.URL, location: str) -> httpx.URL:
    try:
        return checked_url(str(url.join(location)))
    except (httpx.InvalidURL, ValueError) as error:
        raise FetchError(FetchErrorCode.INVALID_URL, f"redirected to what is not a URL: {error}", str(url)) from error
    except FetchError as error:
        raise FetchError(error.code, f"redirected: {error}", str(url)) from error


async def _body(response: httpx.Response, most_bytes: int, *, wants_start: bool) -> tuple[bytes, bool]:
    """Return an answer's bytes, at most `most_bytes`, and whether there are more; of an error or a redirect, nothing.

    A file whose header says that it is longer is only read if its start is wanted.
    """
    if response.status_code != HTTPStatus.OK:
        return b"", False
    length = response.headers.get("Content-Length", "")
    is_long = length.isascii() and length.isdigit() and int(length) > most_bytes
    if is_long and not wants_start:
        return b"", True
    data = bytearray()
    # It is a generator, which must be closed before the response is.
    async with aclosing(cast("AsyncGenerator[bytes, None]", response.aiter_raw())) as pieces:
        async for piece in pieces:
            data += piece
            if len(data) > most_bytes:
                return bytes(data[:most_bytes]), True
    return bytes(data), False


def _origin(url: httpx.URL) -> str:
    return f"{url.scheme}://{url.netloc.decode('ascii')}"


def _status_words(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
