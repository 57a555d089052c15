"""--retry-failed replaces the rows of failed inputs in place, also when it is interrupted at any point."""

import fcntl
import itertools
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from commands import Run

from alexnet_deploy.cli.commands.predict import RetryCode
from alexnet_deploy.core.errors import ImageErrorCode, UsageError
from alexnet_deploy.predict.output import open_row_file
from alexnet_deploy.predict.prediction import Guess, Prediction
from alexnet_deploy.predict.resume import Again
from alexnet_deploy.predict.row_formats import RowFormat, RowWriter

ALL = frozenset(ImageErrorCode)


def predicted(path: str, probability: float) -> Prediction:
    return Prediction(
        path=path, top=(Guess(index=1, label="ship, large", probability=probability),), error=None, message=""
    )


def failed(path: str, code: ImageErrorCode) -> Prediction:
    return Prediction(path=path, top=(), error=code, message=f"it is\n{code}")


NOW = [
    predicted("a.jpg", 0.5),
    predicted("b\n,\r'\".jpg", 0.25),
    failed("c.jpg", ImageErrorCode.EMPTY),
    predicted("d.jpg", 0.125),
    predicted("e.jpg", 0.75),
]

BEFORE = [
    failed("a.jpg", ImageErrorCode.UNREADABLE),
    NOW[1],
    NOW[2],
    failed("d.jpg", ImageErrorCode.MISSING),
    NOW[4],
]
"""The same inputs while a network share was unavailable."""


@pytest.fixture(params=["jsonl", "csv"])
def row_format(request: pytest.FixtureRequest) -> RowFormat:
    name: RowFormat = request.param
    return name


@pytest.fixture
def writer(row_format: RowFormat) -> RowWriter:
    return RowWriter(row_format, topk=1)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


def text(writer: RowWriter, predictions: list[Prediction]) -> bytes:
    return (writer.header() + "".join(map(writer.row, predictions))).encode()


def answer(
    output: Path,
    writer: RowWriter,
    answers: list[Prediction],
    *,
    again: frozenset[str] = frozenset(),
    stop_after: int = 99,
    resume: bool = True,
) -> int:
    """Do what `predict` does, with `answers` as the predictions; return how many inputs were predicted."""
    num_predicted = 0
    with (
        suppress(KeyboardInterrupt),
        open_row_file(output, writer, "a bundle", resume=resume, again=again) as rows,
    ):
        for mark, prediction in itertools.zip_longest(list(rows.done()), answers):
            if mark is not None and not isinstance(mark, Again):
                assert mark == prediction.path
                continue
            if num_predicted == stop_after:
                raise KeyboardInterrupt
            num_predicted += 1
            rows.write(prediction)
    assert num_predicted == stop_after or rows.outcomes.total() == len(answers)
    return num_predicted


def hidden(output: Path) -> list[Path]:
    return sorted(output.parent.glob(".out.*"))


@pytest.mark.parametrize("num_before", [1, 3, 4, 5])
@pytest.mark.parametrize("stops", [(), (0,), (1,), (1, 1), (0, 1, 0)])
def test_rows_of_an_interrupted_run_are_replaced_and_the_run_is_completed(
    num_before: int, stops: tuple[int, ...], output: Path, writer: RowWriter
) -> None:
    answer(output, writer, BEFORE, resume=False, stop_after=num_before - (num_before == 5))
    for stop in stops:
        answer(output, writer, NOW, again=ALL, stop_after=stop)
        assert not output.exists()
    answer(output, writer, NOW, again=ALL)
    assert output.read_bytes() == text(writer, NOW)
    assert hidden(output) == []


@pytest.mark.parametrize("stops", [(), (0,), (1,), (1, 1), (2, 1)])
def test_rows_of_a_complete_file_are_replaced_and_it_stays_complete_throughout(
    stops: tuple[int, ...], output: Path, writer: RowWriter
) -> None:
    answer(output, writer, BEFORE, resume=False)
    for stop in stops:
        answer(output, writer, NOW, again=ALL, stop_after=stop)
        assert output.read_bytes() == text(writer, BEFORE)
    answer(output, writer, NOW, again=ALL)
    assert output.read_bytes() == text(writer, NOW)
    assert hidden(output) == []


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_retry_cut_at_any_byte_is_resumed_without_duplicate_or_lost_rows(
    is_whole: bool, output: Path, writer: RowWriter
) -> None:
    older, whole = text(writer, BEFORE), text(writer, NOW)
    answer(output, writer, BEFORE, resume=False, stop_after=99 if is_whole else 4)
    place = output if is_whole else hidden(output)[0]
    older = place.read_bytes()
    answer(output, writer, NOW, again=ALL, stop_after=1)
    (replacing,) = [path for path in hidden(output) if ".again." in path.name]
    for end in range(len(whole) + 1):
        place.write_bytes(older)
        replacing.write_bytes(whole[:end])
        answer(output, writer, NOW, again=ALL)
        assert output.read_bytes() == whole, end
        if not is_whole:
            output.unlink()


