import io
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from alexnet_deploy.core.errors import ImageErrorCode, UsageError
from alexnet_deploy.core.inputs.lists import find_listed, read_list


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def found(listed: Iterable[bytes | None], sources: tuple[str, ...] = ("-",)) -> list[str | None]:
    """The names, with a ! after each input that has an error, and None where the list stops for now."""
    return [item and item.name + ("!" if item.error else "") for item in find_listed(sources, listed)]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_list_is_read_where_the_dash_stands() -> None:
    touch("d/a.jpg", "d/b.jpg")
    listed = (b"x.jpg\n", b"d\n", b"d/b*\n", b"last")
    assert found(listed, ("first", "-", "then")) == [
        "first",
        "x.jpg",
        "d/a.jpg",
        "d/b.jpg",
        "d/b*",
        "last",
        "then",
    ]


def test_a_name_from_a_list_is_no_pattern() -> None:
    touch("d/photo1.jpg", "d/photo2.jpg")
    assert found((b"d/photo[12].jpg",)) == ["d/photo[12].jpg"]


def test_line_ends_of_any_kind_and_blank_lines_are_no_names() -> None:
    assert found((b"a.jpg\r\n", b"\n", b"\r\n", b"", b" b .jpg \n", b"-\n")) == ["a.jpg", " b .jpg ", "-"]


def test_a_list_may_hold_any_bytes() -> None:
    names = found((b"caf\xe9\xff.jpg\n", b"n\0l/*\n", b"x" * 5000))
    assert [name and os.fsencode(name) for name in names] == [b"caf\xe9\xff.jpg", b"n\0l/*!", b"x" * 5000]


def test_a_byte_order_mark_is_no_part_of_the_first_name() -> None:
    assert found((b"\xef\xbb\xbfa.jpg\r\n", b"\xef\xbb\xbfb.jpg\n")) == ["a.jpg", "\ufeffb.jpg"]
    assert found((b"\xef\xbb\xbf\n", b"a.jpg")) == ["a.jpg"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_in_utf_16_is_refused_with_what_converts_it(encoding: str) -> None:
    lines = io.BytesIO("\ufeffa.jpg\nb.jpg\n".encode(encoding))
    with pytest.raises(UsageError, match=r"^the list is in UTF-16; convert it: `iconv -f UTF-16 -t UTF-8 LIST \| "):
        found(read_list(lines))
    touch(os.fsdecode(b"\xff\xfea.jpg"))
    assert found((b"\xff\xfea.jpg\n",)) == [os.fsdecode(b"\xff\xfea.jpg")]


@pytest.mark.parametrize("first", [b"a.jpg\0b.jpg\0", b"a\0.\0j\0p\0g\0\n"])
def test_a_list_with_nul_names_the_option(first: bytes) -> None:
    with pytest.raises(
        UsageError, match=r"^line 1 of the list contains NUL, .*; use --null for a list .* of `find -print0`$"
    ):
        found([first])
    # Later in the list, after rows have been written, it becomes one row with an error.
    _, item = find_listed(["-"], [b"a.jpg\n", first])
    assert item is not None
    assert item.error is not None
    assert item.error[0] == ImageErrorCode.MISSING
    assert "use --null" in item.error[1]


def test_a_list_of_names_that_end_with_nul() -> None:
    names = ["a.jpg", "line\nbreak.jpg\n", "\ufeffb.jpg\r", os.fsdecode(b"\xff.jpg")]
    touch(*names)
    data = b"".join(os.fsencode(name) + b"\0" for name in names)
    for text in (data, data[:-1], b"\0" + data):
        assert found(read_list(io.BytesIO(text), null=True)) == names
    Path("list").write_bytes(data)
    with Path("list").open("rb") as file:
        assert found(read_list(file, null=True)) == names


def test_a_list_that_is_being_written_says_where_it_stops_for_now() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as file:
        lines = read_list(file)
        os.write(writing, b"a.jpg\n\nb.j")
        assert [next(lines) for _ in range(3)] == [b"a.jpg", b"", None]
        os.write(writing, b"pg\n")
        assert [next(lines), next(lines)] == [b"b.jpg", None]
        os.write(writing, b"x" * 60_000)
        os.write(writing, b"y\nlast")
        os.close(writing)
        assert list(lines) == [b"x" * 60_000 + b"y", b"last"]


def test_where_a_list_stops_for_now_is_between_the_inputs() -> None:
    touch("d/a.jpg", "d/b.jpg")
    listed = (b"d\n", None, b"\n", None, b"e.jpg")
    assert found(listed, ("-", "c.jpg")) == ["d/a.jpg", "d/b.jpg", None, None, "e.jpg", "c.jpg"]


def test_a_list_that_is_whole_has_no_stop() -> None:
    text = b"".join(b"%d.jpg\r\n" % number for number in range(20_000))
    Path("list").write_bytes(text)
    with Path("list").open("rb") as file:
        lines = list(read_list(file))
    assert None not in lines
    for listed in (lines, list(read_list(io.BytesIO(text)))):
        assert found(listed) == [f"{number}.jpg" for number in range(20_000)]
