"""A file that is written in one go, as by `merge`: it gets its name at the end, or nothing is left."""

import fcntl
import resource
from pathlib import Path

import pytest

from alexnet_deploy.core.errors import OutputError, UsageError
from alexnet_deploy.predict.output import interrupted_rows, writing_whole


def test_the_file_gets_its_name_at_the_end(tmp_path: Path) -> None:
    with writing_whole(tmp_path / "out") as put:
        put(b"a row\n")
        put(b"")
        assert [path.name for path in tmp_path.iterdir()] == [".out.merge.partial"]
        put(b"another\n")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"a row\nanother\n"


def write(output: Path, num_bytes: int, error: type[BaseException] | None = None) -> None:
    with writing_whole(output) as put:
        put(bytes(num_bytes))
        if error is not None:
            raise error


def test_nothing_is_left_after_an_exception(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", 10, KeyboardInterrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OutputError, match="out: cannot be written: File too large"):
            write(tmp_path / "out", 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_two_runs_do_not_write_the_same_file(tmp_path: Path) -> None:
    place = tmp_path / ".out.merge.partial"
    place.write_bytes(b"of another run")
    with place.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="out: another run is writing it; "):
            write(tmp_path / "out", 1)
    assert place.read_bytes() == b"of another run"
    write(tmp_path / "out", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_that_was_created_meanwhile_is_kept(tmp_path: Path) -> None:
    def create(output: Path) -> None:
        with writing_whole(output) as put:
            put(b"a row\n")
            output.write_text("precious")

    with pytest.raises(
        UsageError, match=r"out: was created by another program during this run; all rows are in .*\.out"
    ):
        create(tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"
    assert (tmp_path / ".out.merge.partial").read_bytes() == b"a row\n"


def test_rows_of_an_interrupted_run_are_found(tmp_path: Path) -> None:
    assert interrupted_rows(tmp_path / "rows") is None
    assert interrupted_rows(tmp_path / "nowhere/rows") is None
    (tmp_path / ".rows.merge.partial").touch()
    assert interrupted_rows(tmp_path / "rows") is None
    place = tmp_path / f".rows.{12 * 'a'}.partial"
    place.touch()
    assert interrupted_rows(tmp_path / "rows") == place
