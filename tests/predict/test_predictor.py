import os
import threading
import weakref
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import constants_of, edited_graph, set_constant
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import republished
from PIL import Image

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import BackendError, ImageError, ImageErrorCode, UsageError, WrongAnswerError
from alexnet_deploy.core.images.decode import DecodeLimits, read_image
from alexnet_deploy.core.process.ahead import decode_threads
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.engines.proof.parity import prove
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.predict import stream
from alexnet_deploy.predict.prediction import Guess, Prediction, best_guesses
from alexnet_deploy.predict.predictor import Predictor, load

# An image of 300 x 300 is above this limit, one of 256 x 256 is not.
LIMITS = DecodeLimits(max_pixels=70_000)

GOOD = ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
BAD = {
    "empty.jpg": ImageErrorCode.EMPTY,
    "text.jpg": ImageErrorCode.NOT_AN_IMAGE,
    "icon.jpg": ImageErrorCode.UNSUPPORTED_FORMAT,
    "half.jpg": ImageErrorCode.TRUNCATED,
    "large.png": ImageErrorCode.TOO_LARGE,
    "pipe.jpg": ImageErrorCode.UNREADABLE,
    "nothing.jpg": ImageErrorCode.MISSING,
}


@pytest.fixture(scope="module")
def inputs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of GOOD and those of BAD, one per error code."""
    folder = tmp_path_factory.mktemp("inputs")
    for name in GOOD:
        (folder / name).write_bytes((images / name).read_bytes())
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("Dear reader, this is a letter.\n")
    Image.new("RGB", (16, 16)).save(folder / "icon.jpg", format="ICO")
    (folder / "half.jpg").write_bytes((images / "a.jpg").read_bytes()[:2000])
    Image.new("RGB", (300, 300), "red").save(folder / "large.png")
    os.mkfifo(folder / "pipe.jpg")
    return folder


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Iterator[Predictor]:
    with load(bundle.path) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def alone(predictor: Predictor, inputs: Path) -> dict[str, Prediction]:
    """The prediction of each input when it is the only one."""
    rows = {}
    for name in (*GOOD, *BAD):
        (rows[name],) = predictor.predict(inputs / name, batch_size=1, limits=LIMITS)
    return rows


def is_the_same(found: Prediction, expected: Prediction) -> bool:
    """Return whether path and outcome are equal; the batch size may change the last bits of probabilities."""
    if (found.path, found.error, found.message) != (expected.path, expected.error, expected.message):
        return False
    pairs = list(zip(found.top, expected.top, strict=True))
    return all(a.index == b.index and abs(a.probability - b.probability) <= 1e-6 for a, b in pairs)


# One prediction per input


def test_each_kind_of_input_has_its_outcome(alone: dict[str, Prediction]) -> None:
    assert {name: row.error for name, row in alone.items()} == {**dict.fromkeys(GOOD), **BAD}
    assert set(BAD.values()) == set(ImageErrorCode)
    for row in alone.values():
        assert row.ok == (row.error is None) == (len(row.top) == 4) == (row.message == "")
    # The images differ enough to detect two swapped predictions.
    first = [alone[name].top[0].probability for name in GOOD]
    assert min(abs(a - b) for a in first for b in first if a is not b) > 1e-4


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_predictions_are_in_input_order(
    batch_size: int, predictor: Predictor, inputs: Path, alone: dict[str, Prediction]
) -> None:
    names = ["a.jpg", *BAD, "b.jpg", "a.jpg", "c.jpg", *BAD, *BAD, "d.jpg", "e.jpg", "nothing.jpg", "a.jpg"]
    rows = list(predictor.predict([inputs / name for name in names], topk=9, batch_size=batch_size, limits=LIMITS))
    assert [Path(row.path).name for row in rows] == names
    for name, row in zip(names, rows, strict=True):
        assert is_the_same(row, alone[name]), name


@settings(max_examples=25)
@given(
    names=st.lists(st.sampled_from((*GOOD, *BAD)), max_size=10),
    batch_size=st.sampled_from([1, 2, 3, 8]),
)
def test_neighbours_order_and_batch_size_change_no_prediction(
    predictor: Predictor, inputs: Path, alone: dict[str, Prediction], names: list[str], batch_size: int
) -> None:
    rows = list(predictor.predict([inputs / name for name in names], batch_size=batch_size, limits=LIMITS))
    assert len(rows) == len(names)
    for name, row in zip(names, rows, strict=True):
        assert is_the_same(row, alone[name]), name


def test_folder_pattern_and_file_mix(predictor: Predictor, inputs: Path) -> None:
    rows = list(predictor.predict([str(inputs / "[ab].jpg"), inputs / "e.jpg", "nothing", inputs], limits=LIMITS))
    names = [Path(row.path).name for row in rows]
    in_the_folder = sorted({*GOOD, *BAD} - {"nothing.jpg"})
    assert names == ["a.jpg", "b.jpg", "e.jpg", "nothing", *in_the_folder]


def test_a_single_name_needs_no_list(predictor: Predictor, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(inputs)
    of_path, of_text = predictor.predict(Path("a.jpg")), predictor.predict("a.jpg")
    assert [row.path for row in (*of_path, *of_text)] == ["a.jpg"] * 2


def test_no_input_gives_no_prediction(predictor: Predictor) -> None:
    assert list(predictor.predict([])) == []


def test_file_name_that_is_not_utf_8_has_a_row_like_any_other(
    predictor: Predictor, images: Path, tmp_path: Path
) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.jpg")).write_bytes((images / "a.jpg").read_bytes())
    (tmp_path / os.fsdecode(b"caf\xff.jpg")).touch()
    good, bad = predictor.predict(tmp_path)
    assert (good.path, good.error) == (rf"{tmp_path}/caf\xe9.jpg", None)
    assert (bad.path, bad.error) == (rf"{tmp_path}/caf\xff.jpg", ImageErrorCode.EMPTY)


def test_text_that_cannot_be_a_file_name_has_a_row_like_any_other(predictor: Predictor, inputs: Path) -> None:
    names = [inputs / "a.jpg", "\ud800.jpg", Path("\udfff"), "\ud800/*", "nul\0.jpg", inputs / "b.jpg"]
    first, *rows, last = predictor.predict(names)
    assert first.ok
    assert last.ok
    assert [row.path for row in rows] == [r"\ud800.jpg", r"\udfff", r"\ud800/*", "nul\0.jpg"]
    assert not any(row.ok for row in rows)


# Content of the predictions


def test_predictions_match_the_engine_on_the_decoded_images(predictor: Predictor, bundle: Bundle, images: Path) -> None:
    paths = sorted(images.iterdir())
    resize = bundle.manifest.preprocessing.image_policy
    with open_engine(bundle) as engine:
        expected = engine.run(np.stack([read_image(path, resize) for path in paths]))
    rows = list(predictor.predict(paths, batch_size=len(paths)))
    for row, probabilities in zip(rows, expected, strict=True):
        by_index = {guess.index: guess.probability for guess in row.top}
        assert [by_index[index] for index in range(4)] == pytest.approx(probabilities.tolist(), abs=1e-6)
        assert [guess.label for guess in row.top] == [bundle.labels[guess.index] for guess in row.top]
        assert [guess.probability for guess in row.top] == sorted(by_index.values(), reverse=True)


def test_ten_views_and_the_bundle_s_labels_are_used(predictor: Predictor, bundle: Bundle) -> None:
    assert len(predictor.bundle.manifest.views.crops) == 10
    assert predictor.labels == bundle.labels
    assert predictor.info.bundle_sha256 == bundle.sha256


@pytest.mark.parametrize("topk", [1, 3, 4, 5, 1000])
def test_topk_limits_the_classes_of_a_prediction(topk: int, predictor: Predictor, inputs: Path) -> None:
    everything = next(predictor.predict(inputs / "a.jpg", topk=4)).top
    (row,) = predictor.predict(inputs / "a.jpg", topk=topk)
    assert row.top == everything[:topk]
    assert len(everything) == 4


def test_ties_are_ordered_by_index() -> None:
    labels = ("w", "x", "y", "z")
    tied = np.array([0.125, 0.375, 0.125, 0.375], dtype=np.float32)
    assert [guess.index for guess in best_guesses(tied, labels, 4)] == [1, 3, 0, 2]
    assert best_guesses(tied, labels, 1) == (Guess(index=1, label="x", probability=0.375),)
    # NumPy sorts few values by insertion, which is always stable: only many classes show whether the sort is.
    thousand = np.random.default_rng(0).choice(np.array([0.0005, 0.001, 0.002], dtype=np.float32), 1000)
    found = best_guesses(thousand, tuple(map(str, range(1000))), 1000)
    assert [guess.index for guess in found] == sorted(range(1000), key=lambda index: (-thousand[index], index))


# Use


@pytest.mark.parametrize("wrong", [{"topk": 0}, {"topk": -1}, {"batch_size": 0}, {"batch_size": -8}])
def test_invalid_topk_and_batch_size_are_refused_at_the_call(wrong: dict[str, int], predictor: Predictor) -> None:
    with pytest.raises(UsageError, match=r"^(topk|batch size) -?\d must be 1 or more$"):
        predictor.predict(["nothing.jpg"], **wrong)


def test_closed_predictor_raises(bundle: Bundle, inputs: Path) -> None:
    with load(str(bundle.path)) as predictor:
        assert next(predictor.predict(inputs / "a.jpg")).ok
    with pytest.raises(BackendError, match="this engine is closed"):
        list(predictor.predict(inputs / "a.jpg"))
    predictor.close()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("first", [[], ["a.jpg"]])
def test_a_long_run_of_failures_does_not_pile_up(
    batch_size: int, first: list[str], predictor: Predictor, inputs: Path
) -> None:
    taken = 0

    def names() -> Iterator[Path]:
        nonlocal taken
        yield from (inputs / name for name in first)
        for _ in range(2000):
            taken += 1
            yield Path(f"/nothing/{taken}.jpg")

    rows = predictor.predict(names(), batch_size=batch_size)
    next(rows)
    # If nothing can be read, a batch holds four times its size, and there is one batch more than the engine runs at
    # once; then as many plain batches are read ahead; and one input is in hand.
    ahead = (predictor.info.num_streams + 1) * (4 + 1) * batch_size + 1
    assert taken <= ahead
    for used, row in enumerate(islice(rows, 100), start=2):
        assert row.error == ImageErrorCode.MISSING
        assert taken <= used + ahead
    rows.close()


def test_images_are_not_read_far_ahead_of_their_use(predictor: Predictor, inputs: Path) -> None:
    taken = 0

    def names() -> Iterator[Path]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield inputs / "a.jpg"

    rows = predictor.predict(names(), batch_size=2)
    for used in range(1, 11):
        assert next(rows).ok
        # The batch that is being yielded, those that run, and as many that are read ahead.
        assert taken <= used + (1 + 2 * (predictor.info.num_streams + 1)) * 2 + 1
    rows.close()


@pytest.mark.parametrize("num_used", [0, 1, 5])
def test_abandoned_iterator_leaves_no_thread(num_used: int, predictor: Predictor, inputs: Path) -> None:
    list(predictor.predict(inputs / "a.jpg"))
    before = threading.active_count()
    rows = predictor.predict([inputs / "a.jpg"] * 50, batch_size=2)
    assert len(list(islice(rows, num_used))) == num_used
    del rows
    assert threading.active_count() == before


def test_a_failed_image_is_not_kept_in_memory_until_its_row(
    predictor: Predictor, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pixels:
        """An object that the frames of a traceback would keep alive."""

    held: list[weakref.ref[Pixels]] = []

    def fail(*_: object) -> None:
        pixels = Pixels()
        held.append(weakref.ref(pixels))
        raise ImageError(ImageErrorCode.TRUNCATED, "damaged")

    monkeypatch.setattr(stream, "read_image", fail)
    rows = predictor.predict([inputs / "a.jpg"] * 40, batch_size=8)
    next(rows)
    assert len(held) > 20
    # Only those that are being decoded at this moment.
    assert sum(reference() is not None for reference in held) <= decode_threads()
    rows.close()


def test_nan_output_ends_the_run_and_names_the_image(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    """It is an error of the engine, not of the image, so it does not become a row."""

    def poison(model: onnx.ModelProto) -> None:
        values = constants_of(model.graph)["fc8.bias"].copy()
        values[0] = np.nan
        set_constant(model, "fc8.bias", values)

    faulty = republished(bundle, tmp_path / "nan.bundle", {"model.onnx": edited_graph(bundle, poison)})
    for backend in BACKENDS:
        with load(faulty.path, backend) as predictor:
            version = predictor.info.version
            expected = (
                f"{backend} {version}: wrong answer from {faulty.path} for images[0] of 2: probabilities are NaN or "
                f"infinite ({images / 'a.jpg'})"
            )
            with pytest.raises(WrongAnswerError) as caught:
                list(predictor.predict([tmp_path / "nothing.jpg", images / "a.jpg", images / "b.jpg"]))
            assert str(caught.value) == expected
            (row,) = prove(open_engine(faulty, backend), faulty)
            assert not row.passed
            assert row.failures[0].startswith(
                f"{backend} {version}: wrong answer from {faulty.path} for images[0] of 8"
            )
