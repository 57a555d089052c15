import resource
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shard_files import ORIGIN, write_shard, write_shards

from alexnet_deploy.core.errors import DataError, ImageErrorCode, UsageError
from alexnet_deploy.predict.output import open_row_file, writing_whole
from alexnet_deploy.predict.prediction import Guess, Prediction
from alexnet_deploy.predict.row_formats import RowFormat, RowWriter
from alexnet_deploy.predict.shards.inputs import Shard
from alexnet_deploy.predict.shards.merging import merge_rows, read_shards
from alexnet_deploy.predict.shards.sidecar import record_place

# Names that csv must quote, also over several lines.
TEXTS = st.text(alphabet='a,"\n\r\t é\0', max_size=6)
GUESSES = st.builds(
    Guess, index=st.integers(0, 9), label=TEXTS.filter(lambda t: "\0" not in t), probability=st.floats(0, 1)
)
GOOD = st.builds(
    lambda path, top: Prediction(path=path, top=(top,), error=None, message=""),
    TEXTS.filter(lambda text: "\0" not in text),
    GUESSES,
)
FAILED = st.builds(
    lambda path, code, message: Prediction(path=path, top=(), error=code, message=message),
    TEXTS.filter(lambda text: "\0" not in text),
    st.sampled_from(ImageErrorCode),
    TEXTS.filter(lambda text: "\0" not in text),
)


def merge(places: list[Path], output: Path) -> dict[str, int]:
    with writing_whole(output) as put:
        return dict(merge_rows(read_shards(places), put, lambda done, total: None))


def one_run(output: Path, predictions: list[Prediction], writer: RowWriter) -> bytes:
    with open_row_file(output, writer, ORIGIN.words, resume=False) as rows:
        for prediction in predictions:
            rows.write(prediction)
    return output.read_bytes()


