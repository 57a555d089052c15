"""`predict --shard K/N` and `merge`, as commands."""

import json
from pathlib import Path

import pytest
from commands import Run

COMMON = ("predict", "-", "--null", "--output")


NUM_FAILED = 6


@pytest.fixture(params=[36, pytest.param(804, marks=pytest.mark.slow)])
def names(request: pytest.FixtureRequest, images: Path, latest: Path, tmp_path: Path) -> list[bytes]:
    """Names of twelve images, six of which cannot be read."""
    (tmp_path / "text.jpg").write_text("Dear reader")
    (tmp_path / "empty,\n.jpg").touch()
    listed = [str(images / f"{'abcdefghijkl'[number % 12]}.jpg") for number in range(request.param)]
    listed[3:5], listed[20:22] = ["text.jpg", "nowhere.jpg"], ["empty,\n.jpg", "gone.jpg"]
    listed[-2:] = ["empty,\n.jpg", "text.jpg"]
    return [f"{name}\0".encode() for name in listed]


@pytest.mark.parametrize("row_format", ["jsonl", "csv"])
def test_four_shards_merge_to_the_bytes_of_one_run(row_format: str, run: Run, names: list[bytes]) -> None:
    stdin = b"".join(names)
    whole = run(*COMMON, f"whole.{row_format}", stdin=stdin)
    assert whole.code == 1
    for number in (3, 1, 4, 2):
        outcome = run(*COMMON, f"rows-{number}.{row_format}", "--shard", f"{number}/4", stdin=stdin)
        assert outcome.code == 1, outcome
        assert f"shard {number}/4, of {len(names)} inputs\n" in outcome.err
    merged = run("merge", *Path().glob(f"rows-*.{row_format}"), "--output", f"merged.{row_format}")
    assert merged.code == 1
    said = merged.err.splitlines()
    assert said[:2] == [
        f"merged.{row_format}: {len(names)} rows of 4 shards",
        f"{len(names) - NUM_FAILED} predicted",
    ]
    reasons = said[2].removeprefix("6 could not be read: ")
    assert sorted(reasons.split(", ")) == ["empty 2", "missing 2", "not_an_image 2"]
    assert Path(f"merged.{row_format}").read_bytes() == Path(f"whole.{row_format}").read_bytes()
    assert not list(Path().glob(".*"))


def test_shards_of_a_folder_without_failures_merge_with_success(run: Run, images: Path, latest: Path) -> None:
    for number in (1, 2):
        assert run("predict", images, "--output", f"rows-{number}.jsonl", "--shard", f"{number}/2").code == 0
    assert run("merge", "rows-2.jsonl", "rows-1.jsonl", "--output", "all.jsonl").code == 0
    paths = [json.loads(line)["path"] for line in Path("all.jsonl").read_text().splitlines()]
    assert paths == sorted(str(path) for path in images.iterdir())


def test_more_shards_than_inputs(run: Run, images: Path, latest: Path) -> None:
    for number in (1, 2, 3):
        outcome = run("predict", images / "a.jpg", "--output", f"rows-{number}.csv", "--shard", f"{number}/3")
        assert outcome.code == 0, outcome
    assert run("merge", *Path().glob("rows-*.csv"), "--output", "all.csv").code == 0
    assert run("predict", images / "a.jpg", "--output", "whole.csv").code == 0
    assert Path("all.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_a_list_without_names_needs_the_option(run: Run, latest: Path) -> None:
    command = ("predict", "-", "--output", "rows.jsonl", "--shard", "1/1")
    assert run(*command).refused(2) == "stdin: the list names no files; pass --allow-empty to accept that"
    assert not Path("rows.jsonl.shard.json").exists()
    assert run(*command, "--allow-empty").code == 0
    assert run("merge", "rows.jsonl", "--output", "all.jsonl").code == 0
    assert Path("all.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shard", "x"], "--shard x: must be K/N, the shard's number and the number of shards, as in 3/16"),
        (["--shard", "0/4"], "--shard 0/4: K must be in 1..N, as in 1/4"),
        (["--shard", "5/4"], "--shard 5/4: K must be in 1..N, as in 1/4"),
        (["--shard", "3/0"], "--shard 3/0: K must be in 1..N, as in 1/1"),
        (["--shard", "1/2"], "--shard needs an --output whose --format is jsonl or csv, for `alexnet-deploy merge`"),
        (
            ["--shard", "1/2", "--output", "o.txt"],
            "--shard needs an --output whose --format is jsonl or csv, for `alexnet-deploy merge`",
        ),
        (
            ["--shard", "1/2", "--output", "o.csv", "--gallery", "g.html"],
            "--shard writes rows only; leave out --gallery, or --shard",
        ),
        (
            ["--shard", "1/2", "--output", "o.csv", "--features", "f.npy"],
            "--shard writes rows only; leave out --features, or --shard",
        ),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], sentence: str, run: Run, images: Path, latest: Path
) -> None:
    assert run("predict", images, *options).refused(2) == sentence
    assert not [path for path in Path().iterdir() if path.name != "bundles"]


