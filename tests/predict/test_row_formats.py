import csv
import io
import json
import math
import os
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from alexnet_deploy.core.errors import ImageErrorCode, UsageError
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.predict.prediction import Guess, Prediction
from alexnet_deploy.predict.row_formats import RowFormat, RowWriter, read_row

# Every character that ends a line somewhere, and those that csv and JSON treat specially.
AWKWARD = "a,b\"c'd\\e\tf\ng\rh\x0bi\x0cj\x1ck\x85l\u2028m\u2029n\x00o\x1b[31mp"

# Possible values of Input.text: any text that UTF-8 can hold.
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(AWKWARD))
LABELS = TEXT.filter(lambda label: label.strip() and label.splitlines() == [label])
GUESSES = st.builds(Guess, index=st.integers(0, 999), label=LABELS, probability=st.floats(0, 1, width=32))
PREDICTIONS = st.builds(
    Prediction,
    path=TEXT,
    top=st.lists(GUESSES, min_size=1, max_size=3).map(tuple),
    error=st.none(),
    message=st.just(""),
) | st.builds(Prediction, path=TEXT, top=st.just(()), error=st.sampled_from(ImageErrorCode), message=TEXT)

SHIP = Guess(index=3, label="container ship", probability=0.90625)
BIKE = Guess(index=0, label="bike, mountain", probability=0.0625)
WIDE = Guess(index=0, label="目" * 60, probability=1.0)
GOOD = Prediction(path="images/a.jpg", top=(SHIP, BIKE), error=None, message="")
BAD = Prediction(path="images/b.jpg", top=(), error=ImageErrorCode.TRUNCATED, message="JPEG: ends early")
AWKWARD_GOOD = Prediction(path=AWKWARD, top=(SHIP,), error=None, message="")
AWKWARD_BAD = Prediction(path=AWKWARD, top=(), error=ImageErrorCode.UNREADABLE, message=AWKWARD)


def written(row_format: RowFormat, *predictions: Prediction, topk: int = 3) -> str:
    writer = RowWriter(row_format, topk)
    return writer.header() + "".join(writer.row(prediction) for prediction in predictions)


def test_jsonl_row_has_exactly_the_documented_fields() -> None:
    good, bad = (json.loads(line) for line in written("jsonl", GOOD, BAD).splitlines())
    assert good == {
        "path": "images/a.jpg",
        "ok": True,
        "top": [
            {"index": 3, "label": "container ship", "probability": 0.90625},
            {"index": 0, "label": "bike, mountain", "probability": 0.0625},
        ],
    }
    assert bad == {
        "path": "images/b.jpg",
        "ok": False,
        "error": {"code": "truncated", "message": "JPEG: ends early"},
    }


@given(predictions=st.lists(PREDICTIONS, max_size=4))
@example([AWKWARD_GOOD, AWKWARD_BAD])
def test_jsonl_round_trips(predictions: list[Prediction]) -> None:
    *lines, end = written("jsonl", *predictions).encode().split(b"\n")
    assert end == b""
    assert len(lines) == len(predictions)
    for line, prediction in zip(lines, predictions, strict=True):
        record = json.loads(line)
        assert record["path"] == prediction.path
        if prediction.ok:
            found = tuple(Guess(**guess) for guess in record["top"])
            assert found == prediction.top
        else:
            assert record["error"] == {"code": str(prediction.error), "message": prediction.message}


