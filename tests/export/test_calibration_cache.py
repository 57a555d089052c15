import os
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.core.bundle.vocabulary import CALIBRATION_METHODS
from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.export.calibration import NUM_BINS, Histogram
from alexnet_deploy.export.calibration_cache import CalibrationCache, load_cache, save_cache

GRAPH, IMAGES = "a" * 64, "b" * 64


def histogram(seed: int, size: int = 1000) -> Histogram:
    found = Histogram()
    found.add(np.random.default_rng(seed).exponential(1.0, size).astype(np.float32))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.json"


@pytest.fixture
def kept(path: Path) -> Path:
    """A cache file with two layers."""
    save_cache(
        path,
        {"conv2": histogram(1), "fc6": histogram(2)},
        graph_sha256=GRAPH,
        images_sha256=IMAGES,
        num_images=12,
    )
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(ExportError, match=match) as caught:
        load_cache(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said


@given(
    counts=st.lists(st.integers(0, 2**50), min_size=NUM_BINS // 512, max_size=NUM_BINS // 512),
    ends=st.tuples(st.floats(0, allow_infinity=False), st.floats(0, allow_infinity=False)),
)
@settings(max_examples=20)
def test_what_is_kept_is_read_back_exactly(
    counts: list[int], ends: tuple[float, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    largest, upper = sorted(ends)
    path = tmp_path_factory.getbasetemp() / "kept.json"
    written = Histogram(counts=np.tile(np.array(counts, dtype=np.int64), 512), upper=upper, largest=largest)
    save_cache(path, {"conv2": written}, graph_sha256=GRAPH, images_sha256=IMAGES, num_images=1)
    (name, read), *others = load_cache(path).histograms().items()
    assert (name, others) == ("conv2", [])
    assert (read.upper, read.largest, read.counts.dtype) == (upper, largest, np.int64)
    np.testing.assert_array_equal(read.counts, written.counts)


def test_every_method_gives_the_range_that_it_gave_before(kept: Path) -> None:
    read = load_cache(kept)
    assert read.num_images == 12
    for method in CALIBRATION_METHODS:
        assert read.histograms()["fc6"].range_by(method) == histogram(2).range_by(method)


def test_histogram_that_was_read_counts_on(kept: Path) -> None:
    read, fresh = load_cache(kept).histograms()["conv2"], histogram(1)
    for found in (read, fresh):
        found.add(np.array([100.0], np.float32))
    np.testing.assert_array_equal(read.counts, fresh.counts)


def test_same_counts_are_the_same_bytes(kept: Path, tmp_path: Path) -> None:
    load = load_cache(kept)
    again = tmp_path / "again.json"
    save_cache(again, load.histograms(), graph_sha256=GRAPH, images_sha256=IMAGES, num_images=12)
    assert again.read_bytes() == kept.read_bytes()


@pytest.mark.parametrize(
    ("graph", "images", "words"),
    [
        (GRAPH, IMAGES, None),
        ("c" * 64, IMAGES, "made from another graph"),
        (GRAPH, "c" * 64, "made from other images, or from the same images with another decoding policy"),
        ("c" * 64, "c" * 64, "made from another graph"),
    ],
)
def test_what_it_was_not_made_from_is_said(graph: str, images: str, words: str | None, kept: Path) -> None:
    assert load_cache(kept).mismatch(graph, images) == words


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_part_of_a_file_is_refused(length: int, kept: Path) -> None:
    kept.write_bytes(kept.read_bytes()[:length])
    refused(kept, "not a calibration cache: .*; remove it, or name another file")


def test_flipped_bit_anywhere_is_refused_or_says_the_same(kept: Path) -> None:
    whole = kept.read_bytes()
    original = load_cache(kept)
    num_refused = 0
    places = [*range(300), *range(300, len(whole), 97), *range(len(whole) - 100, len(whole))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        kept.write_bytes(damaged)
        try:
            assert load_cache(kept) == original
        except ExportError:
            num_refused += 1
    assert num_refused > 0.99 * len(places)


def edited(kept: Path, **changes: object) -> None:
    record = msgspec.json.decode(kept.read_bytes())
    kept.write_bytes(msgspec.json.encode({**record, **changes}))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"graph_sha256": "c" * 64}, "has changed since it was written: the digest does not match"),
        ({"images_sha256": "c" * 64}, "the digest does not match"),
        ({"num_images": 13}, "the digest does not match"),
        ({"format": "something else"}, "a calibration cache of another format"),
        ({"format_version": 99}, "a calibration cache of another format"),
        ({"layers": {"conv2": {"counts": [1, 2, 3], "upper": 1.0, "largest": 1.0}}}, "of another format"),
        ({"layers": {"conv2": {"counts": "many", "upper": 1.0, "largest": 1.0}}}, "not a calibration cache"),
        ({"surprise": 1}, "not a calibration cache"),
    ],
)
def test_edited_file_is_refused(changes: dict[str, object], match: str, kept: Path) -> None:
    edited(kept, **changes)
    refused(kept, match)


@pytest.mark.parametrize(
    "data", [b"TRT-100300-EntropyCalibration2\nimages: 3c010a14\n", b"\x89PNG\r\n\x1a\n", b"[]", b"\xff\xfe", b"null"]
)
def test_foreign_file_is_refused(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    refused(path, "not a calibration cache: .*; remove it, or name another file")


def test_file_that_cannot_be_read_or_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "cannot be read: it is a directory, not a regular file")
    nowhere = tmp_path / "nothing" / "kept.json"
    with pytest.raises(ExportError, match="the calibration cache cannot be written: No such file or directory"):
        save_cache(nowhere, {}, graph_sha256=GRAPH, images_sha256=IMAGES, num_images=1)


def test_file_appears_whole_and_leaves_nothing_beside_it(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match="No space left on device"):
        save_cache(kept, {}, graph_sha256=GRAPH, images_sha256=IMAGES, num_images=1)
    assert kept.read_bytes() == before
    assert list(tmp_path.iterdir()) == [kept]


def test_record_is_what_the_file_says(kept: Path) -> None:
    record = load_cache(kept)
    assert isinstance(record, CalibrationCache)
    assert record.layers.keys() == {"conv2", "fc6"}
    assert record.sha256 == msgspec.json.decode(kept.read_bytes())["sha256"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"counts": (2**63,) + (0,) * (NUM_BINS - 1)},
            "counts must be 0 or more, and their sum at most 9,223,372,036,854,775,807",
        ),
        ({"counts": (2**62,) * 2 + (0,) * (NUM_BINS - 2)}, "their sum at most 9,223,372,036,854,775,807"),
        ({"counts": (-1,) * NUM_BINS}, "counts must be 0 or more"),
        ({"upper": -1.0, "largest": -2.0}, r"0 <= largest <= upper, got -2 and -1"),
        ({"upper": 1.0, "largest": 2.0}, r"0 <= largest <= upper, got 2 and 1"),
    ],
)
def test_counts_that_nobody_can_have_counted_are_refused(kept: Path, changes: dict[str, object], sentence: str) -> None:
    fields = msgspec.json.decode(kept.read_bytes())
    fields["layers"]["conv2"].update(changes)
    kept.write_bytes(msgspec.json.encode(fields))
    refused(kept, sentence)


def test_sizes_are_bounded_before_they_are_read(kept: Path) -> None:
    os.truncate(kept, 50 * 2**30)
    refused(kept, "cannot be read: it has 53,687,091,200 bytes, the limit is 67,108,864")
