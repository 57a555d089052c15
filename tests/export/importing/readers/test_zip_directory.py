"""The directory of a zip archive: its limits, and where an entry's bytes lie."""

import io
import struct
import zipfile
from pathlib import Path

import pytest

from alexnet_deploy.export.importing.readers.zip_directory import ZipPart, check_apart, open_zip, stored_part


def written(path: Path, data: bytes) -> io.BufferedReader:
    path.write_bytes(data)
    return path.open("rb")


def archive(comment: bytes = b"", method: int = zipfile.ZIP_STORED, **entries: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as made:
        for name, content in entries.items():
            made.writestr(name, content)
        made.comment = comment
    return target.getvalue()


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1])
def test_a_directory_before_a_comment_of_any_length_is_found(size: int, tmp_path: Path) -> None:
    with written(tmp_path / "x", archive(b"c" * size, a=b"1", b=b"22")) as file, open_zip(file) as found:
        assert found.namelist() == ["a", "b"]


def refused(path: Path, data: bytes) -> str:
    with written(path, data) as file, pytest.raises(zipfile.BadZipFile) as caught:
        open_zip(file)
    return str(caught.value)


def test_a_directory_that_is_missing_or_too_long_is_refused(tmp_path: Path) -> None:
    words = "its directory is missing; it ends early"
    data = archive(a=b"1")
    for damaged in (b"", b"PK", data[:-1], data[:-22]):
        assert refused(tmp_path / "x", damaged) == words
    place = len(data) - 22 + 12
    longer = data[:place] + struct.pack("<I", (1 << 20) + 1) + data[place + 4 :]
    assert refused(tmp_path / "x", longer) == "its directory has 1,048,577 bytes, the limit is 1,048,576"
    # At the limit it is Python's reader that finds the file too short.
    at_limit = data[:place] + struct.pack("<I", 1 << 20) + data[place + 4 :]
    assert "the limit is" not in refused(tmp_path / "x", at_limit)


def part_of(path: Path, data: bytes, name: str, **changes: int) -> ZipPart:
    with written(path, data) as file, open_zip(file) as found:
        entry = found.getinfo(name)
        for field, value in changes.items():
            setattr(entry, field, value)
        return stored_part(file, entry)


def test_where_the_bytes_of_an_entry_lie(tmp_path: Path) -> None:
    data = archive(first=b"12345", second=b"678")
    for name, content in (("first", b"12345"), ("second", b"678")):
        begin, num_bytes = part_of(tmp_path / "x", data, name)
        assert data[begin : begin + num_bytes] == content


def test_bytes_that_are_not_there_as_they_are_are_refused(tmp_path: Path) -> None:
    data, path = archive(a=b"12345"), tmp_path / "x"
    with pytest.raises(zipfile.BadZipFile, match="a is compressed"):
        part_of(path, archive(method=zipfile.ZIP_DEFLATED, a=b"1" * 100), "a")
    with pytest.raises(zipfile.BadZipFile, match="a is compressed"):
        part_of(path, data, "a", file_size=6)
    with pytest.raises(zipfile.BadZipFile, match="a is encrypted"):
        part_of(path, data, "a", flag_bits=1)
    with pytest.raises(zipfile.BadZipFile, match="a has no header"):
        part_of(path, data, "a", header_offset=1)
    with pytest.raises(zipfile.BadZipFile, match="a has no header"):
        part_of(path, data, "a", header_offset=len(data) - 29)
    rest = len(data) - part_of(path, data, "a").begin
    assert part_of(path, data, "a", file_size=rest, compress_size=rest).num_bytes == rest
    with pytest.raises(zipfile.BadZipFile, match="a reaches beyond the end of the file"):
        part_of(path, data, "a", file_size=rest + 1, compress_size=rest + 1)


def test_parts_may_touch_and_not_overlap() -> None:
    check_apart([])
    check_apart([ZipPart(10, 5), ZipPart(0, 10), ZipPart(15, 1)])
    with pytest.raises(zipfile.BadZipFile, match="its entries overlap"):
        check_apart([ZipPart(10, 5), ZipPart(0, 11)])
