"""`predict` on URLs and archives: one row for every input, equal to those of the same files on disk."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
import pytest
from archives import tar_of
from commands import Outcome, Run
from web import Site, endless, refuses, sends, sends_parts, serving

from alexnet_deploy.core.fs import patience
from alexnet_deploy.predict.row_formats import RowWriter


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(wait=lambda _: None))
    with serving() as site:
        yield site


@pytest.fixture
def places(site: Site, images: Path, latest: Path, tmp_path: Path) -> list[str]:
    """Twelve images and eight inputs that fail, in five kinds of places."""
    files = {path.name: path.read_bytes() for path in sorted(images.iterdir())}
    (tmp_path / "local").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "local" / name).write_bytes(files[name])
    members = {"c.cls": b"3", "c.jpg": files["c.jpg"], "d.jpg": files["d.jpg"], "d.json": b"{}", "notes": b"text"}
    (tmp_path / "local/t.tar").write_bytes(tar_of(members).rstrip(b"\0"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pipe({"/m/e.jpg": files["e.jpg"], "/m/f.jpg": files["f.jpg"], "/m/g.jpg": b"", "/m/.hidden": b"x"})
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as packed:
        for name in ("g.jpg", "h.jpg"):
            packed.writestr(name, files[name])
    shard = {f"{name}/{name}.jpg": files[f"{name}.jpg"] for name in "ijk"}
    return [
        "local",
        "memory://m",
        site.put("/gone.jpg", refuses(404)),
        "zip://*.jpg::p.zip",
        site.put("/forbidden.jpg", refuses(403)),
        site.put("/shard.tar", sends_parts(tar_of(shard))),
        site.put("/endless.tar", endless()),
        site.put("/l.jpg", refuses(500), refuses(500), sends(files["l.jpg"])),
        site.put("/broken.jpg", refuses(503)),
        "memory://nothing",
    ]


EXPECTED = [
    *("local/a.jpg", "local/b.jpg", "local/t.tar/c.jpg", "local/t.tar/d.jpg", "local/t.tar/notes not_an_image"),
    "local/t.tar truncated",
    *("memory://m/e.jpg", "memory://m/f.jpg", "memory://m/g.jpg empty", "/gone.jpg missing"),
    *("zip://g.jpg::p.zip", "zip://h.jpg::p.zip", "/forbidden.jpg unreadable"),
    *("/shard.tar/i/i.jpg", "/shard.tar/j/j.jpg", "/shard.tar/k/k.jpg", "/endless.tar unreadable"),
    *("/l.jpg", "/broken.jpg unreadable", "memory://nothing missing"),
]


def rows_in(text: str, site: Site) -> list[str]:
    rows = [json.loads(line) for line in text.splitlines()]
    names = [row["path"].removeprefix(site.url) for row in rows]
    return [name if row["ok"] else f"{name} {row['error']['code']}" for name, row in zip(names, rows, strict=True)]


def test_every_input_has_one_row_wherever_it_lies(run: Run, places: list[str], site: Site, images: Path) -> None:
    outcome = run("predict", *places, "--format", "jsonl")
    assert outcome.code == 1
    assert rows_in(outcome.out, site) == EXPECTED
    known = {Path(row["path"]).name: row["top"] for row in map(json.loads, predicted(run, images).out.splitlines())}
    found = [json.loads(line) for line in outcome.out.splitlines()]
    good = {row["path"].partition("::")[0].rpartition("/")[2]: row["top"] for row in found if row["ok"]}
    assert good == known


def predicted(run: Run, *inputs: object) -> Outcome:
    outcome = run("predict", *inputs, "--format", "jsonl")
    assert outcome.code == 0
    return outcome


def test_retries_are_counted_for_urls_too(run: Run, places: list[str], site: Site) -> None:
    outcome = run("predict", *places[-3:], "--format", "jsonl", "--retries", 1)
    assert rows_in(outcome.out, site) == ["/l.jpg unreadable", "/broken.jpg unreadable", "memory://nothing missing"]
    assert (site.asked["/l.jpg"], site.asked["/broken.jpg"]) == (2, 2)


@contextmanager
def stopped_after(num_rows: int) -> Iterator[None]:
    """Interrupt a run in this context after `num_rows` rows."""
    row = RowWriter.row
    written: list[int] = []

    def interrupt(self: RowWriter, *arguments: object) -> str:
        written.append(1)
        if len(written) > num_rows:
            raise KeyboardInterrupt
        return row(self, *arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowWriter, "row", interrupt)
        yield


@pytest.mark.parametrize("num_rows", [1, 3, 5, 9, 13, 18])
def test_a_run_that_was_cut_anywhere_is_resumed(num_rows: int, run: Run, places: list[str], site: Site) -> None:
    whole = run("predict", *places, "--format", "jsonl").out
    # The server is as it was at the first run.
    site.asked.clear()
    with stopped_after(num_rows):
        assert run("predict", *places, "--output", "rows.jsonl").code == 130
    site.asked.clear()
    outcome = run("predict", *places, "--output", "rows.jsonl", "--resume")
    assert outcome.code == 1
    assert f"resuming after {num_rows} row" in outcome.err
    assert Path("rows.jsonl").read_text() == whole


def test_shards_of_urls_and_archives_merge_to_the_bytes_of_one_run(run: Run, places: list[str], site: Site) -> None:
    assert run("predict", *places, "--output", "whole.jsonl").code == 1
    for number in (2, 3, 1):
        site.asked.clear()
        assert run("predict", *places, "--output", f"rows-{number}.jsonl", "--shard", f"{number}/3").code == 1
    assert run("merge", *Path().glob("rows-*.jsonl"), "--output", "all.jsonl").code == 1
    assert Path("all.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert rows_in(Path("all.jsonl").read_text(), site) == EXPECTED


def test_a_list_on_stdin_may_hold_urls(run: Run, places: list[str], site: Site) -> None:
    listed = [f"{site.url}/l.jpg", "memory://m/", "zip://g.jpg::p.zip", f"{site.url}/shard.tar", "memory://m"]
    outcome = run("predict", "-", "--format", "jsonl", stdin="\n".join(listed).encode())
    shard = ("/shard.tar/i/i.jpg", "/shard.tar/j/j.jpg", "/shard.tar/k/k.jpg")
    memory = ("memory://m/e.jpg", "memory://m/f.jpg", "memory://m/g.jpg empty")
    assert rows_in(outcome.out, site) == ["/l.jpg", *memory, "zip://g.jpg::p.zip", *shard, "memory://m unreadable"]


def test_max_pixels_holds_for_urls_and_archives(run: Run, places: list[str], site: Site) -> None:
    inputs = ("memory://m/e.jpg", f"{site.url}/shard.tar", "local/t.tar", "zip://::p.zip")
    outcome = run("predict", *inputs, "--format", "jsonl", "--max-pixels", 10)
    rows = [json.loads(line)["error"]["code"] for line in outcome.out.splitlines()]
    assert rows == ["too_large"] * 6 + ["not_an_image", "truncated"] + ["too_large"] * 2


def test_a_gallery_shows_images_behind_urls(run: Run, places: list[str], site: Site) -> None:
    inputs = ("memory://m/e.jpg", f"{site.url}/shard.tar")
    assert run("predict", *inputs, "--gallery", "page.html", "--format", "jsonl").code == 0
    page = Path("page.html").read_text()
    assert page.count("it is in an archive, which is read in one pass only") == 3
    assert page.count("data:image/") == 1
