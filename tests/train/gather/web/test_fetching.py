"""Files from a server on this machine that misbehaves."""

import asyncio
import gzip
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from web import (
    Answer,
    Site,
    endless,
    endless_headers,
    redirects,
    refuses,
    resets,
    sends,
    serving,
    talks_nonsense,
    trickles,
    unsized,
    waits,
)

from alexnet_deploy.train.gather.web.addresses import Permits
from alexnet_deploy.train.gather.web.errors import FetchError
from alexnet_deploy.train.gather.web.fetching import checked_url, fetching
from alexnet_deploy.train.gather.web.hosts import Manners

MOST_BYTES = 100_000
DATA = bytes(range(256)) * 40
HERE = ip_address("127.0.0.1")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@dataclass
class Waits:
    """A clock that only moves when somebody waits."""

    now: float = 0.0
    waited: list[float] = field(default_factory=list)

    async def sleep(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds

    def manners(self, *, retries: int = 2, timeout_seconds: float = 600) -> Manners:
        return Manners(
            delay_seconds=0.0,
            retries=retries,
            timeout_seconds=timeout_seconds,
            contact="test",
            sleep=self.sleep,
            clock=lambda: self.now,
        )


def fetched(
    *urls: str, manners: Manners | None = None, permits: Permits = lambda address: address == HERE
) -> list[tuple[str, object]]:
    """For each URL its last URL and its bytes, or the code and the message of the error."""

    async def fetch_all() -> list[tuple[str, object]]:
        outcomes: list[tuple[str, object]] = []
        async with fetching(manners or Waits().manners(), max_bytes=MOST_BYTES, permits=permits) as fetcher:
            for url in urls:
                try:
                    file = await fetcher.fetch(url)
                    outcomes.append((file.url, file.data))
                except FetchError as error:
                    outcomes.append((error.code, str(error)))
        return outcomes

    return asyncio.run(fetch_all())


def code(url: str, manners: Manners | None = None) -> str:
    ((code, _),) = fetched(url, manners=manners)
    return code


def test_a_file_comes_with_its_last_url(site: Site) -> None:
    site.put("/a.jpg", sends(DATA))
    site.put("/b.jpg", redirects("/c"))
    site.put("/c", redirects(f"{site.url}/a.jpg#top"))
    urls = [f"{site.url}/a.jpg#x", f"{site.url}/b.jpg"]
    assert fetched(*urls) == [(f"{site.url}/a.jpg", DATA)] * 2
    assert site.asked["/robots.txt"] == 1


def test_a_file_may_have_no_stated_length(site: Site) -> None:
    assert fetched(site.put("/a", unsized(DATA))) == [(f"{site.url}/a", DATA)]


def test_the_program_says_who_it_is_and_sends_no_cookies_back(site: Site) -> None:
    seen: list[dict[str, str]] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(dict(handler.headers))
        sends(DATA, Set_Cookie="id=1; Path=/")(handler)

    site.put("/a", answer)
    fetched(f"{site.url}/a", f"{site.url}/a?2")
    assert len(seen) == 2
    for headers in seen:
        assert headers["User-Agent"].startswith("alexnet-deploy/")
        assert headers["User-Agent"].endswith(" (test)")
        assert "Cookie" not in headers
        assert headers["Accept-Encoding"] == "identity"


def test_no_proxy_of_the_environment_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert fetched(site.put("/a", sends(DATA))) == [(f"{site.url}/a", DATA)]


@pytest.mark.parametrize("status", [204, 304, 400, 401, 403, 404, 410, 451])
def test_another_status_is_its_code_and_is_not_asked_for_again(status: int, site: Site) -> None:
    assert code(site.put("/a", refuses(status))) == f"http_{status}"
    assert site.asked["/a"] == 1


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_transient_status_is_asked_for_again(status: int, site: Site) -> None:
    time = Waits()
    site.put("/a", refuses(status), refuses(status), sends(DATA))
    assert fetched(f"{site.url}/a", manners=time.manners()) == [(f"{site.url}/a", DATA)]
    assert time.waited == [1.0, 4.0]
    assert code(site.put("/b", refuses(status)), time.manners()) == f"http_{status}"
    assert site.asked["/b"] == 3


def test_a_server_gets_the_rest_that_it_asks_for(site: Site) -> None:
    time = Waits()
    site.put("/a", sends(b"", status=429, Retry_After="17"), sends(b"", status=503, Retry_After="0"), sends(DATA))
    assert fetched(f"{site.url}/a", manners=time.manners()) == [(f"{site.url}/a", DATA)]
    assert time.waited == [17.0]


def test_a_server_that_asks_for_hours_is_not_asked_again(site: Site) -> None:
    time = Waits()
    site.put("/a", sends(b"", status=429, Retry_After="7200"))
    site.put("/b", sends(DATA))
    first, second = fetched(f"{site.url}/a", f"{site.url}/b", manners=time.manners())
    assert first == ("http_429", "the server answered 429 Too Many Requests")
    assert second == ("http_429", "not asked: the server wants no request for 7,200 s")
    assert (site.asked["/a"], site.asked["/b"], time.waited) == (1, 0, [])


def test_a_host_also_rests_after_the_last_attempt(site: Site) -> None:
    time = Waits()
    site.put("/a", sends(b"", status=429, Retry_After="9"))
    site.put("/b", sends(DATA))
    manners = time.manners(retries=0)
    assert [code for code, _ in fetched(f"{site.url}/a", f"{site.url}/b", manners=manners)] == [
        "http_429",
        f"{site.url}/b",
    ]
    assert time.waited == [9.0]


@pytest.mark.parametrize("answer", [resets, endless_headers, talks_nonsense, sends(DATA, length=len(DATA) + 1)])
def test_a_broken_answer_is_asked_for_again(answer: Answer, site: Site) -> None:
    site.put("/a", answer, sends(DATA))
    assert fetched(f"{site.url}/a") == [(f"{site.url}/a", DATA)]
    site.put("/b", answer)
    assert fetched(f"{site.url}/b") == [("connection", "the connection ended early, or the answer is not valid HTTP")]
    assert site.asked["/b"] == 3


def test_an_answer_that_does_not_end_has_timed_out(site: Site) -> None:
    manners = Waits().manners(retries=0, timeout_seconds=0.2)
    for path, answer in (("/a", waits(site)), ("/b", trickles(site, DATA))):
        assert fetched(site.put(path, answer), manners=manners) == [("timeout", "no whole answer within 0.2 s")]


def test_large_files_are_not_read_to_their_end(site: Site) -> None:
    for path, answer in (
        ("/a", endless()),
        ("/b", sends(b"x", length=10**15)),
        ("/c", unsized(b"x" * (MOST_BYTES + 1))),
    ):
        assert fetched(site.put(path, answer)) == [("too_large", "more than 100,000 bytes; --max-bytes sets the limit")]
    assert fetched(site.put("/d", sends(b"x" * MOST_BYTES))) == [(f"{site.url}/d", b"x" * MOST_BYTES)]


def test_a_compressed_answer_is_not_unpacked(site: Site) -> None:
    site.put("/a", sends(gzip.compress(b"0" * 10**6), Content_Encoding="gzip"))
    assert fetched(f"{site.url}/a") == [("connection", "the server sent gzip, which was not asked for")]


def test_redirects_end(site: Site) -> None:
    site.put("/a", redirects("/b"))
    site.put("/b", redirects("/a"))
    for number in range(20):
        site.put(f"/{number}", redirects(f"/{number + 1}"))
    assert fetched(f"{site.url}/a") == [("redirects", "the redirects go in a circle")]
    assert fetched(f"{site.url}/0") == [("redirects", "more than 10 redirects")]
    site.put("/9", sends(DATA))
    assert fetched(f"{site.url}/0") == [(f"{site.url}/9", DATA)]


@pytest.mark.parametrize(
    "location", ["ftp://example.org/a", "file:///etc/passwd", "http://user:s3cret@127.0.0.1/", "http://[::1"]
)
def test_a_redirect_leads_to_a_web_server_or_nowhere(location: str, site: Site) -> None:
    ((code, words),) = fetched(site.put("/a", redirects(location)))
    assert code == "invalid_url"
    assert words.startswith("redirected")
    assert "s3cret" not in words


def test_a_redirect_to_a_private_address_is_refused_before_it_is_asked(site: Site) -> None:
    asked: list[object] = []

    def permits(address: object) -> bool:
        asked.append(address)
        return address == HERE

    site.put("/a", redirects(site.url.replace("127.0.0.1", "127.0.0.2") + "/secret"))
    site.put("/secret", sends(DATA))
    assert fetched(f"{site.url}/a", permits=permits) == [
        ("private_address", "127.0.0.2 has the address 127.0.0.2, which is not public; --allow-private permits it")
    ]
    assert ip_address("127.0.0.2") in asked
    assert site.asked["/secret"] == 0


def test_a_private_address_is_refused_unless_it_is_permitted(site: Site) -> None:
    async def fetch() -> None:
        async with fetching(Manners(), max_bytes=MOST_BYTES) as fetcher:
            await fetcher.fetch(f"{site.url}/a")

    with pytest.raises(FetchError, match=r"127.0.0.1 has the address 127.0.0.1, which is not public"):
        asyncio.run(fetch())
    assert not site.asked


def test_robots_txt_is_obeyed_also_after_a_redirect(site: Site) -> None:
    site.put("/robots.txt", sends(b"User-agent: *\nDisallow: /no/\n"))
    site.put("/no/a", sends(DATA))
    site.put("/b", redirects("/no/a"))
    urls = [f"{site.url}/no/a", f"{site.url}/b"]
    assert fetched(*urls) == [("robots", "robots.txt forbids it")] * 2
    assert (site.asked["/no/a"], site.asked["/robots.txt"]) == (0, 1)


def test_robots_txt_may_be_elsewhere_and_asks_for_time(site: Site) -> None:
    time = Waits()
    site.put("/robots.txt", redirects("/rules"))
    site.put("/rules", sends(b"User-agent: *\nCrawl-delay: 5\nDisallow: /no\n"))
    site.put("/a", sends(DATA))
    codes = [code for code, _ in fetched(f"{site.url}/a", f"{site.url}/a?2", f"{site.url}/no", manners=time.manners())]
    assert codes == [f"{site.url}/a", f"{site.url}/a?2", "robots"]
    assert time.waited == [5.0]


@pytest.mark.parametrize(
    ("answer", "code", "num_asked"),
    [(refuses(500), "robots", 3), (resets, "connection", 3), (sends(b"", Content_Encoding="br"), "robots", 1)],
)
def test_a_robots_txt_that_cannot_be_read_permits_nothing(
    answer: Answer, code: str, num_asked: int, site: Site
) -> None:
    site.put("/robots.txt", answer)
    site.put("/a", sends(DATA))
    assert [found for found, _ in fetched(f"{site.url}/a", f"{site.url}/a?2")] == [code] * 2
    assert (site.asked["/a"], site.asked["/robots.txt"]) == (0, num_asked)


def test_a_long_robots_txt_holds_as_far_as_it_is_read(site: Site) -> None:
    site.put("/robots.txt", sends(b"User-agent: *\nDisallow: /no\n" + b"#" * 10**6))
    site.put("/no", sends(DATA))
    assert code(f"{site.url}/no") == "robots"


def test_a_robots_txt_that_is_redirected_for_ever_is_missing(site: Site) -> None:
    site.put("/robots.txt", redirects("/robots.txt"))
    site.put("/a", sends(DATA))
    assert code(f"{site.url}/a") == f"{site.url}/a"


def test_a_host_that_is_not_there_is_unreachable() -> None:
    assert code("http://127.0.0.1:1/a") == "unreachable"
    assert code("http://no-such-host.invalid/a") == "unreachable"


def test_a_server_without_a_certificate_is_unreachable(site: Site) -> None:
    ((found, words),) = fetched(f"{site.url.replace('http', 'https')}/a")
    assert found == "unreachable"
    assert words.startswith("no secure connection to 127.0.0.1: ")


@pytest.mark.parametrize(
    "text",
    [
        *("", "a.jpg", "/a.jpg", "ftp://example.org/a", "file:///etc/passwd", "data:image/gif;base64,R0", "http://"),
        *("http:///a", "http://[::1", "http://user@example.org/a", "https://user:s3cret@example.org/a", "http://a:b/"),
        *("http://example.org:99999999/", "javascript:alert(1)", "http://\x00/"),
    ],
)
def test_what_is_not_a_url_of_a_web_server_is_refused(text: str) -> None:
    with pytest.raises(FetchError) as caught:
        checked_url(text)
    assert caught.value.code == "invalid_url"
    assert "s3cret" not in str(caught.value)


@given(st.text() | st.text().map(lambda text: f"http://{text}") | st.text().map(lambda text: f"http://a.org/{text}"))
def test_any_text_is_a_url_or_is_refused(text: str) -> None:
    with suppress(FetchError):
        url = checked_url(text)
        assert url.scheme in ("http", "https")
        assert url.host
