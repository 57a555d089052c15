import os
import tomllib
from pathlib import Path

import msgspec
import pytest

from alexnet_deploy.core.fs.opening import read_file
from alexnet_deploy.core.fs.reading import from_json, from_toml


class Record(msgspec.Struct):
    number: int = 0
    inner: msgspec.Raw = msgspec.Raw(b"null")


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b'{"number": "\xd8"}',
        b'{"number": %s}' % (b"9" * 5000),
        b'{"number": 1e999}',
        b'{"inner": %s}' % (b"[" * 100_000),
        b'{"inner": ' * 100_000,
    ],
)
def test_a_json_text_that_is_not_one_fails_in_one_way(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        from_json(text, Record)


@pytest.mark.parametrize(
    "text", ["x", "x =", "x = " + "[" * 100_000, "x = " + "9" * 5000, "x = 2026-13-45", "x = {" * 10_000, "x = 0x"]
)
def test_a_toml_text_that_is_not_one_fails_in_one_way(text: str) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        from_toml(text)


def test_a_text_that_is_one_is_read() -> None:
    assert from_json(b'{"number": 7}', Record).number == 7
    assert from_toml("x = 7") == {"x": 7}


def test_a_size_is_bounded_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, the limit is 4"):
        read_file(path, 4)
    os.truncate(path, 50 * 2**30)
    with pytest.raises(OSError, match="it has 53,687,091,200 bytes, the limit is 5"):
        read_file(path, 5)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), Path("/dev/zero")):
        with pytest.raises(OSError, match=r"it is a (pipe|device), not a regular file"):
            read_file(path, 5)
    with pytest.raises(IsADirectoryError):
        read_file(tmp_path, 5)
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "nothing", 5)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for path, most in ((tmp_path, 5), (tmp_path / "x", 5), (tmp_path / "x", 4), (Path("/dev/null"), 5)):
        try:
            read_file(path, most)
        except OSError:
            continue
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
