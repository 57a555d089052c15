"""File systems without locks, hard links or directory syncs."""

import errno
import fcntl
import os
import stat
from pathlib import Path

import pytest

from alexnet_deploy.core.errors import OutputError, TrainingError
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.fs.locks import Lock, is_taken, try_lock
from alexnet_deploy.predict.output import open_row_file
from alexnet_deploy.predict.row_formats import RowWriter
from alexnet_deploy.train.loop.run_directory import holding
from alexnet_deploy.train.pack.journal import claimed


def failing_directory_sync(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    fsync = os.fsync

    def sync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)


def failing_lock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def lock(file: object, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", lock)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF])
def test_a_directory_that_cannot_be_synced_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing_directory_sync(monkeypatch, number)
    write_atomically(tmp_path / "file", b"whole")
    assert (tmp_path / "file").read_bytes() == b"whole"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_sync_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    failing_directory_sync(monkeypatch, number)
    with pytest.raises(OSError, match=os.strerror(number)):
        write_atomically(tmp_path / "file", b"whole")


def test_a_lock_is_held_or_taken(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as one, (tmp_path / "file").open("wb") as other:
        assert try_lock(one) is Lock.HELD
        assert try_lock(other) is Lock.TAKEN


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_work_goes_on_and_it_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    failing_lock(monkeypatch, number)
    said: list[str] = []
    with holding(tmp_path, said.append), claimed(tmp_path, said.append):
        pass
    with open_row_file(tmp_path / "rows", RowWriter("jsonl", topk=1), "a bundle", resume=False, say=said.append):
        pass
    places = [tmp_path, tmp_path, tmp_path / "rows"]
    sentence = "no file locks on this file system: make sure that no other process writes"
    assert said == [f"{sentence} {place}" for place in places]


def test_a_lock_that_fails_is_an_error_and_leaves_no_empty_partial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_lock(monkeypatch, errno.EIO)
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="error"):
        is_taken(file, tmp_path, print)
    (tmp_path / "file").unlink()
    with (
        pytest.raises(OutputError, match="cannot be written"),
        open_row_file(tmp_path / "rows", RowWriter("jsonl", topk=1), "a bundle", resume=False),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_is_taken_is_refused(tmp_path: Path) -> None:
    with (
        holding(tmp_path),
        pytest.raises(TrainingError, match=r"another process is training there; choose another --out$"),
        holding(tmp_path),
    ):
        pass
