import gzip
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import fsspec
import pytest
from archives import tar_of
from web import Answer, Site, endless, redirects, refuses, sends, sends_parts, serving, unsized

from alexnet_deploy.core.errors import ImageError, ImageErrorCode
from alexnet_deploy.core.fs import patience
from alexnet_deploy.core.images.decode import DecodeLimits
from alexnet_deploy.core.inputs.item import Input
from alexnet_deploy.core.inputs.paths import find_inputs
from alexnet_deploy.core.inputs.remote.reading import RemoteFile

DATA = bytes(range(256)) * 300
SMALL = DecodeLimits(max_bytes=100_000)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(wait=waits.append, silence_seconds=5.0))
    return waits


def read(url: str, limits: DecodeLimits = SMALL) -> bytes:
    (item,) = find_inputs([url])
    assert item.name == url
    assert item.file is not None
    return item.file.read(limits)


def error_of(url: str, limits: DecodeLimits = SMALL) -> tuple[str, str]:
    with pytest.raises(ImageError) as raised:
        read(url, limits)
    return raised.value.code.value, str(raised.value)


@pytest.mark.parametrize(
    "answer", [sends(DATA), sends_parts(DATA), unsized(DATA)], ids=["sized", "in parts", "without a size"]
)
def test_a_file_on_a_web_server_is_read_whole_with_one_request(answer: Answer, site: Site) -> None:
    site.put("/a%20b%5B1%5D.jpg", answer)
    assert read(f"{site.url}/a%20b[1].jpg?x=*") == DATA
    assert sum(site.asked.values()) == 1


def test_a_redirect_is_followed(site: Site) -> None:
    assert read(site.put("/a.jpg", redirects(site.put("/b.jpg", sends(DATA))))) == DATA


def test_a_redirect_to_a_file_is_refused_in_words(site: Site) -> None:
    found = error_of(site.put("/a.jpg", redirects("file:///etc/hostname")))
    assert found == ("unreadable", "not a URL of a web server: file:///etc/hostname")


def test_a_zip_archive_whose_server_sends_more_than_asked_for_is_not_read_on(site: Site) -> None:
    url = site.put("/p.zip", endless(with_range=True))
    (item,) = find_inputs([f"zip://*.jpg::{url}"])
    assert item.error == ("unreadable", "the server sent more than the part that was asked for")


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_not_there_is_missing(status: int, site: Site, waits: list[float]) -> None:
    assert error_of(site.put("/a.jpg", refuses(status))) == ("missing", "there is no such file")
    assert waits == []


@pytest.mark.parametrize("status", [400, 401, 403, 451])
def test_a_refusal_is_an_answer_at_once(status: int, site: Site, waits: list[float]) -> None:
    code, words = error_of(site.put("/a.jpg", refuses(status)))
    assert code == "unreadable"
    assert words.startswith(f"the server answered {status} ")
    assert (waits, site.asked["/a.jpg"]) == ([], 1)


def closes_early(handler: BaseHTTPRequestHandler) -> None:
    sends(DATA[:5000], length=len(DATA))(handler)


