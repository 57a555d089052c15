"""Ray itself, on this machine: each test starts a cluster of its own, which takes seconds."""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import ray_dataset
import ray_kills
from commands import HANGS_AFTER_S, Run, spawn

from alexnet_deploy.core.bundle.store import Bundle


def program(place: str, *arguments: object) -> dict[str, object]:
    """What a program that uses Ray prints."""
    done = subprocess.run(
        [sys.executable, place, *map(str, arguments)],
        capture_output=True,
        check=False,
        # Workers usually step back for all other work, such as the tests beside these.
        env={**os.environ, "RAY_worker_niceness": "0"},
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize(("num_kills", "num_names"), [(4, 800), pytest.param(50, 1600, marks=pytest.mark.slow)])
def test_killed_workers_and_jobs_leave_the_bytes_of_one_run(
    num_kills: int, num_names: int, bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    names = [f"{images}/{'abcdefghijkl'[number % 12]}.jpg" for number in range(num_names)]
    for number in (0, 300, num_names - 1):
        names[number] = "nowhere.jpg"
    listed = tmp_path / "names"
    listed.write_text("".join(f"{name}\n" for name in names))
    counts = program(ray_kills.__file__, tmp_path, bundle.path, listed, num_kills, 3)
    assert counts["drivers"] == num_kills // 4
    assert counts["workers"] == num_kills - num_kills // 4


def test_rows_of_datasets_say_what_predict_says(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jpg").write_bytes((images / f"{name}.jpg").read_bytes())
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("no image")
    with tarfile.open(tmp_path / "samples.tar", "w") as archive:
        for path in sorted(folder.iterdir()):
            for ending, data in (("jpg", path.read_bytes()), ("cls", b"3")):
                member = tarfile.TarInfo(f"{path.stem}.{ending}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    options = ("--bundle", bundle.path, "--topk", "1")
    done = spawn("predict", folder, "nowhere.jpg", *options, "--format", "jsonl")
    expected = [json.loads(line) for line in done.out.splitlines()]
    assert [row["ok"] for row in expected] == [True, True, True, False, False, False]

    found = program(ray_dataset.__file__, bundle.path, folder, tmp_path / "samples.tar")
    by_number = sorted(found["paths"], key=lambda row: row["number"])  # type: ignore[call-overload]
    assert [row["number"] for row in by_number] == list(range(6))
    by_path = sorted(found["files"], key=lambda row: row["path"])  # type: ignore[call-overload]
    by_key = sorted(found["samples"], key=lambda row: row["__key__"])  # type: ignore[call-overload]
    for rows in (by_number, by_path, by_key):
        for row, wanted in zip(rows, expected, strict=False):
            assert row["ok"] == wanted["ok"]
            if wanted["ok"]:
                assert [guess["label"] for guess in row["top"]] == [wanted["top"][0]["label"]]
                assert row["top"][0]["probability"] == pytest.approx(wanted["top"][0]["probability"], abs=1e-6)
                assert row["error"] is row["message"] is None
            else:
                assert (row["error"], row["message"]) == (wanted["error"]["code"], wanted["error"]["message"])
                assert row["top"] == []
    assert [row["path"] for row in by_number] == [row["path"] for row in expected]
    assert [Path(row["path"]).name for row in by_path] == ["a.jpg", "b.jpg", "c.jpg", "empty.jpg", "text.jpg"]
    assert [row["__key__"] for row in by_key] == ["a", "b", "c", "empty", "text"]
    assert {row["rejected"] for row in by_number if row["ok"]} == {True}
    assert {row["rejected"] for row in by_path} == {None}
    there, null = sorted(found["large"], key=lambda row: row["number"])  # type: ignore[call-overload]
    assert (there["path"], there["ok"]) == (f"{folder}/a.jpg", True)
    assert (null["path"], null["error"]) == (None, "empty")
    assert found["none"] == []
    assert found["refused"] == [
        "the dataset has no column picture but bytes, path",
        "the dataset has no column `bytes` or `path` but __key__, jpg, cls, __url__; pass column=",
        "the dataset has a column top already; rename it, or drop it with drop_columns",
        "the column number holds int64, but images are the bytes of image files, or their paths as text",
    ]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--output", "rows.jsonl", "--shard", "1/2"], "--ray writes rows only; leave out --shard"),
        (["--output", "rows.jsonl", "--gallery", "page.html"], "leave out --gallery, or --ray"),
        (["--output", "rows.jsonl", "--resume", "--retry-failed", "all"], "leave out --retry-failed, or --ray"),
        ([], "--ray needs an --output whose --format is jsonl or csv"),
        (["--output", "rows.txt"], "--ray needs an --output whose --format is jsonl or csv"),
    ],
)
def test_options_that_do_not_go_with_it_are_refused(options: list[str], sentence: str, run: Run, images: Path) -> None:
    assert sentence in run("predict", images, "--ray", "local", *options).refused(2)


def test_an_address_without_a_cluster_is_refused(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    done = spawn("predict", images, "--bundle", bundle.path, "--ray", "127.0.0.1:1", "--output", output)
    assert done.refused(3).startswith("--ray 127.0.0.1:1: cannot connect: ")
    assert not output.exists()
