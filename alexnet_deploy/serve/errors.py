"""What a client did wrong, with the HTTP status that says so."""

from collections.abc import Mapping


class RequestError(Exception):
    """A request that is refused; the message is one sentence for the client."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})


class BusyError(RequestError):
    """The queue is full; the client may try again."""

    def __init__(self, message: str) -> None:
        super().__init__(429, message, {"Retry-After": "1"})
