import errno
import os
from pathlib import Path

import pytest

from alexnet_deploy.core.fs.files import rename_new


def without_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", fail)


@pytest.fixture(params=[None, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS], ids=str)
def number(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    """The error number of a failing hard link; None if hard links work."""
    if request.param is not None:
        without_links(monkeypatch, request.param)
    found: int | None = request.param
    return found


def test_a_new_name_is_given(number: int | None, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    rename_new(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "mine"
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


@pytest.mark.parametrize("there", ["file", "link", "folder"])
def test_a_name_that_is_taken_is_left_as_it_is(there: str, number: int | None, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mine")
    match there:
        case "file":
            (tmp_path / "b").write_text("another's")
        case "link":
            (tmp_path / "b").symlink_to("nowhere")
        case _:
            (tmp_path / "b").mkdir()
    before = (tmp_path / "b").lstat()
    with pytest.raises(FileExistsError):
        rename_new(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").lstat() == before
    assert (tmp_path / "a").read_text() == "mine"


def test_a_rename_that_fails_leaves_no_empty_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_links(monkeypatch, errno.EPERM)
    with pytest.raises(FileNotFoundError):
        rename_new(tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_no_reason_to_do_without_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_links(monkeypatch, errno.ENOSPC)
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OSError, match="No space left"):
        rename_new(tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]
