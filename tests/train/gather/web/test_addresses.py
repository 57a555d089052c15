"""Which addresses are refused, and that the checked address is the one that is connected to."""

import asyncio
import socket
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import httpcore
import pytest

from alexnet_deploy.train.gather.web.addresses import Address, CheckedNetwork, is_public
from alexnet_deploy.train.gather.web.errors import FetchError


@pytest.mark.parametrize("text", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808"])
def test_an_address_of_the_internet_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "172.31.255.255", "192.168.1.1"),
        *("169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "224.0.0.1"),
        *("255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1"),
        *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::"),
    ],
)
def test_an_address_that_is_not_of_the_internet_is_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


class Recorder(httpcore.AsyncNetworkBackend):
    """A network that connects to nothing, except to `reachable`."""

    def __init__(self, *reachable: str) -> None:
        self.reachable = reachable
        self.asked: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        self.asked.append(host)
        if host not in self.reachable:
            raise httpcore.ConnectError("refused")
        return httpcore.AsyncMockStream([])


def connect(
    monkeypatch: pytest.MonkeyPatch, answers: list[list[str]], network: Recorder, permits: type | None = None
) -> None:
    """Connect to a host whose name gives these addresses, one answer after another."""

    def look_up(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers.pop(0)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with ThreadPoolExecutor(1) as resolvers:
        asyncio.run(CheckedNetwork(is_public, resolvers, network).connect_tcp("pictures.example", 80))


def test_the_checked_address_is_connected_to_and_the_name_is_not_looked_up_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = Recorder("93.184.216.34")
    answers = [["93.184.216.34"], ["127.0.0.1"]]
    connect(monkeypatch, answers, network)
    assert network.asked == ["93.184.216.34"]
    assert answers == [["127.0.0.1"]]


def test_a_name_with_one_private_address_is_refused_before_any_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Recorder("93.184.216.34")
    with pytest.raises(FetchError, match=r"pictures.example has the address 10.0.0.7, which is not public") as caught:
        connect(monkeypatch, [["93.184.216.34", "10.0.0.7"]], network)
    assert caught.value.code == "private_address"
    assert network.asked == []


def test_the_next_address_is_tried_where_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Recorder("8.8.8.8")
    connect(monkeypatch, [["93.184.216.34", "8.8.8.8"]], network)
    assert network.asked == ["93.184.216.34", "8.8.8.8"]
    with pytest.raises(FetchError, match="refuses the connection, or cannot be reached") as caught:
        connect(monkeypatch, [["93.184.216.34"]], network)
    assert caught.value.code == "unreachable"


def test_an_odd_spelling_of_an_address_is_checked_too() -> None:
    network = Recorder("127.0.0.1")
    refused: list[Address] = []

    def permits(address: Address) -> bool:
        refused.append(address)
        return False

    with ThreadPoolExecutor(1) as resolvers:
        for spelling in ("2130706433", "0x7f.1", "127.1"):
            with pytest.raises(FetchError, match=r"has the address 127.0.0.1"):
                asyncio.run(CheckedNetwork(permits, resolvers, network).connect_tcp(spelling, 80))
    assert refused == [ip_address("127.0.0.1")] * 3
    assert network.asked == []