@given(predictions=st.lists(PREDICTIONS, max_size=4))
@example([AWKWARD_GOOD, AWKWARD_BAD])
@example([Prediction(path="a\rb", top=(SHIP,), error=None, message="")])
def test_csv_has_one_record_per_row_for_any_name(predictions: list[Prediction]) -> None:
    header, *records = csv.reader(io.StringIO(written("csv", *predictions), newline=""))
    assert len(records) == len(predictions)
    for record, prediction in zip(records, predictions, strict=True):
        cells = dict(zip(header, record, strict=True))
        assert cells["path"] == prediction.path
        assert cells["ok"] == ("true" if prediction.ok else "false")
        assert cells["error"] == (prediction.error or "")
        assert cells["message"] == prediction.message
        for rank in (1, 2, 3):
            found = tuple(cells[f"{name}{rank}"] for name in ("index", "label", "probability"))
            if rank <= len(prediction.top):
                guess = prediction.top[rank - 1]
                assert found[:2] == (str(guess.index), guess.label)
                assert float(found[2]) == pytest.approx(guess.probability, rel=1e-5)
            else:
                assert found == ("", "", "")


def test_csv_columns_are_those_documented() -> None:
    assert written("csv", GOOD, BAD, topk=2) == (
        "path,ok,error,message,index1,label1,probability1,index2,label2,probability2\n"
        'images/a.jpg,true,,,3,container ship,0.90625,0,"bike, mountain",0.0625\n'
        "images/b.jpg,false,truncated,JPEG: ends early,,,,,,\n"
    )


def test_table_is_for_reading() -> None:
    assert written("table", GOOD, BAD) == (
        "images/a.jpg                              90.62% container ship    6.25% bike, mountain\n"
        "images/b.jpg                                  -- truncated: JPEG: ends early\n"
    )


@given(prediction=PREDICTIONS)
@example(AWKWARD_GOOD)
@example(AWKWARD_BAD)
def test_table_row_is_one_line_without_control_characters(prediction: Prediction) -> None:
    row = written("table", prediction)
    assert row.endswith("\n")
    assert row[:-1].isprintable()


@pytest.mark.parametrize("row_format", ["table", "jsonl", "csv"])
def test_file_name_that_is_not_utf_8_can_be_written_in_every_format(row_format: RowFormat) -> None:
    path = Input(name=os.fsdecode(b"caf\xe9 \xff.jpg")).text
    row = written(row_format, Prediction(path=path, top=(SHIP,), error=None, message="")).encode()
    match row_format:
        case "jsonl":
            assert json.loads(row)["path"] == r"caf\xe9 \xff.jpg"
        case "csv" | "table":
            assert rb"caf\xe9 \xff.jpg" in row


def shown(width: int, *predictions: Prediction, topk: int = 3) -> str:
    writer = RowWriter("table", topk, label_width=14, width=width)
    return "".join(writer.row(prediction) for prediction in predictions) + writer.footer()


def failed(*codes: ImageErrorCode) -> list[Prediction]:
    return [
        Prediction(path=f"images/{number}.dat", top=(), error=code, message="no decoder recognises its header")
        for number, code in enumerate(codes)
    ]


@given(predictions=st.lists(PREDICTIONS, max_size=12), width=st.integers(20, 200))
@example([AWKWARD_GOOD, AWKWARD_BAD], 20)
@example(
    [Prediction(path="目" * 60, top=(Guess(index=0, label="目" * 60, probability=1.0),), error=None, message="")], 31
)
def test_table_on_a_terminal_never_wraps(predictions: list[Prediction], width: int) -> None:
    for line in shown(width, *predictions).splitlines():
        assert cell_len(line) <= width
        assert line.isprintable()


def test_table_on_a_terminal_keeps_the_end_of_a_path_and_the_top_1_class() -> None:
    far = Prediction(path="a/very/long/way/to/the/place/of/one.jpg", top=(SHIP, BIKE), error=None, message="")
    assert shown(60, far) == "a/very.../of/one.jpg  90.62% container ship    6.25% bike...\n"
    assert written("table", far).startswith("a/very/long/way/to/the/place/of/one.jpg ")


def test_long_run_of_one_failure_is_summarised_in_one_line_on_a_terminal() -> None:
    junk, cut = ImageErrorCode.NOT_AN_IMAGE, ImageErrorCode.TRUNCATED
    lines = shown(100, *failed(*[junk] * 300), GOOD, *failed(*[junk] * 5, *[cut] * 6)).splitlines()
    assert [line.split()[0] for line in lines] == [
        *(f"images/{number}.dat" for number in range(5)),
        "...",
        "images/a.jpg",
        *(f"images/{number}.dat" for number in range(10)),
        "...",
    ]
    assert (lines[5], lines[-1]) == ("... 295 more not_an_image", "... 1 more truncated")


