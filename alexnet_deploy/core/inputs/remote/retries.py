"""Errors of fsspec's plugins as OSError: which are transient, and what a row says.

A plugin may raise an exception of any type. Transient are time-outs, lost connections, HTTP 408, 425, 429 and 5xx, and
the errors that are transient for local files (core/fs/patience.py).
"""

import errno
import os
from collections.abc import Callable
from typing import TypeVar

from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.fs.patience import patiently
from alexnet_deploy.core.inputs.remote.urls import without_secrets

Result = TypeVar("Result")

_MOST_WORDS = 300
_TRANSIENT_STATUSES = frozenset((408, 425, 429))

# By module and name, so that no library is imported for them.
_TRANSIENT_TYPES = frozenset(
    (
        ("aiohttp", "ClientConnectionError"),
        ("aiohttp", "ClientPayloadError"),
        ("botocore", "HTTPClientError"),
        ("azure", "ServiceRequestError"),
        ("azure", "ServiceResponseError"),
    )
)
_PERMANENT_TYPES = frozenset((("aiohttp", "ClientSSLError"), ("aiohttp", "InvalidURL"), ("botocore", "SSLError")))

_OTHER_URLS = frozenset(
    ("aiohttp", name) for name in ("InvalidURL", "NonHttpUrlClientError", "NonHttpUrlRedirectClientError")
)


def remotely(attempt: Callable[[], Result]) -> Result:
    """Return the result of `attempt`, retrying after each transient error as Patience allows.

    Raises ImageError as `attempt` does, FileNotFoundError, and OSError for every other exception.
    """

    def once() -> Result:
        try:
            return attempt()
        except ImageError:
            raise
        except Exception as error:
            raise os_error_of(error) from error

    return patiently(once)


def os_error_of(error: Exception) -> OSError:
    """Return an exception of a plugin as OSError without secrets; its errno is transient if the exception is."""
    status = _status_of(error)
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        # fsspec reports every answer of a web server to its first question as a missing file.
        cause = error.__cause__
        status = _status_of(cause)
        error = error if status in (None, 404, 410) else cause
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return FileNotFoundError(errno.ENOENT, "there is no such file")
    words = _words_of(error, status)
    if status is not None and status >= 400:
        return OSError(errno.EAGAIN if _is_transient_status(status) else errno.EPROTO, words)
    kinds = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(error).__mro__}
    if kinds & _OTHER_URLS:
        words = f"not a URL of a web server: {words}"
    if kinds & _PERMANENT_TYPES:
        return OSError(errno.EPROTO, words)
    if isinstance(error, TimeoutError):
        return OSError(errno.ETIMEDOUT, words)
    if isinstance(error, ConnectionError) or kinds & _TRANSIENT_TYPES:
        return OSError(errno.ECONNRESET, words)
    number = error.errno if isinstance(error, OSError) else None
    # FileNotFoundError and its like are made by their number, so a number without its meaning is left out.
    return OSError(errno.EPROTO if number in (None, errno.ENOENT) else number, words)


def _status_of(error: Exception) -> int | None:
    """Return the HTTP status that an exception carries: of aiohttp, Azure's or Google's libraries."""
    for name in ("status", "status_code", "code"):
        status = getattr(error, name, None)
        if isinstance(status, int) and not isinstance(error, OSError) and 100 <= status < 600:
            return status
    return None


def _is_transient_status(status: int) -> bool:
    return status in _TRANSIENT_STATUSES or status >= 500


def _words_of(error: Exception, status: int | None) -> str:
    if status is not None and status >= 400:
        reason = getattr(error, "message", None)
        words = f"the server answered {status}" + (f" {reason}" if isinstance(reason, str) else "")
    elif isinstance(error, OSError) and error.errno is not None and str(error.strerror) == os.strerror(error.errno):
        words = os.strerror(error.errno)
    elif isinstance(error, OSError) and error.strerror:
        words = error.strerror
    else:
        words = str(error) or f"the connection failed ({type(error).__name__})"
    return without_secrets(" ".join(words.split()))[:_MOST_WORDS]
