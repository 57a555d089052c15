"""Why a URL gives no file."""

from enum import StrEnum


class FetchErrorCode(StrEnum):
    """Reason why a URL gives no file; for an HTTP status other than 200 the code is `http_` and the status."""

    INVALID_URL = "invalid_url"
    """Not a URL of a web server, or one with a user name."""
    PRIVATE_ADDRESS = "private_address"
    """The host is in a private network, or is this machine."""
    ROBOTS = "robots"
    """The server's robots.txt forbids it."""
    UNREACHABLE = "unreachable"
    """The host has no address, refuses the connection, or has no valid certificate."""
    TIMEOUT = "timeout"
    """The answer was not complete in time."""
    CONNECTION = "connection"
    """The connection ended early, or the answer is not valid HTTP."""
    REDIRECTS = "redirects"
    """Too many redirects, or redirects in a circle."""
    TOO_LARGE = "too_large"
    """More bytes than the limit."""


class FetchError(Exception):
    """A URL gives no file; `code` and the message say why, `url` is the last one that was asked for, if any."""

    def __init__(self, code: str, message: str, url: str | None = None) -> None:
        super().__init__(message)
        self.code = str(code)
        self.url = url
