import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import HANGS_AFTER_S

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.latest import get_latest, set_latest
from alexnet_deploy.core.process.ahead import map_ahead


def test_latest_is_the_entry_set_last(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        set_latest(tmp_path / name)
    assert get_latest(tmp_path, made_by="x") == tmp_path / "two"


def test_latest_before_anything_was_made_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`alexnet-deploy train` makes one"):
        get_latest(tmp_path / "runs", made_by="alexnet-deploy train")


@pytest.mark.parametrize(
    "content",
    ["", "../../etc", "/etc", "a/b", "..", ".", "..\n", "a\nb", "a\0", "\x1b[2Ja", ".a.bundle.abcdefgh.partial"],
)
def test_latest_that_holds_no_plain_name_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "latest").write_text(content)
    (tmp_path / "bundles" / ".a.bundle.abcdefgh.partial").mkdir()
    with pytest.raises(UsageError, match="it must hold the name of an entry") as caught:
        get_latest(tmp_path / "bundles", made_by="x")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", [b"plain", b"with space ", b"\xff", "\u00e9".encode()])
def test_latest_takes_any_name_that_a_folder_can_have(tmp_path: Path, name: bytes) -> None:
    entry = tmp_path / os.fsdecode(name)
    entry.mkdir()
    set_latest(entry)
    assert get_latest(tmp_path, made_by="x") == entry


def test_latest_that_is_no_small_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latest").touch()
    os.truncate(tmp_path / "latest", 2**40)
    with pytest.raises(UsageError, match=r"latest: cannot be read: it has 1,099,511,627,776 bytes, the limit is 4,096"):
        get_latest(tmp_path, made_by="x")
    (tmp_path / "latest").unlink()
    os.mkfifo(tmp_path / "latest")
    with pytest.raises(UsageError, match="latest: cannot be read: it is a pipe, not a regular file"):
        get_latest(tmp_path, made_by="x")


def test_results_come_in_the_items_order() -> None:
    later_ones = threading.Event()

    def first_last(number: int) -> int:
        if number == 0:
            assert later_ones.wait(HANGS_AFTER_S)
        elif number == 7:
            later_ones.set()
        return number * number

    assert list(map_ahead(first_last, range(50), threads=4, ahead=8)) == [number * number for number in range(50)]


def test_never_more_than_so_many_are_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield number

    results = map_ahead(lambda number: number, items(), threads=2, ahead=5)
    for used in range(1, 51):
        next(results)
        assert taken <= used + 5
    results.close()  # type: ignore[attr-defined]
    assert taken < 60


def test_no_thread_outlives_an_iterator_that_is_left_early() -> None:
    before = threading.active_count()
    results = map_ahead(lambda number: number, range(1000), threads=4, ahead=16)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_exception_is_raised_in_its_place() -> None:
    def fragile(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    results = map_ahead(fragile, range(9), threads=2, ahead=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