def test_resumed_retry_does_not_retry_an_input_twice(output: Path, writer: RowWriter) -> None:
    still = [BEFORE[0], *NOW[1:]]
    answer(output, writer, BEFORE, resume=False, stop_after=4)
    assert answer(output, writer, still, again=ALL, stop_after=2) == 2
    # d.jpg remains, and e.jpg, which had no row.
    assert answer(output, writer, still, again=ALL) == 2
    assert output.read_bytes() == text(writer, still)


@pytest.mark.parametrize(
    ("codes", "replaced"), [({"missing"}, [3]), ({"unreadable", "empty"}, [0, 2]), ({"truncated"}, [])]
)
def test_rows_with_other_errors_stay(codes: set[str], replaced: list[int], output: Path, writer: RowWriter) -> None:
    changed = [predicted(prediction.path, 0.875) for prediction in BEFORE]
    answer(output, writer, BEFORE, resume=False, stop_after=4)
    answer(output, writer, [*changed[:4], NOW[4]], again=frozenset(codes))
    expected = [changed[index] if index in replaced else row for index, row in enumerate(BEFORE)]
    assert output.read_bytes() == text(writer, expected)


def test_rows_of_another_bundle_are_not_mixed_into_a_complete_file(output: Path, writer: RowWriter) -> None:
    answer(output, writer, BEFORE, resume=False)
    other = [replace(NOW[0]), predicted(NOW[1].path, 0.2501), *NOW[2:]]
    with pytest.raises(UsageError, match="is not reproduced, so another bundle, engine or image gave its rows; "):
        answer(output, writer, other, again=ALL)
    assert output.read_bytes() == text(writer, BEFORE)
    # A difference in the last digits, as from another batch size, is accepted, and the row stays unchanged.
    near = [NOW[0], predicted(NOW[1].path, 0.250001), *NOW[2:]]
    answer(output, writer, near, again=ALL)
    assert output.read_bytes() == text(writer, NOW)


def test_a_complete_file_does_not_grow(output: Path, writer: RowWriter) -> None:
    answer(output, writer, BEFORE[:4], resume=False)
    with pytest.raises(UsageError, match="is complete with 4 rows, but there are more inputs; choose another --output"):
        answer(output, writer, NOW, again=ALL)
    assert output.read_bytes() == text(writer, BEFORE[:4])


def test_resume_without_the_option_does_not_skip_an_interrupted_retry(output: Path, writer: RowWriter) -> None:
    answer(output, writer, BEFORE, resume=False, stop_after=4)
    answer(output, writer, NOW, again=ALL, stop_after=1)
    with pytest.raises(UsageError, match=r"\.again\.partial: holds rows of an interrupted --retry-failed; repeat --"):
        answer(output, writer, NOW)
    answer(output, writer, NOW, again=ALL)
    assert output.read_bytes() == text(writer, NOW)


@pytest.mark.parametrize("is_whole", [True, False])
def test_two_runs_do_not_replace_the_same_rows(is_whole: bool, output: Path, writer: RowWriter) -> None:
    answer(output, writer, BEFORE, resume=False, stop_after=99 if is_whole else 4)
    answer(output, writer, NOW, again=ALL, stop_after=1)
    for place in hidden(output):
        with place.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            with pytest.raises(UsageError, match="another run is writing it; wait for it to end"):
                answer(output, writer, NOW, again=ALL)
    answer(output, writer, NOW, again=ALL)
    assert output.read_bytes() == text(writer, NOW)


def test_a_file_that_was_replaced_during_the_run_is_kept(output: Path, writer: RowWriter) -> None:
    answer(output, writer, BEFORE, resume=False)

    def rows() -> Iterator[None]:
        with open_row_file(output, writer, "a bundle", resume=True, again=ALL) as file:
            retried = [row for mark, row in zip(file.done(), NOW, strict=True) if isinstance(mark, Again)]
            file.write(retried[0])
            yield
            for row in retried[1:]:
                file.write(row)
        yield

    steps = rows()
    next(steps)
    output.unlink()
    output.write_text("precious")
    with pytest.raises(UsageError, match="was replaced by another program during this run; all rows are in "):
        next(steps)
    assert output.read_text() == "precious"
    assert hidden(output)[0].read_bytes() == text(writer, NOW)


