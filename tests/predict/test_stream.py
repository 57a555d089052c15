import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from commands import HANGS_AFTER_S

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import ImageError, UsageError
from alexnet_deploy.core.images.decode import DecodeLimits
from alexnet_deploy.core.inputs.lists import find_listed
from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.model.preprocessing import WARP
from alexnet_deploy.core.process.memory import MemoryBudget
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.engines.registry import Backend
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.resume import Again, pass_over
from alexnet_deploy.predict.stream import Classifier, Read, decode_input, stream_answers

NAMES = ["a.jpg", None, "b.jpg", "nothing.jpg", None, None, "empty.jpg", None, *["c.jpg"] * 9, None, "d.jpg"]
"""A list that is being written; at a None it holds no more names for now."""


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_names_before_a_pause_are_predicted_during_it(
    batch_size: int, backend: Backend, bundle: Bundle, images: Path
) -> None:
    rows: list[Prediction] = []
    num_answered = []

    def listed() -> Iterator[bytes | None]:
        for name in NAMES:
            yield None if name is None else os.fsencode(images / name)
            if name is None:
                num_answered.append(len(rows))

    with open_engine(bundle, backend) as engine:
        classifier = Classifier(bundle=bundle, engine=engine)
        for row in classifier.stream(find_listed(["-"], listed()), batch_size):
            rows.append(row)
        assert num_answered == [1, 3, 3, 4, 13]
        assert [Path(row.path).name for row in rows] == [name for name in NAMES if name is not None]
        assert [row.ok for row in rows] == [Path(row.path).name in {"a.jpg", "b.jpg", "c.jpg", "d.jpg"} for row in rows]
        done = [row.path for row in rows[:3]]
        rest = list(classifier.stream(pass_over(done, find_listed(["-"], listed())), batch_size))
    assert [row.path for row in rest] == [row.path for row in rows[3:]]


@pytest.mark.parametrize("batch_size", [0, -8])
def test_invalid_batch_size_is_refused_at_the_call(batch_size: int, bundle: Bundle) -> None:
    with (
        open_engine(bundle) as engine,
        pytest.raises(UsageError, match=rf"^batch size {batch_size} must be 1 or more$"),
    ):
        Classifier(bundle=bundle, engine=engine).stream([], batch_size)


# Inputs that have a row


class InMemory:
    """A file that came with the headers of an archive."""

    num_bytes = 12

    def read(self, limits: DecodeLimits) -> bytes:
        return b"not an image" * limits.max_bytes


def test_the_bytes_of_an_input_are_dropped_when_it_is_decoded(bundle: Bundle) -> None:
    def kept(batch: list[Read]) -> list[Input]:
        return [item for item, _ in batch]

    limits = DecodeLimits(max_bytes=1)
    given = [Input(name="a", file=InMemory()), Input(name="b", held=b"not an image")]
    with open_engine(bundle) as engine:
        policy = bundle.manifest.preprocessing.image_policy
        decode = partial(decode_input, policy=policy, limits=limits)
        found = list(stream_answers(engine, given, None, decode=decode, answer=kept))
    assert [(item.name, item.file, item.held) for item in found] == [("a", None, None), ("b", None, None)]


class Counting:
    """A file in an archive that counts how many are read at a time; two wait for each other."""

    num_bytes = 100
    both, lock = threading.Barrier(2), threading.Lock()
    at_once = most = 0

    def read(self, limits: DecodeLimits) -> bytes:
        with self.lock:
            Counting.at_once += 1
            Counting.most = max(self.most, self.at_once)
        self.both.wait(timeout=HANGS_AFTER_S)
        with self.lock:
            Counting.at_once -= 1
        return b"not an image"


def test_no_more_files_of_archives_are_read_at_a_time_than_the_budget_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet_deploy.core.images.decode._FILES", MemoryBudget(250))

    def code_of(number: int) -> str:
        with pytest.raises(ImageError) as caught:
            decode_input(Input(name=f"{number}", file=Counting()), WARP, DecodeLimits())
        return caught.value.code

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(code_of, range(6))) == ["not_an_image"] * 6
    assert Counting.most == 2


def inputs(*names: str | None) -> Iterator[Input | None]:
    return (None if name is None else Input(name=name) for name in names)


def test_inputs_with_a_row_are_passed_over_and_marked_ones_are_not() -> None:
    left = pass_over(["a", Again(path="b"), "c"], inputs("a", "b", "c", "d"))
    assert [item and item.name for item in left] == ["b", "d"]


def test_a_pause_is_kept_only_after_an_input_that_is_predicted() -> None:
    left = pass_over(["a", Again(path="b"), "c", "d"], inputs(None, "a", None, "b", None, None, "c", None, "d", None))
    assert [item and item.name for item in left] == ["b", None, None]


@pytest.mark.parametrize(
    ("there", "reason"),
    [((), "there are no more inputs"), (("x", None), "input 2 is now x"), ((None,), "there are no more inputs")],
)
def test_other_inputs_than_those_of_the_rows_are_refused(there: tuple[str | None, ...], reason: str) -> None:
    with pytest.raises(UsageError, match=f"^cannot resume: row 2 was written for b, but {reason}$"):
        list(pass_over(["a", "b"], inputs("a", *there)))