def test_another_program_s_file_is_not_replaced_by_the_record(run: Run, images: Path, latest: Path) -> None:
    Path("rows.csv.shard.json").write_text("precious")
    said = run("predict", images, "--output", "rows.csv", "--shard", "1/2").refused(2)
    assert said.startswith("rows.csv.shard.json: is not a valid record of a shard: ")
    assert said.endswith("; remove it, or choose another --output")
    assert Path("rows.csv.shard.json").read_text() == "precious"


def test_a_shard_is_resumed_and_its_failures_are_retried(run: Run, images: Path, latest: Path) -> None:
    listed = [f"{images}/a.jpg", "b.jpg", f"{images}/c.jpg", "d.jpg", f"{images}/e.jpg"]
    stdin = "".join(f"{name}\n" for name in listed).encode()
    command = ("predict", "-", "--output", "rows-2.jsonl", "--shard", "2/2")
    assert run(*command, stdin=stdin).code == 1
    again = run(*command, "--resume", stdin=stdin)
    assert (again.code, again.err.splitlines()[0]) == (1, "rows-2.jsonl: is already complete, with one row per input")
    Path("b.jpg").write_bytes((images / "b.jpg").read_bytes())
    assert run(*command, "--resume", "--retry-failed", "missing", stdin=stdin).code == 1
    assert [json.loads(line)["ok"] for line in Path("rows-2.jsonl").read_text().splitlines()] == [True, False]
    assert run("predict", "-", "--output", "rows-1.jsonl", "--shard", "1/2", stdin=stdin).code == 0
    assert run("merge", "rows-1.jsonl", "rows-2.jsonl", "--output", "all.jsonl").code == 1
    assert run("predict", "-", "--output", "whole.jsonl", stdin=stdin).code == 1
    assert Path("all.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    changed = run(*command, "--resume", stdin=stdin.replace(b"e.jpg", b"f.jpg")).refused(2)
    assert changed == (
        "rows-2.jsonl: is complete, but inputs of other shards have changed since; choose another --output"
    )
    said = run(*command[:-1], "1/2", "--resume", stdin=stdin).refused(2)
    assert said == "rows-2.jsonl: holds shard 2/2, not 1/2; choose another --output"
    said = run(*command, "--resume", "--retry-failed", "all", "--backend", "onnxruntime", stdin=stdin).refused(2)
    assert said.startswith("rows-2.jsonl: its rows are from ")


def test_merge_refuses_an_output_that_exists_or_means_another_format(run: Run, images: Path, latest: Path) -> None:
    assert run("predict", images, "--output", "rows.jsonl", "--shard", "1/1").code == 0
    said = run("merge", "rows.jsonl", "--output", "rows.jsonl").refused(2)
    assert said == "rows.jsonl: already exists; choose another --output"
    said = run("merge", "rows.jsonl", "--output", "all.csv").refused(2)
    assert said == "all.csv: its extension means csv, but the rows are jsonl; choose another --output"
    said = run("merge", "rows.jsonl", "--output", "nowhere/all.jsonl").refused(2)
    assert said == "nowhere/all.jsonl: there is no folder nowhere; create it first"
    said = run("merge", "rows.jsonl").refused(2)
    assert said == "merge: --output is missing; `alexnet-deploy merge --help` shows the options"
    rows = Path("rows.jsonl").read_bytes()
    Path("rows.jsonl").write_bytes(rows[:-1])
    said = run("merge", "rows.jsonl", "--output", "all.jsonl").refused(3)
    assert said.startswith("rows.jsonl: was changed after its record was written: it has 11 complete rows, not 12; ")
    assert not Path("all.jsonl").exists()
