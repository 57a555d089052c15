import errno
import fcntl
import json
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from commands import MAIN, Outcome, Run, wait_until

from alexnet_deploy.core.errors import ImageErrorCode, UsageError
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION
from alexnet_deploy.predict.output import open_row_file, whole_rows
from alexnet_deploy.predict.prediction import Guess, Prediction
from alexnet_deploy.predict.row_formats import RowFormat, RowWriter

FORMATS: tuple[RowFormat, ...] = ("jsonl", "csv")

FAILED = ("3 could not be read: empty 2, not_an_image 1 (1 without extension)",)

Rows = Callable[..., Outcome]


@pytest.fixture
def odd_images(images: Path, tmp_path: Path) -> Path:
    """Seven inputs, three of which fail, with names that csv must quote and jsonl must escape."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.jpg", 'b, "b".jpg', "c\nc.jpg", "d\r.jpg"):
        (folder / name).write_bytes((images / "a.jpg").read_bytes())
    (folder / "empty\n.jpg").touch()
    (folder / "f, text").write_text("Dear reader")
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).touch()
    return folder


@pytest.fixture
def rows(run: Run, latest: Path, odd_images: Path) -> Rows:
    """`predict images --output out` in one format, with further options of the test."""

    def rows(row_format: str, *more: object) -> Outcome:
        return run("predict", "images", "--format", row_format, "--output", "out", *more)

    return rows


@contextmanager
def stopped_after(num_rows: int) -> Iterator[None]:
    """Interrupt a run in this context after `num_rows` rows."""
    written = 0
    row = RowWriter.row

    def interrupt(self: RowWriter, *arguments: object) -> str:
        nonlocal written
        written += 1
        if written > num_rows:
            raise KeyboardInterrupt
        return row(self, *arguments)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowWriter, "row", interrupt)
        yield


def hidden() -> list[str]:
    return sorted(path.name for path in Path().glob(".*"))


@pytest.fixture(params=FORMATS)
def row_format(request: pytest.FixtureRequest) -> RowFormat:
    name: RowFormat = request.param
    return name


@pytest.fixture
def undisturbed(rows: Rows, row_format: str) -> bytes:
    """The output of an uninterrupted run."""
    assert rows(row_format).code == 1
    whole = Path("out").read_bytes()
    Path("out").unlink()
    return whole


@pytest.fixture
def partial(rows: Rows, row_format: str, undisturbed: bytes) -> Path:
    """The hidden file of a run that was interrupted after three rows."""
    with stopped_after(3):
        outcome = rows(row_format)
    assert outcome.code == 130
    assert not Path("out").exists()
    (name,) = hidden()
    assert re.fullmatch(r"\.out\.[0-9a-f]{12}\.partial", name)
    assert f"the rows so far are in {name}; repeat the command with --resume to continue" in outcome.err
    assert undisturbed.startswith(Path(name).read_bytes())
    return Path(name)


def test_interrupted_run_is_resumed(rows: Rows, row_format: str, partial: Path, undisturbed: bytes) -> None:
    outcome = rows(row_format, "--resume")
    assert outcome.code == 1
    assert Path("out").read_bytes() == undisturbed
    assert "resuming after 3 rows" in outcome.err
    assert outcome.err.splitlines()[-2:] == ["4 predicted", *FAILED]
    assert hidden() == []


def test_rows_of_another_decoding_policy_are_not_resumed(
    rows: Rows, row_format: str, partial: Path, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet_deploy.predict.shards.record.DECODING_VERSION", DECODING_VERSION + 1)
    outcome = rows(row_format, "--resume")
    assert outcome.code == 2
    assert (
        f"{partial.name}: cannot resume: another bundle, engine, decoding policy or format gave its rows;"
        in outcome.err
    )
    assert hidden() == [partial.name]
    assert undisturbed.startswith(partial.read_bytes())


PREDICTIONS = [
    Prediction(path="a.jpg", top=(Guess(index=1, label="ship, large", probability=0.5),), error=None, message=""),
    Prediction(path="b\n,\r'\".jpg", top=(), error=ImageErrorCode.EMPTY, message="no bytes"),
    Prediction(
        path="\u00e9\\xff.jpg", top=(Guess(index=0, label='"\u4e2d"', probability=1.0),), error=None, message=""
    ),
    Prediction(path="", top=(), error=ImageErrorCode.MISSING, message='the name is "empty"\n'),
]


def write(row_format: RowFormat, output: Path, *, num_rows: int = len(PREDICTIONS), resume: bool = True) -> int:
    """Write rows up to `num_rows`, and interrupt the run if that is not all; return how many were kept."""
    writer = RowWriter(row_format, topk=2)
    with suppress(KeyboardInterrupt), open_row_file(output, writer, "a bundle", resume=resume) as rows:
        num_kept = rows.outcomes.total()
        assert list(rows.done()) == [prediction.path for prediction in PREDICTIONS[:num_kept]]
        for prediction in PREDICTIONS[num_kept:num_rows]:
            rows.write(prediction)
        if num_rows < len(PREDICTIONS):
            raise KeyboardInterrupt
    return num_kept


@pytest.fixture
def whole(row_format: RowFormat, tmp_path: Path) -> bytes:
    write(row_format, tmp_path / "whole")
    return (tmp_path / "whole").read_bytes()


@pytest.fixture
def place(row_format: RowFormat, tmp_path: Path) -> Path:
    """The hidden file of an interrupted run."""
    write(row_format, tmp_path / "out", num_rows=1)
    (place,) = tmp_path.glob(".out.*")
    return place


def test_a_file_cut_at_any_byte_is_resumed_without_duplicate_or_lost_rows(
    row_format: RowFormat, tmp_path: Path, place: Path, whole: bytes
) -> None:
    output = tmp_path / "out"
    kept = []
    for end in range(len(whole) + 1):
        place.write_bytes(whole[:end])
        kept.append(write(row_format, output))
        assert output.read_bytes() == whole, end
        output.unlink()
    assert kept == sorted(kept)
    assert [kept.count(number) > 10 for number in range(len(PREDICTIONS))] == [True] * len(PREDICTIONS)
    assert kept.count(len(PREDICTIONS)) == 1


@pytest.mark.parametrize(
    "damage",
    [
        bytes(40),
        b"\n",
        b"{}\n",
        b'"\n',
        b'{"path": 3, "ok": true}\n',
        b"a,true\n",
        b"\xff,a,b,c\n",
        b'"\n' + 20_000 * b",\n",
    ],
)
def test_rows_from_a_damaged_row_on_are_written_again(
    damage: bytes, row_format: RowFormat, tmp_path: Path, place: Path, whole: bytes
) -> None:
    # After a power failure a file may hold zeros, or blocks of another file.
    place.write_bytes(place.read_bytes() + damage + whole)
    assert write(row_format, tmp_path / "out") == 1
    assert (tmp_path / "out").read_bytes() == whole


def test_run_may_be_interrupted_repeatedly(row_format: RowFormat, tmp_path: Path, whole: bytes) -> None:
    output = tmp_path / "out"
    assert [write(row_format, output, num_rows=number) for number in (1, 1, 2, 3, 4)] == [0, 1, 1, 2, 3]
    assert output.read_bytes() == whole


def test_resume_of_a_complete_file_does_nothing(rows: Rows, row_format: str) -> None:
    assert rows(row_format, "--resume").code == 1
    whole = Path("out").read_bytes()
    outcome = rows(row_format, "--resume")
    assert outcome.code == 1
    assert outcome.err.splitlines() == [
        "out: is already complete, with one row per input",
        "4 predicted",
        *FAILED,
    ]
    Path(os.fsdecode(b"images/\xff\xff.jpg")).touch()
    said = rows(row_format, "--resume").refused(2)
    assert said == (
        r"out: is complete with 7 rows, but the inputs now continue with images/\xff\xff.jpg; choose another --output"
    )
    assert Path("out").read_bytes() == whole


def test_file_with_other_content_is_not_accepted_as_complete(rows: Rows, row_format: str) -> None:
    assert rows(row_format).code == 1
    whole = Path("out").read_bytes()
    other_topk = rows(row_format, "--resume", "--topk", 1)
    if row_format == "csv":
        # The header shows the number of classes.
        assert other_topk.refused(2).startswith("out: exists, but from byte 0 on it holds no rows of this format; ")
    else:
        assert other_topk.code == 1
        assert other_topk.err.splitlines()[0] == "out: is already complete, with one row per input"
    assert Path("out").read_bytes() == whole
    Path("out").write_bytes(whole + b"x")
    said = rows(row_format, "--resume").refused(2)
    assert said.startswith(f"out: exists, but from byte {len(whole):,} on it holds no rows of this format; ")
    Path("out").unlink()
    Path("out").mkdir()
    assert rows(row_format, "--resume").refused(2) == (
        "out: is a directory, not a regular file; choose another --output"
    )


def test_file_created_during_the_run_is_kept_and_the_rows_are_named(
    rows: Rows, row_format: str, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = RowWriter.row

    def appear(*arguments: object) -> str:
        Path("out").write_text("precious")
        return row(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(RowWriter, "row", appear)
        outcome = rows(row_format)
    (partial,) = hidden()
    assert outcome.code == 2
    assert outcome.err.endswith(
        f"error: out: was created by another program during this run; all rows are in {partial}\n"
    )
    assert Path("out").read_text() == "precious"
    assert Path(partial).read_bytes() == undisturbed


def test_file_created_just_before_the_rename_is_kept(
    row_format: RowFormat, tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rename never overwrites a file, however late it was created."""
    fsync = os.fsync

    def appear(descriptor: int) -> None:
        (tmp_path / "out").write_text("precious")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", appear)
    with pytest.raises(UsageError, match=r"out: was created by another program during this run; all rows are in "):
        write(row_format, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"
    (place,) = tmp_path.glob(".out.*")
    assert place.read_bytes() == whole


GOOD = (Guess(index=1, label="umbrella", probability=0.75), Guess(index=0, label="ship", probability=0.25))


@pytest.mark.parametrize(
    ("top", "sentence"),
    [
        ((replace(GOOD[0], index=2), GOOD[1]), "class index 2 is not in 0..1"),
        ((replace(GOOD[0], index=-1), GOOD[1]), "class index -1 is not in 0..1"),
        ((replace(GOOD[0], index=10**30), GOOD[1]), "class index 1"),
        ((replace(GOOD[0], label="ship"), GOOD[1]), "class 1 is 'umbrella', not 'ship'"),
        ((replace(GOOD[0], probability=1.5), GOOD[1]), "1.5 is not a probability"),
        ((replace(GOOD[0], probability=-0.5), GOOD[1]), "-0.5 is not a probability"),
        ((), "a prediction must have classes, and an error must have none"),
    ],
)
@pytest.mark.parametrize("is_whole", [False, True])
def test_rows_that_do_not_fit_the_bundle_are_refused(
    top: tuple[Guess, ...], sentence: str, is_whole: bool, row_format: RowFormat, tmp_path: Path
) -> None:
    writer = RowWriter(row_format, topk=2, labels=("ship", "umbrella"))
    rows = [Prediction(path=path, top=guesses, error=None, message="") for path, guesses in (("a", GOOD), ("b", top))]
    content = (writer.header() + "".join(map(writer.row, rows))).encode()
    output = tmp_path / "out"
    if is_whole:
        output.write_bytes(content)
        place = output
    else:
        with suppress(KeyboardInterrupt), open_row_file(output, writer, "a bundle", resume=True) as file:
            file.outcomes["any"] += 1
            raise KeyboardInterrupt
        (place,) = tmp_path.glob(".out.*")
        place.write_bytes(content)

    def read() -> None:
        if is_whole:
            list(whole_rows(output, writer))
        with open_row_file(output, writer, "a bundle", resume=True):
            pytest.fail("these rows must not be resumed")

    with pytest.raises(UsageError) as caught:
        read()
    assert str(caught.value).startswith(f"{place}: row 2 does not fit this bundle: {sentence}")
    assert str(caught.value).endswith("; remove the file, or choose another --output")
    assert place.read_bytes() == content


def test_nan_probability_is_refused(tmp_path: Path) -> None:
    writer = RowWriter("csv", topk=1, labels=("ship",))
    (tmp_path / "out").write_text(writer.header() + "a,true,,,0,ship,nan\n")
    with pytest.raises(UsageError, match="nan is not a probability"):
        list(whole_rows(tmp_path / "out", writer))


def test_row_without_an_end_is_not_read_into_memory(row_format: RowFormat, tmp_path: Path) -> None:
    """A sparse file with one unfinished row of five gigabytes."""
    writer = RowWriter(row_format, topk=1)
    (tmp_path / "out").write_text(writer.header() + '"')
    os.truncate(tmp_path / "out", 5 * 2**30)
    tracemalloc.start()
    with pytest.raises(UsageError, match="it holds no rows of this format"):
        list(whole_rows(tmp_path / "out", writer))
    assert tracemalloc.get_traced_memory()[1] < 300 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("more", [(), ("--resume",), ("--resume", "--retry-failed", "empty")])
def test_broken_link_is_kept(more: tuple[str, ...], rows: Rows, row_format: str) -> None:
    Path("out").symlink_to("nowhere")
    rows(row_format, *more).refused(2)
    assert Path("out").is_symlink()
    assert not Path("nowhere").exists()
    assert hidden() == []


def test_broken_link_created_during_the_run_is_kept(
    rows: Rows, row_format: str, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = RowWriter.row

    def appear(*arguments: object) -> str:
        with suppress(FileExistsError):
            Path("out").symlink_to("nowhere")
        return row(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(RowWriter, "row", appear)
        outcome = rows(row_format)
    (partial,) = hidden()
    assert outcome.code == 2
    assert outcome.err.endswith(
        f"error: out: was created by another program during this run; all rows are in {partial}\n"
    )
    assert Path("out").is_symlink()
    assert not Path("nowhere").exists()
    assert Path(partial).read_bytes() == undisturbed


@pytest.mark.parametrize(("output", "other", "is_of_it"), [("b[1]", ".b[1].", True), ("c", ".c.jsonl.", False)])
def test_only_hidden_rows_of_the_same_output_are_considered(
    output: str, other: str, is_of_it: bool, rows: Rows, run: Run
) -> None:
    Path(f"{other}{'0' * 12}.partial").write_text("x")
    outcome = run("predict", "images", "--format", "jsonl", "--output", output, "--resume")
    assert outcome.code == (2 if is_of_it else 1)
    assert Path(f"{other}{'0' * 12}.partial").read_text() == "x"


def test_run_interrupted_before_its_first_row_leaves_no_file(rows: Rows, row_format: str) -> None:
    with stopped_after(0):
        assert rows(row_format).code == 130
    assert hidden() == []


def test_rows_of_an_interrupted_run_are_not_overwritten(rows: Rows, row_format: str, partial: Path) -> None:
    kept = partial.read_bytes()
    said = rows(row_format).refused(2)
    assert said == f"{partial}: holds the rows of an interrupted run; pass --resume to continue it"
    assert partial.read_bytes() == kept


def test_run_interrupted_within_or_after_its_header_needs_no_resume(
    rows: Rows, row_format: str, partial: Path, undisturbed: bytes
) -> None:
    header = undisturbed.partition(b"\n")[0] + b"\n" if row_format == "csv" else b""
    for end in sorted({0, len(header) // 2, len(header)}):
        partial.write_bytes(header[:end])
        assert rows(row_format).code == 1, end
        assert Path("out").read_bytes() == undisturbed
        Path("out").unlink()


@pytest.mark.parametrize(
    "other", [("--topk", 1), ("--reject", 0.5), ("--max-pixels", 70_000), ("--backend", "onnxruntime")]
)
def test_rows_of_another_format_are_not_resumed(
    other: tuple[object, ...], rows: Rows, row_format: str, partial: Path
) -> None:
    kept = partial.read_bytes()
    said = rows(row_format, "--resume", *other).refused(2)
    reason = "another bundle, engine, decoding policy or format gave its rows"
    assert said == f"{partial}: cannot resume: {reason}; without --resume a new run starts and this file stays"
    assert partial.read_bytes() == kept


def test_rows_of_another_bundle_are_not_resumed(
    rows: Rows, row_format: str, partial: Path, run: Run, run_directory: Path
) -> None:
    assert run("export", "--views", "center", "--out", "bundles/other.bundle").code == 0
    said = rows(row_format, "--resume", "--bundle", "bundles/other.bundle").refused(2)
    assert said.startswith(f"{partial}: cannot resume: another bundle, engine, decoding policy or format gave its rows")


def test_rows_of_other_inputs_are_not_resumed(rows: Rows, row_format: str, partial: Path) -> None:
    kept = partial.read_bytes()
    Path("images/aa.jpg").touch()
    said = rows(row_format, "--resume").refused(2)
    assert said == ('cannot resume: row 2 was written for images/b, "b".jpg, but input 2 is now images/aa.jpg')
    for path in Path("images").iterdir():
        path.unlink()
    said = rows(row_format, "--resume").refused(2)
    assert said == "cannot resume: row 1 was written for images/a.jpg, but there are no more inputs"
    assert partial.read_bytes() == kept


def test_interrupted_table_offers_no_resume(rows: Rows) -> None:
    with stopped_after(3):
        outcome = rows("table")
    assert outcome.code == 130
    (name,) = hidden()
    assert outcome.err.splitlines()[-1] == f"the rows so far are in {name}"
    said = rows("table").refused(2)
    assert said == f"{name}: holds the rows of an interrupted run; remove it to start again"


def test_two_runs_do_not_write_the_same_rows(rows: Rows, row_format: str, partial: Path) -> None:
    with partial.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        said = rows(row_format, "--resume").refused(2)
        assert said == "out: another run is writing it; wait for it to end, or choose another --output"
    assert rows(row_format, "--resume").code == 1


def test_full_disk_is_one_sentence_and_loses_no_row(rows: Rows, row_format: str, undisturbed: bytes) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(undisturbed) - 20, hard))
    try:
        outcome = rows(row_format)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = outcome.err.splitlines()
    assert outcome.code == 3
    assert said[-1].startswith("error: out: cannot be written: File too large")
    assert rows(row_format, "--resume").code == 1
    assert Path("out").read_bytes() == undisturbed


def test_folder_that_cannot_be_synced_is_reported_for_a_complete_file(
    rows: Rows, row_format: str, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def of_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", of_files)
        outcome = rows(row_format)
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1] == (
        "error: out: is complete, but its name may be lost in a power failure: . cannot be synced: Input/output error"
    )
    assert "the rows so far are in" not in outcome.err
    assert Path("out").read_bytes() == undisturbed
    assert hidden() == []


def test_rows_that_cannot_be_synced_are_in_the_named_file(
    rows: Rows, row_format: str, undisturbed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        outcome = rows(row_format)
    (partial,) = hidden()
    assert outcome.code == 3
    said = f"error: out: cannot be written: Input/output error; the rows so far are in {partial}"
    assert outcome.err.splitlines()[-1] == said
    assert Path(partial).read_bytes() == undisturbed
    assert rows(row_format, "--resume").code == 1
    assert Path("out").read_bytes() == undisturbed


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127, "n" * 254 + "m"], ids=["ascii", "utf-8", "other end"])
def test_an_output_may_have_the_longest_name(name: str, run: Run, latest: Path, odd_images: Path) -> None:
    command = ["predict", "images", "--format", "jsonl", "--output"]
    with stopped_after(3):
        assert run(*command, name).code == 130
    with stopped_after(3):
        assert run(*command, "n" * 253).code == 130
    assert len(hidden()) == 2
    assert run(*command, name, "--topk", 1, "--resume").refused(2).startswith(".")
    assert run(*command, name, "--resume").code == 1
    assert run(*command, "whole").code == 1
    assert Path(name).read_bytes() == Path("whole").read_bytes()
    assert len(hidden()) == 1


@pytest.mark.parametrize(
    "more", [(), ("--format", "jsonl"), ("--output", "out.txt"), ("--output", "out", "--format", "table")]
)
def test_resume_needs_jsonl_or_csv_rows(more: tuple[str, ...], run: Run, latest: Path, odd_images: Path) -> None:
    said = run("predict", "images", "--resume", *more).refused(2)
    assert said == "--resume needs an --output whose --format is jsonl or csv"


def test_killed_run_is_resumed(run: Run, latest: Path, images: Path, row_format: str, tmp_path: Path) -> None:
    names = [f"{path}\n".encode() for path in sorted(images.iterdir())] * 10
    arguments = ["predict", "-", "--format", row_format, "--output", "out"]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdin is not None
    # It writes the rows of these names, and then waits for more names.
    process.stdin.write(b"".join(names[:100]))
    process.stdin.flush()
    wait_until(lambda: any(Path(name).read_bytes().count(b"\n") > 20 for name in hidden()), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    (name,) = hidden()
    num_kept = Path(name).read_bytes().count(b"\n") - (row_format == "csv")
    outcome = run(*arguments, "--resume", stdin=b"".join(names))
    assert outcome.code == 0
    assert f"resuming after {num_kept} rows" in outcome.err
    resumed = Path("out").read_bytes()
    assert run("predict", "-", "--format", row_format, stdin=b"".join(names)).out == resumed.decode()
    if row_format == "jsonl":
        assert [json.loads(line)["path"] + "\n" for line in resumed.splitlines()] == [name.decode() for name in names]
