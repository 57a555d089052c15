"""URLs among the names of inputs: which schemes there are, what each needs, and the file system behind one.

fsspec is imported when the first URL is read, never before. It takes keys, endpoints and time limits from its own
configuration files and environment variables.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import TYPE_CHECKING

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.process.installation import install_command

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scheme:
    """What reads the URLs of one scheme."""

    module: str
    """The module that fsspec needs for it."""
    package: str | None = None
    """The package with that module; None if the extra `remote` has it."""


_S3, _GCS, _AZURE = (
    _Scheme(module=name, package=package)
    for name, package in (("s3fs", "s3fs"), ("gcsfs", "gcsfs"), ("adlfs", "adlfs"))
)
_WEB, _OWN = _Scheme(module="aiohttp"), _Scheme(module="fsspec")

_SCHEMES = MappingProxyType(
    {
        "s3": _S3,
        "gs": _GCS,
        "gcs": _GCS,
        "az": _AZURE,
        "abfs": _AZURE,
        "abfss": _AZURE,
        "http": _WEB,
        "https": _WEB,
        "zip": _OWN,
        "memory": _OWN,
    }
)

# A password may hold spaces and @, which its URL need not quote.
_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/]*@")
# Not the :: of an address of IPv6, as in http://[::1]/a.jpg.
_CHAINED = re.compile(r"::(?![^\[\]/]*\])")
_QUERY = re.compile(r"(://[^\s?'\"]*\?)[^\s'\"]+")


def is_url(name: str) -> bool:
    """Return whether a name is a URL of a known scheme; others are names of local files."""
    return scheme_of(name) in _SCHEMES


def is_web(name: str) -> bool:
    """Return whether a URL is that of one file on a web server, which has no folders."""
    return scheme_of(name) in ("http", "https") and _CHAINED.search(name) is None


def scheme_of(name: str) -> str:
    """Return what stands before ://, or an empty text."""
    scheme, colon, _ = name.partition("://")
    return scheme if colon else ""


def refuse_missing_packages(url: str) -> None:
    """Raise UsageError if a package that a URL, or one that it is chained to, needs is not installed."""
    for link in url.split("::"):
        scheme = _SCHEMES.get(scheme_of(link))
        for needed in (_OWN, scheme) if scheme is not None else ():
            if find_spec(needed.module) is None:
                command = install_command("remote") if needed.package is None else f"pip install {needed.package}"
                raise UsageError(
                    f"{masked(url)}: needs {needed.module}, which is not installed; `{command}` installs it"
                )


def masked(name: str) -> str:
    """Return a URL without the password in it: rows, messages and logs are read by others."""
    return _PASSWORD.sub(r"\1:***@", name)


def without_secrets(text: str) -> str:
    """Return the words of a plugin without the passwords and the queries of URLs, which may be signatures."""
    return _QUERY.sub(r"\1...", masked(text))


def refusal_of(name: str) -> tuple[str, str] | None:
    """Return how a row names a URL of another scheme, and why it is not read; None for any other name."""
    scheme = scheme_of(name)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme) or is_url(name):
        return None
    return masked(name), f"there is no such file, and URLs of {scheme}:// are not read, only of {', '.join(_SCHEMES)}"


def file_system_of(url: str) -> "tuple[AbstractFileSystem, str]":
    """Return the file system of a URL, and the URL's path in it; raises whatever a plugin raises."""
    from fsspec import filesystem
    from fsspec.core import url_to_fs

    if is_web(url):
        return filesystem(scheme_of(url), use_listings_cache=False), url
    head, chained, tail = url.partition("::")
    if not chained:
        # A cache of listings would hold the names of all folders.
        system, path = url_to_fs(url, use_listings_cache=False)
        return system, path
    container = _container(f"{scheme_of(head)}://::{tail}")
    return container, container._strip_protocol(head)


def forget_containers() -> None:
    """Open archives again at their next use: since they were opened, others may have been put in their place."""
    _container.cache_clear()


@lru_cache(maxsize=8)
def _container(url: str) -> "AbstractFileSystem":
    """Return an archive's file system, which stays open: fsspec would read its table of contents for every file."""
    from fsspec.core import url_to_fs

    from alexnet_deploy.core.inputs.remote.zip_file import open_zip

    head, _, tail = url.partition("::")
    if scheme_of(head) == "zip" and _CHAINED.search(tail) is None:
        container, root = open_zip(tail), ""
    else:
        container, root = url_to_fs(url, use_listings_cache=False)
    # The table of contents is filled at first use, which is not safe in several threads.
    container.exists(root)
    return container
