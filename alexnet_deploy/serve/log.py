"""The server's log: one JSON object per line on stderr."""

import sys
from datetime import UTC, datetime

import msgspec

from alexnet_deploy.core.process.say import printable


def log_event(event: str, **facts: object) -> None:
    """Write one event with its facts."""
    record = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
    if sys.stderr is not None:
        sys.stderr.write(msgspec.json.encode(record).decode() + "\n")
        sys.stderr.flush()


def log_request(method: str, path: str, status: int, seconds: float) -> None:
    """Write an answered request; a client chooses its path, so control characters are escaped."""
    log_event("request", method=method, path=printable(path), status=status, ms=round(1e3 * seconds, 3))
