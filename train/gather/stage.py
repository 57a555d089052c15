"""The unfinished data folder: what was fetched so far is kept beside OUT, and becomes OUT in one rename.

    .OUT.partial/plan.json        what the outcomes depend on; another plan is refused
    .OUT.partial/journal.jsonl    one line for each URL that is done
    .OUT.partial/pictures/        the pictures, by their digests
    .OUT.partial/train, val, gathered.csv    only at the end

A picture is written before its line in the journal. When all URLs are done, the pictures get their places and
gathered.csv is written; then the journal is removed, then the rest, and the folder is renamed. A process that is killed
before the journal is gone leaves a folder that is taken apart again; one that is killed later, a complete folder.
"""

import csv
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import msgspec

from alexnet_deploy.core.csv_text import csv_line
from alexnet_deploy.core.errors import BusyError, UsageError
from alexnet_deploy.core.fs.files import refuse_existing, sha256_of_file, sync_directory, write_atomically
from alexnet_deploy.core.fs.hidden import hidden_beside
from alexnet_deploy.core.fs.locks import Lock, try_lock
from alexnet_deploy.core.fs.opening import MIB, make_directory, open_input, open_working, read_file, write_whole
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.inputs.remote.urls import masked
from alexnet_deploy.core.process.ahead import decode_threads, map_ahead
from alexnet_deploy.core.process.say import Say, counted
from alexnet_deploy.train.gather.listing import Entry
from alexnet_deploy.train.gather.pictures import Picture
from alexnet_deploy.train.gather.rows import COLUMNS, TRAIN, VALIDATION, Found, Row, file_name

TABLE = "gathered.csv"
"""The table of all URLs, in the data folder."""

_PLAN, _JOURNAL, _PICTURES = "plan.json", "journal.jsonl", "pictures"
_AHEAD = 64


@dataclass(slots=True, kw_only=True)
class Stage:
    """An unfinished data folder, locked by this process."""

    out: Path
    """Its final path."""
    folder: Path
    """Where it is until then."""
    journal: FileIO
    """The open journal."""
    found: dict[str, Found] = field(default_factory=dict)
    """The outcome of each URL that is done."""

    def keep(self, found: Found, data: bytes | None) -> None:
        """Write a picture, if there is one to keep; its outcome is not known yet until `note`. Raises OSError."""
        if data is not None and found.picture is not None:
            path = self.folder / _PICTURES / file_name(found.picture)
            if not path.exists():
                write_atomically(path, data)

    def note(self, found: Found) -> None:
        """Record an outcome, after its picture was kept; raises OSError."""
        write_whole(self.journal, msgspec.json.encode(found) + b"\n")
        self.found[found.url] = found


@contextmanager
def open_stage(out: Path, plan: bytes, entries: Sequence[Entry], say: Say) -> Iterator[Stage | None]:
    """Yield the unfinished data folder of `out`, with the outcomes so far; None if it was complete, and is `out` now.

    `plan` names everything that the outcomes depend on, and stays the same when the list grows.

    Raises UsageError if `out` exists, or if the unfinished folder has another plan or is complete for another list;
    BusyError if another process uses it; OSError.
    """
    refuse_existing(out)
    folder = hidden_beside(out, ".partial")
    make_directory(folder)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        _lock(descriptor, folder, out, say)
        if (folder / TABLE).exists() and not os.path.lexists(folder / _JOURNAL):
            _refuse_other_list(folder, entries)
            _complete(folder, out)
            yield None
            return
        make_directory(folder / _PICTURES)
        _take_apart(folder)
        _agree_on_plan(folder, plan)
        with open_working(folder / _JOURNAL, "a+b") as journal:
            stage = Stage(out=out, folder=folder, journal=journal)
            stage.found.update(_recovered(folder, journal, say))
            yield stage
    finally:
        os.close(descriptor)


def publish(stage: Stage, rows: Iterable[Row]) -> None:
    """Give every picture its place, write the table, and rename the folder to `out`; raises OSError, UsageError."""
    folder = stage.folder
    with open_working(folder / TABLE, "xb") as table:
        write_whole(table, csv_line(COLUMNS).encode())
        for row in rows:
            if row.file:
                # Both sides must have the same classes.
                for side in (TRAIN, VALIDATION):
                    (folder / side / row.entry.label).mkdir(parents=True, exist_ok=True)
                assert row.found.picture is not None
                (folder / _PICTURES / file_name(row.found.picture)).rename(folder / row.file)
            write_whole(table, row.line().encode())
        os.fsync(table.fileno())
    for place, _, _ in os.walk(folder):
        sync_directory(Path(place))
    (folder / _JOURNAL).unlink()
    _complete(folder, stage.out)


