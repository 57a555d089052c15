"""Refuse the addresses of private networks, at the moment of connecting.

A list from the web may name hosts whose address is this machine's, a router's or a cloud's metadata service, and a name
may get such an address after it was checked. So each name is resolved once, its addresses are checked, and the
connection goes to the checked address; each redirect makes its own connection.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Executor
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

import httpcore
import httpx

from alexnet_deploy.train.gather.web.errors import FetchError, FetchErrorCode

Address: TypeAlias = IPv4Address | IPv6Address
Permits: TypeAlias = Callable[[Address], bool]

# Python 3.11 takes the first for public: IANA's protocol assignments, with the metadata service of Oracle's cloud. The
# second is public, but stands for Azure's metadata and name service. The other clouds' are in private ranges.
_RESERVED = (IPv4Network("192.0.0.0/24"), IPv4Network("168.63.129.16/32"))

# RFC 6052 and RFC 8215: IPv4 addresses behind a translator.
_TRANSLATED = (IPv6Network("64:ff9b::/96"), IPv6Network("64:ff9b:1::/48"))


def is_public(address: Address) -> bool:
    """Return whether an address is reachable from everywhere, and so are the IPv4 addresses that it contains.

    Source: IANA's special-purpose registries, as in ipaddress.is_global.
    """
    if not address.is_global or address.is_multicast or any(address in network for network in _RESERVED):
        return False
    return isinstance(address, IPv4Address) or all(is_public(inner) for inner in _inner(address))


def _inner(address: IPv6Address) -> list[IPv4Address]:
    """Return the IPv4 addresses that packets to an IPv6 address are sent on to."""
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _TRANSLATED):
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [inner for inner in found if inner is not None]


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connections to permitted addresses only."""

    def __init__(
        self, permits: Permits, resolvers: Executor, network: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        """Check addresses with `permits`; resolve names in the threads of `resolvers`; connect through `network`."""
        self._permits = permits
        self._resolvers = resolvers
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Return a connection to one of the host's addresses, tried in the resolver's order.

        Raises FetchError (private_address, if one of them is not permitted; unreachable).
        """
        addresses = await self._resolved(host, port)
        for address in addresses:
            if not self._permits(address):
                raise FetchError(
                    FetchErrorCode.PRIVATE_ADDRESS,
                    f"{host} has the address {address}, which is not public; --allow-private permits it",
                )
        for address in addresses:
            try:
                # The address, not the name: a second look-up could give another one.
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except httpcore.ConnectError:
                continue
        raise FetchError(FetchErrorCode.UNREACHABLE, f"{host} refuses the connection, or cannot be reached")

    async def sleep(self, seconds: float) -> None:
        """Wait between two attempts of the connection pool."""
        await self._network.sleep(seconds)

    async def _resolved(self, host: str, port: int) -> list[Address]:
        def look_up() -> list[Address]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return [ip_address(place[0]) for *_, place in found]

        try:
            return await asyncio.get_running_loop().run_in_executor(self._resolvers, look_up)
        except (OSError, UnicodeError) as error:
            raise FetchError(FetchErrorCode.UNREACHABLE, f"{host} has no address") from error


class CheckedTransport(httpx.AsyncBaseTransport):
    """HTTP/1.1 over a CheckedNetwork, without proxies; raises httpcore's exceptions and FetchError.

    httpx.AsyncHTTPTransport does not take a network of the caller's.
    """

    def __init__(self, network: CheckedNetwork, connections: int) -> None:
        """Keep at most this many connections open."""
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_certificates(), max_connections=connections, network_backend=network
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; the caller closes the response."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        response = await self._pool.handle_async_request(
            httpcore.Request(method=request.method, url=url, headers=request.headers.raw, extensions=request.extensions)
        )
        return httpx.Response(status_code=response.status, headers=response.headers, stream=_Body(response))

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


@cache
def _certificates() -> ssl.SSLContext:
    """Return the trusted certificates, which take 50 ms to load."""
    return httpx.create_ssl_context()


class _Body(httpx.AsyncByteStream):
    """The bytes of an answer as they arrive."""

    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.aiter_stream()

    async def aclose(self) -> None:
        await self._response.aclose()