def closes_at_once(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


TRANSIENT = {
    "500": refuses(500),
    "503": refuses(503),
    "429": refuses(429),
    "408": refuses(408),
    "closed in the middle": closes_early,
}


@pytest.mark.parametrize("name", TRANSIENT)
def test_a_transient_error_is_met_with_three_more_requests(name: str, site: Site, waits: list[float]) -> None:
    assert read(site.put("/a.jpg", TRANSIENT[name], TRANSIENT[name], sends(DATA))) == DATA
    assert waits == [0.1, 0.5]
    waits.clear()
    code, words = error_of(site.put("/b.jpg", TRANSIENT[name]))
    assert code == "unreadable"
    assert words
    assert (waits, site.asked["/b.jpg"]) == ([0.1, 0.5, 2.0], 4)


def test_a_connection_closed_at_once_is_tried_again(site: Site, waits: list[float]) -> None:
    # aiohttp tries once more by itself.
    assert read(site.put("/a.jpg", *[closes_at_once] * 4, sends(DATA))) == DATA
    assert waits == [0.1, 0.5]
    assert error_of(site.put("/b.jpg", closes_at_once))[0] == "unreadable"


def test_a_server_that_sends_nothing_times_out(site: Site, waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(wait=waits.append, silence_seconds=0.2))

    def waits_for_ever(_: BaseHTTPRequestHandler) -> None:
        site.quit.wait()

    code, _ = error_of(site.put("/a.jpg", waits_for_ever))
    assert code == "unreadable"
    assert (waits, site.asked["/a.jpg"]) == ([0.1, 0.5, 2.0], 4)


def test_a_server_that_is_not_there_is_tried_again(site: Site, waits: list[float]) -> None:
    code, words = error_of("http://127.0.0.1:1/a.jpg")
    assert code == "unreadable"
    assert "127.0.0.1" in words
    assert waits == [0.1, 0.5, 2.0]


@pytest.mark.parametrize(
    "answer",
    [sends(bytes(100_001)), endless(), unsized(bytes(200_000)), sends(b"", length=2**50)],
    ids=["stated", "endless", "without a size", "stated only"],
)
def test_a_file_over_the_limit_is_not_read_whole(answer: Answer, site: Site, waits: list[float]) -> None:
    code, words = error_of(site.put("/a.jpg", answer))
    assert code == "too_large"
    assert words.endswith("the limit is 100,000")
    assert (waits, site.asked["/a.jpg"]) == ([], 1)


def test_a_small_answer_that_unpacks_to_a_large_one_is_limited(site: Site) -> None:
    packed = gzip.compress(bytes(50_000_000))
    assert len(packed) < SMALL.max_bytes

    def bomb(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Encoding", "gzip")
        handler.send_header("Content-Length", str(len(packed)))
        handler.end_headers()
        handler.wfile.write(packed)

    assert error_of(site.put("/a.jpg", bomb))[0] == "too_large"


def test_no_message_holds_a_password_or_a_signature(site: Site) -> None:
    url = site.put("/a.jpg", refuses(403)).replace("http://", "http://me:secret@") + "?sig=secret"
    (item,) = find_inputs([url])
    assert item.name == url.replace("me:secret", "me:***")
    assert item.file is not None
    with pytest.raises(ImageError) as raised:
        item.file.read(SMALL)
    assert "secret" not in str(raised.value)
    assert "secret" not in repr(item.file)
    nowhere = RemoteFile(url="http://me:secret@127.0.0.1:1/a.jpg?sig=secret")
    with pytest.raises(ImageError) as raised:
        nowhere.read(SMALL)
    assert "secret" not in str(raised.value)


# Other stores


class SurlyError(Exception):
    """What a plugin may raise: nothing that is known here."""


def test_a_chain_says_what_the_web_server_answered(site: Site) -> None:
    url = f"zip://a.jpg::{site.put('/p.zip', refuses(403))}"
    (item,) = find_inputs([url])
    assert item.error == (ImageErrorCode.UNREADABLE, "the server answered 403 Forbidden")
    (item,) = find_inputs([f"zip://a.jpg::{site.url}/gone.zip"])
    assert item.error == (ImageErrorCode.MISSING, "there is no such file")


def test_the_words_of_a_plugin_are_short_and_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/plugin/a.jpg", DATA)
    (item,) = find_inputs(["memory://plugin/a.jpg"])
    words = "no:\n 'https://me:secret@host/a?sig=secret&x=1' " + "x" * 1000

    def fail(*_: object, **__: object) -> bytes:
        raise ValueError(words)

    monkeypatch.setattr(type(system), "cat_file", fail)
    assert item.file is not None
    with pytest.raises(ImageError) as raised:
        item.file.read(SMALL)
    assert str(raised.value).startswith("no: 'https://me:***@host/a?...' xxx")
    assert len(str(raised.value)) == 300


@pytest.mark.parametrize("error", [SurlyError("no reason"), KeyError("ETag"), RuntimeError(), MemoryError()])
def test_whatever_a_plugin_raises_is_a_row(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    system.pipe("/plugin/a.jpg", DATA)
    (item,) = find_inputs(["memory://plugin/a.jpg"])

    def fail(*_: object, **__: object) -> bytes:
        raise error

    monkeypatch.setattr(type(system), "cat_file", fail)
    assert item.file is not None
    with pytest.raises(ImageError) as raised:
        item.file.read(SMALL)
    assert raised.value.code == ImageErrorCode.UNREADABLE
    assert str(raised.value)


def test_a_file_that_grew_since_it_was_listed_is_read_whole() -> None:
    system = fsspec.filesystem("memory")
    system.pipe({"/grown/a.jpg": b"short", "/grown/b.jpg": b"", "/grown/c.jpg": bytes(100_001)})
    grown, empty, large = find_inputs(["memory://grown"])
    system.pipe("/grown/a.jpg", DATA)
    for item, expected in ((grown, DATA), (empty, b"")):
        assert item.file is not None
        assert item.file.read(SMALL) == expected
    assert large.file is not None
    with pytest.raises(ImageError, match="100,001 bytes, the limit is 100,000"):
        large.file.read(SMALL)


# Archives on web servers


def rows_of(url: str) -> list[str]:
    return [row(item) for item in find_inputs([url])]


def row(item: Input) -> str:
    return f"{item.name} {item.error[0]}" if item.error else item.name


def test_an_archive_on_a_web_server_is_read_in_parts(site: Site) -> None:
    files = {"0.jpg": b"x" * 3000, "0.cls": b"1", "1.jpg": bytes(3 << 20), "2.jpg": b"y", "3.jpg": b""}
    url = site.put("/shard.tar", sends_parts(tar_of(files)))
    limits = DecodeLimits()
    found = {item.name: item.file and item.file.read(limits) for item in find_inputs([f"{url}?v=1"])}
    assert found == {f"{url}?v=1/{name}": data for name, data in files.items() if ".cls" not in name}
    # Its size, two windows and the large image.
    assert site.asked["/shard.tar"] == 4


@pytest.mark.parametrize(
    ("answers", "rows"),
    [
        ((refuses(404),), ["missing"]),
        ((refuses(403),), ["unreadable"]),
        ((sends(tar_of({"0.jpg": b"x"})),), ["unreadable"]),
        ((endless(with_range=True),), ["unreadable"]),
        ((sends_parts(b"x" * 512 + tar_of({"0.jpg": b"x"}), shift=512),), ["unreadable"]),
        ((sends_parts(b""),), ["empty"]),
        ((sends_parts(b"<html>" + bytes(600)),), ["not_an_image"]),
        ((sends_parts(tar_of({"0.jpg": b"x"})[:1024]),), ["/0.jpg", "truncated"]),
        ((refuses(500), refuses(429), sends_parts(tar_of({"0.jpg": b"x"}))), ["/0.jpg"]),
    ],
)
def test_an_archive_that_is_not_served_has_one_row_of_its_own(
    answers: tuple[Answer, ...], rows: list[str], site: Site
) -> None:
    url = site.put("/a.tar", *answers)
    assert rows_of(url) == [f"{url}{row}" if row.startswith("/") else f"{url} {row}" for row in rows]


def test_an_archive_that_lasts_for_part_of_its_windows_only(site: Site, waits: list[float]) -> None:
    data = tar_of({f"{number}.jpg": bytes(700_000) for number in range(4)})
    url = site.put("/a.tar", sends_parts(data), sends_parts(data), refuses(503))
    assert rows_of(url) == [f"{url}/0.jpg", f"{url}/1.jpg", f"{url} unreadable"]
    assert waits == [0.1, 0.5, 2.0]