def _complete(folder: Path, out: Path) -> None:
    """Remove what is not part of a complete data folder, and give it its name."""
    if (folder / _PICTURES).exists():
        # Those of duplicates.
        shutil.rmtree(folder / _PICTURES)
    (folder / _PLAN).unlink(missing_ok=True)
    sync_directory(folder)
    refuse_existing(out)
    folder.rename(out)
    sync_directory(out.parent)


def _lock(descriptor: int, folder: Path, out: Path, say: Say) -> None:
    lock = try_lock(descriptor)
    if lock is Lock.IMPOSSIBLE:
        say(f"no file locks on this file system: make sure that no other process writes {out}")
    if lock is Lock.TAKEN:
        raise BusyError(f"{out}: another process is gathering it; wait for it to end")
    # Before it was locked, another process may have completed and renamed it.
    if os.path.lexists(out) or not folder.exists() or not os.path.samestat(os.fstat(descriptor), folder.stat()):
        with suppress(OSError):
            # Only an empty one, which this process has made.
            folder.rmdir()
        raise BusyError(f"{out}: another process has just completed it")


def _take_apart(folder: Path) -> None:
    """Bring all pictures back to their folder, and remove everything else but the plan and the journal."""
    for side in (TRAIN, VALIDATION):
        for path in (folder / side).glob("*/*"):
            path.rename(folder / _PICTURES / path.name)
    for path in folder.iterdir():
        if path.name in (_PLAN, _JOURNAL, _PICTURES):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _agree_on_plan(folder: Path, plan: bytes) -> None:
    path = folder / _PLAN
    if not os.path.lexists(path):
        write_atomically(path, plan)
    elif read_file(path, MIB) != plan:
        raise UsageError(
            f"{folder}: was started with other options or another version of this program; repeat those, or remove it"
        )


def _recovered(folder: Path, journal: FileIO, say: Say) -> dict[str, Found]:
    """Return the outcomes in the journal whose pictures are intact; remove all other pictures."""
    journal.seek(0)
    found: dict[str, Found] = {}
    length = 0
    for line in journal.readall().splitlines(keepends=True):
        try:
            outcome = from_json(line, Found)
        except msgspec.DecodeError:
            break
        if not line.endswith(b"\n"):
            break
        found[outcome.url] = outcome
        length += len(line)
    os.ftruncate(journal.fileno(), length)
    names = {path.name for path in (folder / _PICTURES).iterdir()}
    kept = {url: picture for url, one in found.items() if (picture := _kept_picture(one)) is not None}
    wanted = {file_name(picture): picture.sha256 for picture in kept.values()}
    places = [folder / _PICTURES / name for name in sorted(names & wanted.keys())]
    digests = map_ahead(sha256_of_file, places, threads=decode_threads(), ahead=_AHEAD)
    intact = {path.name for path, digest in zip(places, digests, strict=True) if digest == wanted[path.name]}
    for name in names - intact:
        (folder / _PICTURES / name).unlink()
    if damaged := wanted.keys() - intact:
        say(f"{counted(len(damaged), 'picture')} missing or damaged in {folder}: fetching again")
        found = {url: one for url, one in found.items() if url not in kept or file_name(kept[url]) in intact}
    return found


def _kept_picture(found: Found) -> Picture | None:
    """Return the picture of an outcome, if it is stored."""
    return found.picture if found.error is None else None


def _refuse_other_list(folder: Path, entries: Sequence[Entry]) -> None:
    if [(row["url"], row["class"]) for row in read_table(folder)] != [(masked(one.url), one.label) for one in entries]:
        raise UsageError(f"{folder}: is complete for another list; rename it, or remove it")


def read_table(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the lines of a data folder's gathered.csv, by column; raises OSError."""
    with open_input(folder / TABLE) as file:
        lines = (line.decode() for line in file)
        yield from csv.DictReader(lines, strict=True)