@given(
    predictions=st.lists(GOOD | FAILED, max_size=12),
    count=st.integers(1, 6),
    row_format=st.sampled_from(["jsonl", "csv"]),
    order=st.randoms(use_true_random=False),
)
def test_merged_shards_are_the_rows_of_one_run(
    predictions: list[Prediction],
    count: int,
    row_format: RowFormat,
    order: Random,
) -> None:
    writer = RowWriter(row_format, topk=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        places = write_shards(folder, count, predictions, writer)
        order.shuffle(places)
        outcomes = merge(places, folder / "merged")
        assert (folder / "merged").read_bytes() == one_run(folder / "whole", predictions, writer)
        assert sum(outcomes.values()) == len(predictions)
        assert len(list(folder.iterdir())) == 2 * count + 2


PREDICTIONS = [
    Prediction(path=f"{number},\n.jpg", top=(Guess(index=1, label="ship", probability=0.5),), error=None, message="")
    for number in range(10)
]
PREDICTIONS[6] = Prediction(path="6.jpg", top=(), error=ImageErrorCode.MISSING, message="no such file")


@pytest.fixture(params=["jsonl", "csv"])
def writer(request: pytest.FixtureRequest) -> RowWriter:
    return RowWriter(request.param, topk=1)


@pytest.fixture
def places(writer: RowWriter, tmp_path: Path) -> list[Path]:
    return write_shards(tmp_path, 4, PREDICTIONS, writer)


def refused(places: list[Path], kind: type[Exception] = UsageError) -> str:
    """Return why these files are not merged, without the folder; nothing is left of the attempt."""
    folder = places[0].parent
    before = sorted(folder.iterdir())
    with pytest.raises(kind) as caught:
        merge(places, folder / "merged")
    assert sorted(folder.iterdir()) == before
    return str(caught.value).replace(f"{folder}/", "")


def test_missing_shards_are_named(places: list[Path], writer: RowWriter, tmp_path: Path) -> None:
    remedy = "missing; `predict --shard K/N` makes one, and merge needs the rows of all"
    assert refused([places[0], places[1], places[3]]) == f"shard 3/4 is {remedy}"
    assert refused([places[1]]) == f"shards 1/4, 3/4, 4/4 are {remedy}"
    (tmp_path / "many").mkdir()
    (one, *_) = write_shards(tmp_path / "many", 100, PREDICTIONS, writer)
    assert refused([one]) == f"shards 2/100, 3/100, 4/100, 5/100, 6/100 and 94 more are {remedy}"


def test_a_doubled_shard_is_named(places: list[Path], writer: RowWriter, tmp_path: Path) -> None:
    assert refused([*places, places[2]]) == "shard 3/4 is given twice: rows-3 and rows-3; leave out one of them"
    copy = write_shard(tmp_path / "copy", Shard(number=3, count=4), PREDICTIONS, writer)
    assert refused([*places, copy]) == "shard 3/4 is given twice: rows-3 and copy; leave out one of them"


FOREIGN = {
    "another number of shards": (3, ORIGIN, 1, None, PREDICTIONS),
    "another bundle": (4, msgspec.structs.replace(ORIGIN, bundle_sha256=64 * "b"), 1, None, PREDICTIONS),
    "another engine": (4, msgspec.structs.replace(ORIGIN, arithmetic="bfloat16"), 1, None, PREDICTIONS),
    "another decoding policy": (4, msgspec.structs.replace(ORIGIN, decoding_version=3), 1, None, PREDICTIONS),
    "another --topk": (4, ORIGIN, 2, None, PREDICTIONS),
    "another --reject": (4, ORIGIN, 1, 0.5, PREDICTIONS),
    "another number of inputs": (4, ORIGIN, 1, None, PREDICTIONS[:-1]),
    "another list of inputs": (4, ORIGIN, 1, None, [*PREDICTIONS[:-2], PREDICTIONS[0], PREDICTIONS[1]]),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_foreign_shard_is_named(name: str, at: int, places: list[Path], writer: RowWriter, tmp_path: Path) -> None:
    count, origin, topk, reject, predictions = FOREIGN[name]
    other = RowWriter(writer.form[0], topk=topk, reject=reject)
    shard = Shard(number=min(at + 1, count), count=count)
    places[at] = write_shard(tmp_path / "other", shard, predictions, other, origin)
    first = "rows-2" if at == 0 else "rows-1"
    said = refused(places)
    assert said.startswith(f"other: is of {name} than {first}: ")
    assert said.endswith("; merge the shards of one run")


def test_a_shard_of_another_format_is_named(places: list[Path], writer: RowWriter, tmp_path: Path) -> None:
    other = RowWriter("csv" if writer.form[0] == "jsonl" else "jsonl", topk=1)
    places[2] = write_shard(tmp_path / "other", Shard(number=3, count=4), PREDICTIONS, other)
    assert refused(places).startswith("other: is of another format than rows-1: ")


def cut(rows: bytes) -> bytes:
    return rows[:-5]


CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (cut, "it has 1 complete row, not 2"),
    "longer": (lambda rows: rows + rows, "it has more than 2 rows"),
    "zeros": (lambda rows: rows + b"\0", "it has more than 2 rows"),
    "other": (lambda rows: rows.replace(b"0.5", b"0.7"), "its SHA-256 differs"),
    "row of another": (lambda rows: rows.replace(b"ship", b"boat"), "its SHA-256 differs"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changed_rows_are_named(name: str, places: list[Path]) -> None:
    change, found = CHANGES[name]
    places[3].write_bytes(change(places[3].read_bytes()))
    remedy = "remove both, and repeat its `predict --shard`"
    assert refused(places, DataError) == f"rows-4: was changed after its record was written: {found}; {remedy}"


def test_an_empty_file_in_place_of_rows_is_named(places: list[Path], writer: RowWriter) -> None:
    places[0].write_bytes(b"")
    found = "its first line is not the header" if writer.form[0] == "csv" else "it has 0 complete rows, not 3"
    assert f"rows-1: was changed after its record was written: {found}; " in refused(places, DataError)


def test_a_file_that_is_no_shard_is_named(places: list[Path], writer: RowWriter, tmp_path: Path) -> None:
    assert refused([record_place(places[0])]) == "rows-1.shard.json: is the record of a shard; name its rows, rows-1"
    assert refused([tmp_path / "x"]) == "x: there is no such file; `predict --shard K/N` makes one"
    one_run(tmp_path / "whole", PREDICTIONS, writer)
    said = refused([*places, tmp_path / "whole"])
    assert said.startswith("whole: has no record whole.shard.json beside it, so it is not a shard; ")
    record_place(places[1]).write_text("{}")
    assert "rows-2.shard.json: is not a valid record of a shard: " in refused(places, DataError)


def test_a_shard_that_is_not_complete_is_named(places: list[Path], tmp_path: Path) -> None:
    """Killed after its record was written."""
    places[1].rename(tmp_path / f".rows-2.{12 * '0'}.partial")
    assert refused(places) == "rows-2: is not complete; repeat its `predict --shard` with --resume"
    (tmp_path / f".rows-2.{12 * '0'}.partial").unlink()
    assert refused(places) == "rows-2, shard 2/4: there is no such file; `predict --shard K/N` makes one"


def test_what_a_killed_merge_left_is_not_used(places: list[Path], writer: RowWriter, tmp_path: Path) -> None:
    (tmp_path / ".merged.merge.partial").write_bytes(b"half a row")
    assert merge(places, tmp_path / "merged") == {"ok": 9, "missing": 1}
    assert (tmp_path / "merged").read_bytes() == one_run(tmp_path / "whole", PREDICTIONS, writer)
    assert sorted(tmp_path.glob(".*")) == []


def test_too_many_open_files_are_one_sentence(writer: RowWriter, tmp_path: Path) -> None:
    places = write_shards(tmp_path, 80, PREDICTIONS, writer)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (70, hard))
    try:
        said = refused(places)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert said == "80 shards cannot be open at the same time; allow it with `ulimit -n 180`"


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    writer = RowWriter("jsonl", topk=1)
    wide = Prediction(path="a.jpg", top=(), error=ImageErrorCode.MISSING, message=1000 * "no such file ")
    peaks = []
    for num_rows in (400, 1600):
        folder = tmp_path / f"{num_rows}"
        folder.mkdir()
        shards = read_shards(write_shards(folder, 4, num_rows * [wide], writer))
        sizes: list[int] = []
        tracemalloc.start()
        merge_rows(shards, lambda data: sizes.append(len(data)), lambda done, total: None)  # noqa: B023
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert sum(sizes) == num_rows * len(writer.row(wide))
    assert peaks[1] < 1.1 * peaks[0]
