import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_deploy.core.errors import ImageError, ImageErrorCode
from alexnet_deploy.core.fs import patience
from alexnet_deploy.core.fs.patience import TRANSIENT, Patience, patiently, set_retries
from alexnet_deploy.core.images.decode import read_file, read_section


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(patience, "PATIENCE", Patience(wait=waits.append))
    return waits


def failing(times: int, number: int) -> Callable[[], str]:
    failures = [OSError(number, os.strerror(number))] * times

    def attempt() -> str:
        if failures:
            raise failures.pop()
        return "read"

    return attempt


@pytest.mark.parametrize("number", sorted(TRANSIENT))
@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_a_transient_error_is_met_with_three_more_attempts(number: int, times: int, waits: list[float]) -> None:
    assert patiently(failing(times, number)) == "read"
    assert waits == [0.1, 0.5, 2.0][:times]


def test_the_fourth_error_is_the_answer(waits: list[float]) -> None:
    with pytest.raises(OSError, match="Stale file handle"):
        patiently(failing(4, errno.ESTALE))
    assert waits == [0.1, 0.5, 2.0]


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOSPC, errno.ELOOP, errno.ENAMETOOLONG])
def test_other_errors_are_answers_at_once(number: int, waits: list[float]) -> None:
    with pytest.raises(OSError, match=os.strerror(number)):
        patiently(failing(1, number))
    assert waits == []


@pytest.mark.parametrize("times", [3, 4])
def test_image_files_are_read_patiently(
    times: int, waits: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"pixels")
    opened = os.open
    failures: list[int] = []

    def flaky(*arguments: object, **options: object) -> int:
        if len(failures) < times:
            failures.append(errno.EIO)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return opened(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", flaky)
    for read, expected in ((lambda: read_file(path), b"pixels"), (lambda: read_section(path, 2, 3), b"xel")):
        failures.clear()
        waits.clear()
        if times == 3:
            assert read() == expected
        else:
            with pytest.raises(ImageError, match="Input/output error") as raised:
                read()
            assert raised.value.code == ImageErrorCode.UNREADABLE
        assert waits == [0.1, 0.5, 2.0]


def test_a_missing_file_is_an_answer_at_once(waits: list[float], tmp_path: Path) -> None:
    with pytest.raises(ImageError) as raised:
        read_file(tmp_path / "nothing")
    assert raised.value.code == ImageErrorCode.MISSING
    assert waits == []


@pytest.mark.parametrize("num_retries", [0, 1, 3, 4, 7])
def test_the_number_of_retries_can_be_set_for_the_process(num_retries: int, waits: list[float]) -> None:
    set_retries(num_retries)
    assert patiently(failing(num_retries, errno.EIO)) == "read"
    assert waits == [0.1, 0.5, 2.0, 8.0, 30.0, 30.0, 30.0][:num_retries]
    with pytest.raises(OSError, match="Input/output error"):
        patiently(failing(num_retries + 1, errno.EIO))
