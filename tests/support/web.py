"""A web server on this machine that answers as a test says."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias

Answer: TypeAlias = Callable[[BaseHTTPRequestHandler], None]


@dataclass(kw_only=True)
class Site:
    url: str = ""
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    """The answers of each path, one after another; the last one repeats."""
    asked: Counter[str] = field(default_factory=Counter)
    quit: threading.Event = field(default_factory=threading.Event)
    """Set when the test ends, for answers that wait."""

    def put(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return self.url + path


def sends(data: bytes, *, length: int | None = None, status: int = 200) -> Answer:
    """The whole file; `length` is what its header says."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def sends_parts(data: bytes, *, shift: int = 0) -> Answer:
    """The part that is asked for, as a web server does for a file on its disk; or one `shift` bytes behind it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        if wanted is None:
            sends(data)(handler)
            return
        first, last = map(int, wanted.removeprefix("bytes=").split("-"))
        first, last = first + shift, last + shift
        part = data[first : last + 1]
        if not part:
            sends(b"", status=416)(handler)
            return
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(part)))
        handler.end_headers()
        handler.wfile.write(part)

    return answer


def refuses(status: int) -> Answer:
    return sends(b"an error", status=status)


def endless(piece: bytes = b"x" * 65536, *, with_range: bool = False) -> Answer:
    """No Content-Length, and no end."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(206 if with_range else 200)
        if with_range:
            handler.send_header("Content-Range", "bytes 0-511/1099511627776")
        handler.end_headers()
        while True:
            handler.wfile.write(piece)

    return answer


def unsized(data: bytes) -> Answer:
    """No Content-Length; the end of the connection is the end of the file."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def redirects(url: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@contextmanager
def serving() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            answers = site.answers.get(path, [refuses(404)])
            number = min(site.asked[path], len(answers) - 1)
            site.asked[path] += 1
            try:
                answers[number](self)
            except OSError:
                # The other side has had enough.
                self.close_connection = True

        def do_HEAD(self) -> None:
            self.send_response(405)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield site
    finally:
        site.quit.set()
        server.shutdown()
        thread.join()
        server.server_close()
