"""`gather` from end to end, from a server on this machine that misbehaves."""

import asyncio
import csv
import errno
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from gathering import CLASSES, drawn, put_all, put_unsteady
from web import Site, sends, serving, waits

from alexnet_deploy.core.errors import BusyError, OutputError, UsageError
from alexnet_deploy.core.fs.files import sha256_of_file
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.train.data.folder import find_in_folder
from alexnet_deploy.train.data.source import check_source
from alexnet_deploy.train.gather import run as gathering
from alexnet_deploy.train.gather import stage as staging
from alexnet_deploy.train.gather.listing import Entry
from alexnet_deploy.train.gather.rows import Row
from alexnet_deploy.train.gather.run import Gathered, GatherOptions, gather
from alexnet_deploy.train.gather.web.hosts import Manners


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


async def no_wait(seconds: float) -> None:
    await asyncio.sleep(0)


class Clock:
    """A clock that passes a minute each time somebody looks."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 60
        return self.now


def options(**changes: object) -> GatherOptions:
    manners = Manners(connections=8, per_host=4, delay_seconds=0.0, retries=1, sleep=no_wait, clock=Clock())
    return GatherOptions(
        **{"allow_private": True, "validation_share": 0.3, "max_bytes": 10**6, "manners": manners, **changes}
    )  # type: ignore[arg-type]


def entries_of(urls: list[str]) -> list[Entry]:
    return [
        Entry(url=url, label=CLASSES[number % 2], licence=f"CC-{number}", page=f"page {number}")
        for number, url in enumerate(urls)
    ]


def table_of(out: Path) -> list[dict[str, str]]:
    with (out / "gathered.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def files_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


def test_each_url_has_one_line_and_nothing_else_is_on_the_disk(site: Site, tmp_path: Path) -> None:
    statuses = {**put_all(site, 12), **put_unsteady(site)}
    entries = entries_of(list(statuses))
    out = tmp_path / "out"
    gathered = gather(entries, out, options())
    rows = table_of(out)
    assert [(row["url"], row["status"]) for row in rows] == list(statuses.items())
    assert [(row["class"], row["licence"], row["page"]) for row in rows] == [
        (entry.label, entry.licence, entry.page) for entry in entries
    ]
    kept = [row for row in rows if row["status"] == "kept"]
    assert files_below(tmp_path) == {"out/gathered.csv", *(f"out/{row['file']}" for row in kept)}
    assert site.asked["/no/a.jpg"] == 0
    for row in kept:
        path = out / row["file"]
        assert row["file"].split("/")[:2] == [row["split"], row["class"]]
        assert path.name == f"{row['sha256']}.jpg"
        assert (sha256_of_file(path), path.stat().st_size) == (row["sha256"], int(row["bytes"]))
        assert (row["width"], row["height"], row["message"]) == ("96", "96", "")
        assert read_image(path, SHORTER_SIDE).shape == (256, 256, 3)
    for row in rows:
        assert row["status"] == "kept" or row["message"]
    moved = next(row for row in rows if row["url"].endswith("/moved.jpg"))
    assert moved["final_url"] == f"{site.url}/there.jpg"
    tiny = next(row for row in rows if row["status"] == "too_small")
    assert (tiny["width"], tiny["file"], tiny["message"]) == ("40", "", "40 x 40, the limit is 64; --min-side sets it")
    assert gathered.statuses["kept"] == len(kept) == gathered.splits.total()
    source = find_in_folder(out)
    check_source(source)
    assert source.class_names == tuple(sorted(CLASSES))
    assert len(source.train) + len(source.validation) == len(kept)


def test_the_order_of_the_answers_does_not_change_the_outcome(site: Site, tmp_path: Path) -> None:
    """Copies of one picture: the first of the list is the last to be answered, and is kept."""
    others = [site.put(f"/{number}.jpg", sends(drawn(1, side=128, quality=60 + number))) for number in range(5)]
    first = sends(drawn(1))

    def answer(handler: object) -> None:
        # All others are done.
        done = tmp_path / ".out.partial/journal.jsonl"
        while done.read_bytes().count(b"\n") < len(others):
            site.quit.wait(0.01)
        first(handler)  # type: ignore[arg-type]

    urls = [site.put("/first.jpg", answer), *others]
    gather(entries_of(urls), tmp_path / "out", options())
    assert [row["status"] for row in table_of(tmp_path / "out")] == ["kept", *["duplicate"] * 5]


def test_a_url_that_is_listed_twice_is_fetched_once(site: Site, tmp_path: Path) -> None:
    url = site.put("/a.jpg", sends(drawn(1)))
    gather(entries_of([url, url, url]), tmp_path / "out", options())
    assert [row["status"] for row in table_of(tmp_path / "out")] == ["kept", "duplicate", "duplicate"]
    assert site.asked["/a.jpg"] == 1


def test_hosts_in_private_networks_are_refused(site: Site, tmp_path: Path) -> None:
    urls = [site.put(f"/{number}.jpg", sends(drawn(number))) for number in range(3)]
    gathered = gather(entries_of(urls), tmp_path / "out", options(allow_private=False))
    assert gathered == Gathered(statuses=Counter(private_address=3), splits=Counter())
    assert not site.asked
    assert files_below(tmp_path) == {"out/gathered.csv"}


def interrupted(
    entries: list[Entry], out: Path, monkeypatch: pytest.MonkeyPatch, *, after: int, number: int = errno.ENOSPC
) -> str:
    """Gather on a disk that fails from a number of outcomes on; return the sentence."""
    note, counts = staging.Stage.note, iter(range(10**6))

    def failing(self: staging.Stage, found: object) -> None:
        if next(counts) >= after:
            raise OSError(number, os.strerror(number))
        note(self, found)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(staging.Stage, "note", failing)
        with pytest.raises(OutputError) as caught:
            gather(entries, out, options())
    return str(caught.value)


def test_a_full_disk_ends_in_a_sentence_and_the_same_call_continues(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    entries = entries_of(list(put_all(site, 8)))
    gather(entries, tmp_path / "whole", options())
    out = tmp_path / "out"
    for number in (errno.ENOSPC, errno.EIO, errno.EROFS):
        assert interrupted(entries, out, monkeypatch, after=5, number=number) == (
            f"{out}: cannot be written: {os.strerror(number)}; what was gathered so far is in {tmp_path}/.out.partial: "
            "run the same command again to resume"
        )
        assert not out.exists()
    said: list[str] = []
    gather(entries, out, options(), say=said.append)
    assert said == [f"resuming after 15 of {len(entries)} URLs"]
    assert (out / "gathered.csv").read_bytes() == (tmp_path / "whole/gathered.csv").read_bytes()
    assert files_below(out) == files_below(tmp_path / "whole")
    assert not (tmp_path / ".out.partial").exists()
    # No task of the loop was left behind.
    assert caplog.records == []


def test_damaged_and_missing_pictures_are_fetched_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [site.put(f"/{number}.jpg", sends(drawn(number))) for number in range(8)]
    gather(entries_of(urls), tmp_path / "whole", options())
    interrupted(entries_of(urls), tmp_path / "out", monkeypatch, after=6)
    partial = tmp_path / ".out.partial"
    journaled = (partial / "journal.jsonl").read_text()
    one, two, *_ = sorted(path for path in (partial / "pictures").iterdir() if path.stem in journaled)
    one.write_bytes(b"x" + one.read_bytes()[1:])
    two.unlink()
    (partial / "pictures/.stray.partial").write_bytes(b"left by a killed process")
    with (partial / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"url": "torn')
    said: list[str] = []
    gather(entries_of(urls), tmp_path / "out", options(), say=said.append)
    assert said == [f"2 pictures missing or damaged in {partial}: fetching again", "resuming after 4 of 8 URLs"]
    assert (tmp_path / "out/gathered.csv").read_bytes() == (tmp_path / "whole/gathered.csv").read_bytes()
    assert files_below(tmp_path / "out") == files_below(tmp_path / "whole")


def test_a_longer_list_continues_an_interrupted_one(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [site.put(f"/{number}.jpg", sends(drawn(number))) for number in range(8)]
    interrupted(entries_of(urls[:5]), tmp_path / "out", monkeypatch, after=4)
    asked = site.asked.total()
    gather(entries_of(urls[::-1]), tmp_path / "out", options())
    assert [row["url"] for row in table_of(tmp_path / "out")] == urls[::-1]
    assert site.asked.total() - asked == 1 + 4


def test_nothing_is_fetched_again_after_a_kill_at_the_end(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = entries_of([site.put(f"/{number}.jpg", sends(drawn(number))) for number in range(6)])
    lines = iter(range(100))

    def killed(row: Row) -> str:
        if next(lines) == 3:
            raise OSError(errno.EIO, "killed")
        return ""

    with monkeypatch.context() as patch:
        patch.setattr(Row, "line", killed)
        with pytest.raises(OutputError):
            gather(entries, tmp_path / "out", options())
    assert len(list((tmp_path / ".out.partial/train").glob("*/*"))) in range(1, 5)
    asked = site.asked.total()
    assert gather(entries, tmp_path / "out", options()).statuses == {"kept": 6}
    assert site.asked.total() == asked
    assert files_below(tmp_path) == {"out/gathered.csv", *(f"out/{row['file']}" for row in table_of(tmp_path / "out"))}


def test_another_plan_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = entries_of([site.put(f"/{number}.jpg", sends(drawn(number))) for number in range(4)])
    interrupted(entries, tmp_path / "out", monkeypatch, after=2)
    with pytest.raises(UsageError, match=r"\.out\.partial: was started with other options"):
        gather(entries, tmp_path / "out", options(min_side=65))
    gather(entries, tmp_path / "out", options())
    with pytest.raises(UsageError, match="out: already exists"):
        gather(entries, tmp_path / "out", options())


def test_two_processes_do_not_gather_the_same_folder(site: Site, tmp_path: Path) -> None:
    entries = entries_of([site.put(f"/{number}.jpg", sends(drawn(number))) for number in range(2)])

    def second(num_done: int, num_urls: int) -> None:
        if num_done == 0:
            with pytest.raises(BusyError, match="out: another process is gathering it"):
                gather(entries, tmp_path / "out", options())

    gather(entries, tmp_path / "out", options(), on_progress=second)
    assert len(table_of(tmp_path / "out")) == 2


def test_a_complete_folder_of_another_list_is_not_taken(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = entries_of([site.put(f"/{number}.jpg", sends(drawn(number))) for number in range(4)])

    def killed(folder: Path, out: Path) -> None:
        raise OSError(errno.EIO, "killed")

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_complete", killed)
        with pytest.raises(OutputError):
            gather(entries, tmp_path / "out", options())
    with pytest.raises(UsageError, match="is complete for another list"):
        gather(entries[:3], tmp_path / "out", options())
    asked = site.asked.total()
    assert gather(entries, tmp_path / "out", options()).statuses == {"kept": 4}
    assert site.asked.total() == asked


def test_one_host_that_does_not_answer_does_not_hold_up_the_others(site: Site, tmp_path: Path) -> None:
    slow = site.url.replace("127.0.0.1", "localhost")
    site.put("/slow.jpg", waits(site))
    urls = [f"{slow}/slow.jpg?{number}" for number in range(20)]
    urls += [site.put(f"/{number}.jpg", sends(drawn(number))) for number in range(4)]
    progress: list[int] = []

    def on_progress(num_done: int, num_urls: int) -> None:
        progress.append(num_done)
        if num_done == 4:
            # All of the host that answers; the other one may now answer.
            site.put("/slow.jpg", sends(b"x"))
            site.quit.set()

    gathered = gather(entries_of(urls), tmp_path / "out", options(), on_progress=on_progress)
    assert gathered.statuses["kept"] == 4
    assert progress == list(range(25))


@pytest.mark.parametrize("wrong", [{"validation_share": 0.0}, {"validation_share": float("nan")}, {"min_side": 0}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="must be"):
        options(**wrong)


def test_lanes_stand_as_often_as_a_host_may_be_asked() -> None:
    urls = ["http://a.org/1", "http://a.org/2", "http://a.org/3", "no url", "http://b.org/1"]
    lanes = gathering._lanes(urls, 2)
    assert [list(lane) for lane in lanes] == [urls[:3], urls[:3], ["no url"], ["http://b.org/1"]]
    assert lanes[0] is lanes[1]
