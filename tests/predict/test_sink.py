import pytest

from alexnet_deploy.core.errors import ImageErrorCode
from alexnet_deploy.predict.prediction import Guess, Prediction
from alexnet_deploy.predict.row_formats import RowFormat, RowWriter
from alexnet_deploy.predict.sink import RowSink

GOOD = Prediction(path="a.jpg", top=(Guess(index=1, label="ship", probability=0.75),), error=None, message="")
BAD = Prediction(path="notes.txt", top=(), error=ImageErrorCode.NOT_AN_IMAGE, message="it is text")


@pytest.mark.parametrize("row_format", ["table", "jsonl", "csv"])
def test_each_row_is_formatted_written_and_counted_at_once(row_format: RowFormat) -> None:
    written: list[bytes] = []
    writer = RowWriter(row_format, topk=1)
    sink = RowSink(writer, written.append)
    sink.begin()
    assert b"".join(written) == writer.header().encode()
    for number, prediction in enumerate([GOOD, BAD, BAD], start=1):
        sink.write(prediction)
        assert written[-1] == writer.row(prediction).encode()
        assert sink.outcomes.total() == number
    sink.finish()
    assert dict(sink.outcomes) == {"ok": 1, "not_an_image": 2}
    assert dict(sink.outcomes.endings) == {".txt": 2}
    assert list(sink.done()) == []


def test_a_terminal_gets_the_rest_of_a_long_run_of_failures_at_the_end() -> None:
    written: list[bytes] = []
    sink = RowSink(RowWriter("table", topk=1, width=80), written.append)
    for _ in range(8):
        sink.write(BAD)
    assert sum(map(bool, written)) == 5
    sink.finish()
    assert written[-1] == b"... 3 more not_an_image\n"
    assert dict(sink.outcomes) == {"not_an_image": 8}