@pytest.mark.parametrize("row_format", ["table", "jsonl", "csv"])
def test_every_failure_has_its_own_row_without_a_terminal(row_format: RowFormat) -> None:
    writer = RowWriter(row_format, 3)
    rows = [writer.row(prediction) for prediction in failed(*[ImageErrorCode.NOT_AN_IMAGE] * 300)]
    assert all(row.count("\n") == 1 for row in rows)
    assert writer.footer() == ""


SURE, UNSURE, FAILED = replace(GOOD, rejected=False), replace(GOOD, rejected=True), replace(BAD, rejected=False)


def with_threshold(row_format: RowFormat, *predictions: Prediction) -> str:
    writer = RowWriter(row_format, 1, reject=0.95)
    return writer.header() + "".join(map(writer.row, predictions))


def test_every_row_says_whether_it_is_rejected() -> None:
    rows = [json.loads(line) for line in with_threshold("jsonl", SURE, UNSURE, FAILED).splitlines()]
    assert [list(row)[:3] for row in rows] == [["path", "ok", "rejected"]] * 3
    assert [row["rejected"] for row in rows] == [False, True, False]
    one = (replace(each, top=each.top[:1]) for each in (SURE, UNSURE, FAILED))
    assert with_threshold("csv", *one) == (
        "path,ok,error,message,index1,label1,probability1,rejected\n"
        "images/a.jpg,true,,,3,container ship,0.90625,false\n"
        "images/a.jpg,true,,,3,container ship,0.90625,true\n"
        "images/b.jpg,false,truncated,JPEG: ends early,,,,false\n"
    )
    assert with_threshold("table", SURE, UNSURE, FAILED) == (
        "images/a.jpg                                       90.62% container ship    6.25% bike, mountain\n"
        "images/a.jpg                             rejected  90.62% container ship    6.25% bike, mountain\n"
        "images/b.jpg                                           -- truncated: JPEG: ends early\n"
    )


@pytest.mark.parametrize("row_format", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("prediction", "own", "other", "reason"),
    [
        (UNSURE, 0.95, None, "it was written with --reject"),
        (GOOD, None, 0.95, "it was written without --reject"),
        (UNSURE, 0.95, 0.5, "it was not written with --reject 0.5"),
        (SURE, 0.5, 0.95, "it was not written with --reject 0.95"),
    ],
)
def test_rows_with_another_threshold_are_refused(
    row_format: RowFormat, prediction: Prediction, own: float | None, other: float | None, reason: str
) -> None:
    record = RowWriter(row_format, 2, reject=own).row(prediction).encode()
    row = read_row(record, row_format)
    assert row is not None
    assert (row.rejected, len(row.probabilities)) == (prediction.rejected, 2)
    assert RowWriter(row_format, 2, reject=own).refusal(row) is None
    assert RowWriter(row_format, 2, reject=other).refusal(row) == reason


def test_a_probability_that_csv_rounds_to_the_threshold_is_not_refused() -> None:
    below = replace(UNSURE, top=(replace(SHIP, probability=0.79999998),))
    writer = RowWriter("csv", 1, reject=0.8)
    row = read_row(writer.row(below).encode(), "csv")
    assert row is not None
    assert row.probabilities == {3: 0.8}
    assert writer.refusal(row) is None


@pytest.mark.parametrize("reject", [-0.1, 1.1, math.nan, math.inf])
def test_a_threshold_outside_0_to_1_is_refused(reject: float) -> None:
    with pytest.raises(UsageError, match=r"^reject must be a probability, 0 to 1, got "):
        RowWriter("jsonl", 1, reject=reject)
