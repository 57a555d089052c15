"""Entries found instead of a file: links, pipes, sockets, directories; and a victim that must not change."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from alexnet_deploy.core.inputs import paths

Stand = Callable[[Path, Path], None]
"""Create an entry at the first path; links point to the second, the victim."""


def link(path: Path, victim: Path) -> None:
    path.symlink_to(victim)


def hard_link(path: Path, victim: Path) -> None:
    path.hardlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    path.symlink_to(victim.with_name("nothing"))


def pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path, victim: Path) -> None:
    # A socket's path has at most 107 bytes.
    with socket.socket(socket.AF_UNIX) as made:
        folder = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{folder}/{path.name}")
        os.close(folder)


def directory(path: Path, victim: Path) -> None:
    path.mkdir()


ODD: dict[Stand, str] = {
    link: "a symbolic link",
    hard_link: "a file with 2 names (hard links)",
    dangling: "a symbolic link",
    pipe: "a pipe",
    bound_socket: "a socket",
    directory: "a directory",
}
"""Each kind, with its name in an error."""


def victim_in(folder: Path) -> Path:
    """Return a file that must not change."""
    path = folder / "victim"
    path.write_bytes(b"precious")
    return path


def assert_untouched(victim: Path) -> None:
    assert victim.read_bytes() == b"precious"
    assert not victim.with_name("nothing").exists()


def refuse_listing(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """Let this folder not be listed, even if the tests run as root."""
    names_in = paths._names_in

    def refused(folder: str) -> Iterator[str]:
        if Path(folder) == place:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return names_in(folder)

    monkeypatch.setattr(paths, "_names_in", refused)
