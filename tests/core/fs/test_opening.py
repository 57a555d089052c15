"""Working files must belong to this program alone and inputs must be plain files; everything else is refused."""

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from odd_files import ODD, Stand, assert_untouched, bound_socket, dangling, directory, hard_link, link, pipe, victim_in

from alexnet_deploy.core.fs.files import sha256, sha256_of_file, write_atomically
from alexnet_deploy.core.fs.opening import make_directory, open_input, open_working, read_file


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    return victim_in(tmp_path)


@pytest.mark.parametrize("mode", ["rb", "r+b", "ab", "a+b"])
@pytest.mark.parametrize("stand", ODD)
def test_what_is_not_a_file_of_its_own_is_refused_by_name_and_stays_as_it_is(
    victim: Path, stand: Stand, mode: str
) -> None:
    place = victim.with_name("work")
    stand(place, victim)
    before = sorted(path.name for path in victim.parent.iterdir())
    with pytest.raises(FileExistsError) as caught:
        open_working(place, mode)  # type: ignore[arg-type]
    assert caught.value.strerror == (f"{place} is {ODD[stand]}, but this program needs its own file there; remove it")
    assert_untouched(victim)
    assert sorted(path.name for path in victim.parent.iterdir()) == before


@pytest.mark.parametrize("stand", ODD)
def test_a_file_that_has_to_be_new_is_made_nowhere_else(victim: Path, stand: Stand) -> None:
    place = victim.with_name("work")
    stand(place, victim)
    with pytest.raises(FileExistsError):
        open_working(place, "xb")
    assert_untouched(victim)


def test_a_file_of_its_own_is_made_appended_to_and_never_emptied(tmp_path: Path) -> None:
    for _ in range(2):
        with open_working(tmp_path / "work", "ab") as file:
            file.write(b"a")
            assert not os.get_inheritable(file.fileno())
    with open_working(tmp_path / "work", "a+b") as file:
        assert file.seek(0) == 0
        assert file.read() == b"aa"
    with pytest.raises(FileExistsError):
        open_working(tmp_path / "work", "xb")
    with pytest.raises(FileNotFoundError):
        open_working(tmp_path / "other", "r+b")
    assert (tmp_path / "work").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_processes_that_make_the_same_file_at_once_all_get_it(tmp_path: Path) -> None:
    barrier = threading.Barrier(8)
    opened = []

    def make(number: int) -> None:
        barrier.wait()
        with open_working(tmp_path / str(number // 8), "ab") as file:
            opened.append(os.fstat(file.fileno()).st_ino)

    for round_ in range(40):
        threads = [threading.Thread(target=make, args=(8 * round_ + one,)) for one in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(opened) == 320
    assert len(set(opened)) == 40


def test_a_file_that_becomes_a_link_after_the_look_at_it_is_not_followed(
    victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = victim.with_name("work")
    place.write_bytes(b"own")
    lstat = os.lstat

    def exchanged(path: str) -> os.stat_result:
        found = lstat(path)
        place.unlink()
        place.symlink_to(victim)
        return found

    monkeypatch.setattr(os, "lstat", exchanged)
    with pytest.raises(OSError, match="symbolic links"):
        open_working(place, "ab")
    assert_untouched(victim)


def test_a_directory_for_working_files_is_no_link(victim: Path) -> None:
    others = victim.with_name("others")
    others.mkdir()
    victim.with_name("work").symlink_to(others)
    with pytest.raises(
        FileExistsError, match="work is a symbolic link, but this program needs its own directory there; remove it"
    ):
        make_directory(victim.with_name("work"))
    make_directory(victim.with_name("new") / "below")
    make_directory(victim.with_name("new") / "below")
    assert (victim.with_name("new") / "below").is_dir()


@pytest.mark.parametrize("stand", [link, hard_link, dangling, pipe])
def test_what_is_replaced_as_a_whole_replaces_the_name_alone(victim: Path, stand: Stand) -> None:
    place = victim.with_name("report.html")
    stand(place, victim)
    write_atomically(place, b"new")
    assert place.read_bytes() == b"new"
    assert not place.is_symlink()
    assert_untouched(victim)


def test_a_directory_in_the_place_of_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(FileExistsError) as caught:
        write_atomically(tmp_path / "report.html", b"new")
    assert "report.html is a directory, but this program needs its own file there; remove it" in caught.value.strerror
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


# Inputs


@pytest.mark.parametrize("read", [open_input, sha256_of_file, lambda path: read_file(path, 100)])
@pytest.mark.parametrize(("stand", "kind"), [(pipe, "a pipe"), (bound_socket, "a socket"), (directory, "a directory")])
@pytest.mark.parametrize("is_linked", [False, True])
def test_an_input_that_is_no_plain_file_is_refused_and_not_waited_for(
    victim: Path, stand: Stand, kind: str, is_linked: bool, read: Callable[[Path], object]
) -> None:
    place = victim.with_name("input")
    stand(place, victim)
    if is_linked:
        victim.with_name("to it").symlink_to(place)
        place = victim.with_name("to it")
    with pytest.raises(OSError, match=f"it is {kind}, not a regular file"):
        read(place)


def test_devices_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    monkeypatch.setattr(os, "open", lambda *arguments: opened.append(arguments))
    with pytest.raises(OSError, match="it is a device, not a regular file"):
        open_input(Path("/dev/zero"))
    assert opened == []


def test_a_file_without_a_size_is_empty_whatever_it_would_give(tmp_path: Path) -> None:
    # Like /proc/kmsg, which never ends and blocks.
    assert Path("/proc/self/maps").stat().st_size == 0
    (tmp_path / "link").symlink_to("/proc/self/maps")
    assert read_file(tmp_path / "link", 100) == b""
    assert sha256_of_file(tmp_path / "link") == sha256(b"")


def test_an_input_is_read_through_links_up_to_a_limit(victim: Path) -> None:
    victim.with_name("link").symlink_to(victim)
    assert read_file(victim.with_name("link"), 8) == b"precious"
    assert sha256_of_file(victim.with_name("link")) == sha256(b"precious")
    with pytest.raises(OSError, match="it has 8 bytes, the limit is 7"):
        read_file(victim, 7)
    with pytest.raises(FileNotFoundError):
        read_file(victim.with_name("none"), 7)
