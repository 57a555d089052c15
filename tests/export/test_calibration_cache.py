import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.core.bundle.vocabulary import CALIBRATION_METHODS
from alexnet_deploy.core.errors import ExportError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.model.tensor_file import BLANK, digest_of
from alexnet_deploy.export.calibration import NUM_BINS, Histogram
from alexnet_deploy.export.calibration_cache import KEY, CalibrationCache, load_cache, save_cache

GRAPH, IMAGES = "a" * 64, "b" * 64


def histogram(seed: int, size: int = 1000) -> Histogram:
    found = Histogram()
    found.add(np.random.default_rng(seed).exponential(1.0, size).astype(np.float32))
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.safetensors"


@pytest.fixture
def kept(path: Path) -> Path:
    """A cache file with two layers."""
    save_cache(path, cache_of({"conv2": histogram(1), "fc6": histogram(2)}, num_images=12))
    return path


def cache_of(histograms: dict[str, Histogram], num_images: int = 1) -> CalibrationCache:
    return CalibrationCache(graph_sha256=GRAPH, images_sha256=IMAGES, num_images=num_images, histograms=histograms)


def parts(path: Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """The header and the counts of a cache file."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][KEY])
    return header, safetensors.numpy.load(data)


def rewritten(path: Path, header: dict[str, object], counts: dict[str, np.ndarray]) -> None:
    """Write a cache file with sound digests, whatever it says."""
    text = json.dumps({**header, "tensors_sha256": digest_of(counts), "header_sha256": BLANK}, separators=(",", ":"))
    text = text.replace(BLANK, sha256(text.encode()))
    path.write_bytes(safetensors.numpy.save(counts, metadata={KEY: text}))


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
    path = tmp_path_factory.getbasetemp() / "kept.safetensors"
    written = Histogram(counts=np.tile(np.array(counts, dtype=np.int64), 512), upper=upper, largest=largest)
    save_cache(path, cache_of({"conv2": written}))
    (name, read), *others = load_cache(path).histograms.items()
    assert (name, others) == ("conv2", [])
    assert (read.upper, read.largest, read.counts.dtype) == (upper, largest, np.int64)
    np.testing.assert_array_equal(read.counts, written.counts)


def test_every_method_gives_the_range_that_it_gave_before(kept: Path) -> None:
    read = load_cache(kept)
    assert read.num_images == 12
    for method in CALIBRATION_METHODS:
        assert read.histograms["fc6"].amax_by(method) == histogram(2).amax_by(method)


def test_histogram_that_was_read_counts_on(kept: Path) -> None:
    read, fresh = load_cache(kept).histograms["conv2"], histogram(1)
    for found in (read, fresh):
        found.add(np.array([100.0], np.float32))
    np.testing.assert_array_equal(read.counts, fresh.counts)


def test_same_counts_are_the_same_bytes(kept: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_cache(again, load_cache(kept))
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
    refused(kept, "not a calibration cache: .*; remove it to calibrate again, or name another file")


def test_flipped_bit_anywhere_is_refused_or_says_the_same(kept: Path) -> None:
    whole = kept.read_bytes()
    header, counts = parts(kept)
    num_refused = 0
    places = [*range(300), *range(300, len(whole), 97), *range(len(whole) - 100, len(whole))]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        kept.write_bytes(damaged)
        try:
            load_cache(kept)
            found_header, found_counts = parts(kept)
            assert found_header == header
            for layer, expected in counts.items():
                np.testing.assert_array_equal(found_counts[layer], expected)
        except ExportError:
            num_refused += 1
    assert num_refused > 0.99 * len(places)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"graph_sha256": "c" * 64}, "its header has changed since it was saved: the digest does not match"),
        ({"num_images": 13}, "the digest does not match"),
        (
            {"format_version": 99},
            "calibration cache version 99 is newer than supported; this program reads .* version 2",
        ),
    ],
)
def test_edited_header_is_refused(changes: dict[str, object], match: str, kept: Path) -> None:
    header, counts = parts(kept)
    kept.write_bytes(safetensors.numpy.save(counts, metadata={KEY: json.dumps({**header, **changes})}))
    refused(kept, match + ".*; remove it to calibrate again, or name another file$")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"surprise": 1}, "not a calibration cache: Object contains unknown field `surprise`"),
        ({"num_images": "many"}, "not a calibration cache: Expected `int`, got `str`"),
        ({"layers": {}}, "its layers have no counts, or others do"),
        ({"layers": {"conv2": {"upper": -1.0, "largest": -2.0}}}, "0 <= largest <= upper, got -2 and -1"),
        ({"layers": {"conv2": {"upper": 1.0, "largest": 2.0}}}, "0 <= largest <= upper, got 2 and 1"),
    ],
)
def test_impossible_header_is_refused(changes: dict[str, object], match: str, kept: Path) -> None:
    header, counts = parts(kept)
    rewritten(kept, {**header, **changes}, counts)
    refused(kept, match)


def test_cache_of_version_1_is_named(path: Path) -> None:
    path.write_text('{"format":"alexnet-deploy calibration","format_version":1,"layers":{}}')
    refused(path, "calibration cache version 1 is not supported; this program reads .* version 2; remove it to")


@pytest.mark.parametrize(
    "data", [b"TRT-100300-EntropyCalibration2\nimages: 3c010a14\n", b"\x89PNG\r\n\x1a\n", b"[]", b"\xff\xfe", b"null"]
)
def test_foreign_file_is_refused(data: bytes, path: Path) -> None:
    path.write_bytes(data)
    refused(path, "not a calibration cache: .*; remove it to calibrate again, or name another file")


def test_file_that_cannot_be_read_or_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    refused(tmp_path / "folder", "cannot be read: it is a directory, not a regular file")
    nowhere = tmp_path / "nothing" / "kept.json"
    with pytest.raises(ExportError, match="the calibration cache cannot be written: No such file or directory"):
        save_cache(nowhere, cache_of({}))


def test_file_appears_whole_and_leaves_nothing_beside_it(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = kept.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ExportError, match="No space left on device"):
        save_cache(kept, cache_of({}))
    assert kept.read_bytes() == before
    assert list(tmp_path.iterdir()) == [kept]


@pytest.mark.parametrize(
    "counts",
    [
        np.array([1, 2, 3]),
        np.full(NUM_BINS, -1),
        np.array([2**62] * 2 + [0] * (NUM_BINS - 2)),
        np.zeros((NUM_BINS, 1), np.int64),
    ],
)
def test_impossible_counts_are_refused(kept: Path, counts: np.ndarray) -> None:
    header, kept_counts = parts(kept)
    rewritten(kept, header, {**kept_counts, "conv2": counts.astype("<i8")})
    refused(kept, r"conv2: counts must be \S+ numbers of 0 or more, and their sum at most 9,223,372,036,854,775,807")


def test_sizes_are_bounded_before_they_are_read(kept: Path) -> None:
    os.truncate(kept, 50 * 2**30)
    refused(kept, "not a calibration cache: its tensors take [0-9,]+ bytes, but 53,[0-9,]+ follow the header")
