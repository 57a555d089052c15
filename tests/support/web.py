"""A web server on this machine that answers as a test says."""

import os
import socket
import struct
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


def sends(data: bytes, *, length: int | None = None, status: int = 200, **headers: str) -> Answer:
    """The whole file; `length` is what its header says; the names of other headers have _ for -."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
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


def waits(site: Site) -> Answer:
    """No answer before the test ends."""
    return lambda handler: site.quit.wait() and None


def trickles(site: Site, data: bytes) -> Answer:
    """A part of the file, and the rest never."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2])
        site.quit.wait()

    return answer


def resets(handler: BaseHTTPRequestHandler) -> None:
    """The connection is reset: lost data are not waited for."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())


def endless_headers(handler: BaseHTTPRequestHandler) -> None:
    """A status, and headers without an end."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        handler.wfile.write(b"X-Bomb: " + b"x" * 1000 + b"\r\n")


def talks_nonsense(handler: BaseHTTPRequestHandler) -> None:
    """What is not HTTP."""
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


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
