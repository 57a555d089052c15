"""The turns of one host, on a clock that only moves when somebody waits."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.train.gather.web.hosts import Host, Manners, rest_asked_for


@dataclass
class Clock:
    now: float = 100.0
    waits: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now = max(self.now, self.now + seconds)
        await asyncio.sleep(0)

    def manners(self, *, per_host: int = 2, delay_seconds: float = 0.5) -> Manners:
        return Manners(per_host=per_host, delay_seconds=delay_seconds, sleep=self.sleep, clock=lambda: self.now)


def test_requests_to_one_host_start_one_delay_apart() -> None:
    clock = Clock()
    starts: list[float] = []

    async def ask(host: Host) -> None:
        async with host.turn():
            starts.append(clock.now)

    async def ask_all() -> None:
        host = Host(clock.manners(delay_seconds=0.5))
        for _ in range(4):
            await ask(host)

    asyncio.run(ask_all())
    assert starts == [100.0, 100.5, 101.0, 101.5]


def test_no_more_requests_than_allowed_are_open_at_a_time() -> None:
    clock = Clock()
    num_open = most_open = 0

    async def ask(host: Host, release: asyncio.Event) -> None:
        nonlocal num_open, most_open
        async with host.turn():
            num_open += 1
            most_open = max(most_open, num_open)
            await release.wait()
            num_open -= 1

    async def ask_all() -> None:
        host, release = Host(clock.manners(per_host=3, delay_seconds=0.0)), asyncio.Event()
        tasks = [asyncio.create_task(ask(host, release)) for _ in range(10)]
        while num_open < 3:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        release.set()
        await asyncio.gather(*tasks)

    asyncio.run(ask_all())
    assert most_open == 3


def test_a_rest_and_a_longer_delay_hold_for_all_later_requests() -> None:
    clock = Clock()

    async def ask_all() -> list[float]:
        host = Host(clock.manners(delay_seconds=0.5))
        starts = []
        for number in range(4):
            async with host.turn():
                starts.append(clock.now)
            if number == 0:
                host.rest(30)
            if number == 1:
                host.slow_down(7)
                host.slow_down(2)
        return starts

    assert asyncio.run(ask_all()) == [100.0, 130.0, 130.5, 137.5]


def test_retry_after_is_a_number_or_a_date() -> None:
    assert rest_asked_for("17") == 17.0
    assert rest_asked_for("9" * 5000) == float("inf")
    soon = rest_asked_for(format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))
    assert soon is not None
    assert 3000 < soon <= 3600
    assert rest_asked_for("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    for text in (None, "", "soon", "-5", "1.5", "٣", "Wed, 99 Oct 99999 07:28:00 GMT"):
        assert rest_asked_for(text) is None


def test_the_user_agent_names_the_program_and_whom_to_ask() -> None:
    assert Manners().user_agent.startswith("alexnet-deploy/")
    assert Manners(contact="https://example.org/bot").user_agent.endswith(" (https://example.org/bot)")
    with pytest.raises(UsageError, match="printable ASCII"):
        Manners(contact="a\r\nX-Other: b")


@pytest.mark.parametrize(
    "wrong",
    [{"per_host": 0}, {"connections": 0}, {"retries": -1}, {"delay_seconds": float("nan")}, {"timeout_seconds": 0}],
)
def test_manners_that_nobody_can_have_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be"):
        Manners(**wrong)  # type: ignore[arg-type]
