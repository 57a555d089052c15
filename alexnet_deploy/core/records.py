"""JSON records with a format version and their own digest: manifests, packs, and the headers of tensor files.

The version is read before anything else, so a record of another version is reported as such and never as damaged. A
sealed record has a field `sha256`, the digest of the record with this field empty.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, TypeAlias, TypeVar, cast

import msgspec
from msgspec import Struct

from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.fs.reading import from_json


class Sealed(Protocol):
    """A msgspec Struct that holds its own digest."""

    @property
    def sha256(self) -> str:
        """The digest."""
        ...


S = TypeVar("S", bound=Sealed)

Sha256: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
"""A digest in a record: 64 hexadecimal digits, checked when the record is decoded."""

Order = Literal["deterministic"] | None
"""How the fields of dicts are ordered for the digest: by name, or None for as they were written."""


class UnknownVersionError(Exception):
    """The record has a format version that this program does not read; the message says which ones it reads."""


class ChangedRecordError(Exception):
    """The record does not match its own digest."""

    def __init__(self) -> None:
        super().__init__("the digest does not match")


class _Version(Struct, kw_only=True):
    format_version: int
    format: str | msgspec.UnsetType = msgspec.UNSET


def read_version(data: bytes | str, format_name: str, versions: Sequence[int]) -> int:
    """Return a record's format version, one of `versions`.

    A record that has a field `format` must have `format_name` there. Raises UnknownVersionError, msgspec.DecodeError.
    """
    found = from_json(data, _Version)
    name = format_name if found.format is msgspec.UNSET else found.format
    if name != format_name or found.format_version not in versions:
        *others, last = map(str, versions)
        supported = f"{', '.join(others)} and {last}" if others else last
        is_newer = name == format_name and found.format_version > max(versions)
        raise UnknownVersionError(
            f"{name} version {found.format_version} is {'newer than supported' if is_newer else 'not supported'}; "
            f"this program reads {format_name} version {supported}"
        )
    return found.format_version


def seal(record: S, order: Order) -> S:
    """Return the record with its digest filled in."""
    return _with_digest(record, digest_of_record(record, order))


def digest_of_record(record: Sealed, order: Order) -> str:
    """Return the digest that a record should hold."""
    return sha256(msgspec.json.encode(_with_digest(record, ""), order=order))


def read_sealed(data: bytes, kind: type[S], format_name: str, versions: Sequence[int], order: Order) -> S:
    """Return a sealed record.

    Raises UnknownVersionError, msgspec.DecodeError for invalid content, ChangedRecordError.
    """
    read_version(data, format_name, versions)
    record = from_json(data, kind)
    if record.sha256 != digest_of_record(record, order):
        raise ChangedRecordError
    return record


def _with_digest(record: S, digest: str) -> S:
    return cast(S, msgspec.structs.replace(cast(Struct, record), sha256=digest))
