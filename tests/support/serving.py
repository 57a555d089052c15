"""A server in a process of its own, as a user starts it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from commands import HANGS_AFTER_S, MAIN


@dataclass(kw_only=True)
class Server:
    process: subprocess.Popen[str]
    log: Path
    scheme: str = "http"
    events: list[dict[str, object]] = field(default_factory=list)

    def read_log(self) -> list[dict[str, object]]:
        """Return the events so far; other lines are a failure."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.endswith("}")]

    @property
    def url(self) -> str:
        (listening,) = [event for event in self.read_log() if event["event"] == "listening"]
        return f"{self.scheme}://127.0.0.1:{listening['port']}"

    def wait_for(self, event: str) -> dict[str, object]:
        end = time.monotonic() + HANGS_AFTER_S
        while time.monotonic() < end:
            found = [one for one in self.read_log() if one["event"] == event]
            if found:
                return found[-1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)
        raise AssertionError(f"no event {event}: {self.log.read_text()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(HANGS_AFTER_S)


@contextmanager
def serving(folder: Path, *arguments: object, scheme: str = "http", until: str = "ready") -> Iterator[Server]:
    """Start `serve` on a free port, wait for an event, and end it with the block."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    command = [sys.executable, "-c", MAIN, "serve", *map(str, arguments), "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stderr=file, text=True, cwd=folder, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        )
    server = Server(process=process, log=log, scheme=scheme)
    try:
        server.wait_for(until)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def post(url: str, body: bytes, **options: object) -> httpx.Response:
    return httpx.post(url, content=body, timeout=HANGS_AFTER_S, **options)  # type: ignore[arg-type]
