import re

import msgspec
import pytest
from msgspec import Struct

from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.records import (
    ChangedRecordError,
    UnknownVersionError,
    digest_of_record,
    read_sealed,
    read_version,
    seal,
)


class Shelf(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format_version: int
    books: dict[str, int]
    sha256: str = ""


SHELF = Shelf(format_version=2, books={"b": 1, "a": 2})


def read(data: bytes) -> Shelf:
    return read_sealed(data, Shelf, "shelf", (1, 2), order=None)


def test_sealed_record_is_read_back() -> None:
    sealed = seal(SHELF, order=None)
    assert sealed.sha256 == sha256(b'{"format_version":2,"books":{"b":1,"a":2},"sha256":""}')
    assert read(msgspec.json.encode(sealed)) == sealed


def test_digest_depends_on_the_order_that_is_asked_for() -> None:
    assert digest_of_record(SHELF, "deterministic") != digest_of_record(SHELF, None)
    other = msgspec.structs.replace(SHELF, books={"a": 2, "b": 1})
    assert digest_of_record(SHELF, "deterministic") == digest_of_record(other, "deterministic")


@pytest.mark.parametrize(
    ("version", "why"),
    [
        (0, "shelf version 0 is not supported; this program reads shelf version 1 and 2"),
        (3, "shelf version 3 is newer than supported; this program reads shelf version 1 and 2"),
    ],
)
@pytest.mark.parametrize("content", ['"books":{}', '"books":"none"', '"pens":[1]', '"sha256":"00"'])
def test_other_version_is_never_called_damaged(version: int, why: str, content: str) -> None:
    with pytest.raises(UnknownVersionError, match=f"^{why}$"):
        read(f'{{"format_version":{version},{content}}}'.encode())


def test_other_format_is_named_by_its_own_name() -> None:
    with pytest.raises(
        UnknownVersionError, match=r"^rack version 9 is not supported; this program reads shelf version 2$"
    ):
        read_version('{"format":"rack","format_version":9}', "shelf", (2,))
    assert read_version('{"format":"shelf","format_version":2}', "shelf", (2,)) == 2


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"{}", b'{"format_version":"2"}', b'{"format_version":2}', b"\xff", b"[" * 10_000, b"9" * 9999],
)
def test_invalid_text_is_one_type_of_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        read(data)


def test_changed_record_is_refused() -> None:
    whole = msgspec.json.encode(seal(SHELF, order=None))
    for changed in (whole.replace(b'"a":2', b'"a":3'), re.sub(rb'"sha256":"\w+"', b'"sha256":""', whole)):
        assert changed != whole
        with pytest.raises(ChangedRecordError, match=r"^the digest does not match$"):
            read(changed)