# The command


@pytest.fixture
def photographs(images: Path, latest: Path) -> list[str]:
    """Names of four images, two of which do not exist."""
    Path("images").mkdir()
    names = [f"images/{name}.jpg" for name in "abcd"]
    for name in (names[0], names[3]):
        Path(name).write_bytes((images / Path(name).name).read_bytes())
    return names


def test_the_result_is_that_of_a_run_without_failures(
    run: Run, photographs: list[str], images: Path, row_format: str
) -> None:
    stdin = "".join(f"{name}\0" for name in photographs).encode()
    common = ["predict", "-", "--null", "--format", row_format, "--output"]
    assert run(*common, "out", stdin=stdin).code == 1
    for name in photographs[1:3]:
        Path(name).write_bytes((images / Path(name).name).read_bytes())
    assert run(*common, "undisturbed", stdin=stdin).code == 0
    outcome = run(*common, "out", "--resume", "--retry-failed", "missing", "--retry-failed", "empty", stdin=stdin)
    assert outcome.code == 0, outcome.err
    assert outcome.err.splitlines()[-1] == "4 predicted"
    assert Path("out").read_bytes() == Path("undisturbed").read_bytes()
    again = run(*common, "out", "--resume", "--retry-failed", "all", stdin=stdin)
    assert again.err.splitlines() == ["out: is already complete, with one row per input", "4 predicted"]


def test_rows_of_other_inputs_are_not_replaced(run: Run, photographs: list[str], row_format: str) -> None:
    common = ["--format", row_format, "--output", "out"]
    assert run("predict", *photographs, *common).code == 1
    kept = Path("out").read_bytes()
    said = run("predict", photographs[3], *photographs[1:], *common, "--resume", "--retry-failed", "all").refused(2)
    assert said == "cannot resume: row 1 was written for images/a.jpg, but input 1 is now images/d.jpg"
    assert Path("out").read_bytes() == kept


def test_the_option_accepts_every_error_code() -> None:
    assert set(RetryCode) == {"all", *ImageErrorCode}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["a.jpg", "--retry-failed", "all"],
            "--retry-failed needs --resume, because it replaces rows of an earlier run",
        ),
        (["a.jpg", "--null"], "--null needs the input -, which reads a list from stdin"),
    ],
)
def test_options_without_effect_are_refused(options: list[str], sentence: str, run: Run, latest: Path) -> None:
    assert run("predict", *options).refused(2) == sentence


def test_rows_started_for_another_file_are_not_used(output: Path, writer: RowWriter) -> None:
    """An interrupted retry leaves rows, but the file that they were to replace is a different one by now."""
    output.write_bytes(text(writer, BEFORE))
    answer(output, writer, NOW, again=ALL, stop_after=2)
    (left,) = hidden(output)
    output.unlink()
    others = [predicted("a.jpg", 0.9), failed("b\n,\r'\".jpg", ImageErrorCode.MISSING)]
    output.write_bytes(text(writer, others))
    mended = predicted("b\n,\r'\".jpg", 0.8)
    with open_row_file(output, writer, "a bundle", resume=True, again=frozenset({"missing"})) as rows:
        assert rows.outcomes.total() == 0
        marks = list(rows.done())
        assert [isinstance(mark, Again) for mark in marks] == [True, True]
        rows.write(others[0])
        rows.write(mended)
    assert output.read_bytes() == text(writer, [others[0], mended])
    assert hidden(output) == [left]


def test_the_file_behind_a_link_is_replaced(output: Path, writer: RowWriter) -> None:
    place = output.with_name("elsewhere")
    place.write_bytes(text(writer, BEFORE))
    output.symlink_to(place)
    answer(output, writer, NOW, again=ALL)
    assert output.is_symlink()
    assert place.read_bytes() == text(writer, NOW)


def test_an_interrupted_run_with_all_its_rows_is_completed(
    run: Run, latest: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before its rename, and no row has the requested error code."""
    command = ("predict", images, "--output", "rows.jsonl")
    rename = os.link

    def fail(path: Path, target: Path) -> None:
        raise KeyboardInterrupt if path.name.startswith(".rows.jsonl") else AssertionError(path)

    monkeypatch.setattr(os, "link", fail)
    assert run(*command).code == 130
    monkeypatch.setattr(os, "link", rename)
    (left,) = Path.cwd().glob(".rows.jsonl.*")
    rows = left.read_bytes()
    outcome = run(*command, "--resume", "--retry-failed", "unreadable")
    assert outcome.code == 0, outcome.err
    assert Path("rows.jsonl").read_bytes() == rows
