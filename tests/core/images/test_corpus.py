"""Thousands of bad files: Pillow's own test images, and mutations of good files."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import PIL
import pytest
from commands import Run
from corpus_pins import NUM_PINNED, Pins, codecs, damaged, digest, exact, pillows

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import ImageErrorCode
from alexnet_deploy.core.inputs.paths import find_inputs

TESTS = Path(__file__).parents[2]

CORPUS = Path(sys.prefix) / f"pillow-{PIL.__version__}-images"

needs_corpus = pytest.mark.skipif(
    not CORPUS.is_dir(), reason=f"Pillow's test images are not in {CORPUS}: scripts/setup could not fetch them"
)

# Allowed memory growth of a process. The corpus needs 77: its largest decoded image has 15 million pixels of 1 bit.
# A mutation may have 4 million in the most expensive layout, WebP with transparency, which needs 27 bytes per pixel.
MEMORY_MIB = 256

CODES = {str(code) for code in ImageErrorCode}


def outcomes(*what: object) -> dict[str, str]:
    """Map each input's name to its error code or pixel digest, from a separate process that decodes it twice."""
    command = [sys.executable, "-W", "error", TESTS / "programs/decode_each.py", *map(str, what)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, errors="backslashreplace")
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, f"{lines[-1:]} {ended.stderr[-3000:]}"
    *rest, grown_mib = lines
    assert int(grown_mib) < MEMORY_MIB
    found = dict(zip(rest[::2], rest[1::2], strict=True))
    assert all(result in CODES or len(result) == 64 for result in found.values())
    return found


@needs_corpus
def test_each_of_pillows_own_images_has_one_outcome_and_the_same_twice() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    found = outcomes("folder", CORPUS)
    assert len(found) == len(files) > 1000
    assert set(found.values()) & CODES == {"not_an_image", "unsupported_format", "truncated", "too_large"}
    assert sum(result not in CODES for result in found.values()) > 600


@needs_corpus
def test_each_of_pillows_own_images_has_its_row(bundle: Bundle, run: Run) -> None:
    ended = run("predict", CORPUS, "--bundle", bundle.path, "--format", "csv")
    rows = list(csv.DictReader(ended.out.splitlines()))
    assert [row["path"] for row in rows] == [item.text for item in find_inputs([CORPUS])]
    for row in rows:
        assert (row["error"] in CODES) != (row["label1"] != "")


PINS: Pins = json.loads((Path(__file__).with_name("corpus_pins.json")).read_text())


def refuse_other_codecs() -> None:
    """Skip if the installed codecs write other bytes or decode other pixels than the pinned ones, which CI has."""
    pinned = PINS["codecs"]
    other = [f"{name} {now}, not {pinned[name]}" for name, now in codecs().items() if now != pinned[name]]
    if other:
        pytest.skip(f"the pixels were pinned with other codecs; here: {', '.join(other)}")


def test_pixels_stored_without_loss_are_those_that_were_pinned_whatever_the_codecs() -> None:
    assert exact() == PINS["exact"]
    assert len(set(PINS["exact"].values())) > 10


def test_pixels_of_a_hundred_damaged_files_are_those_that_were_pinned() -> None:
    refuse_other_codecs()
    found = {name: digest(data) for name, data in damaged() if name in PINS["damaged"]}
    assert found == PINS["damaged"]
    assert len(found) == NUM_PINNED


@needs_corpus
def test_pixels_of_a_hundred_of_pillows_own_images_are_those_that_were_pinned() -> None:
    refuse_other_codecs()
    found = {name: digest(data) for name, data in pillows(CORPUS) if name in PINS["pillow"]}
    assert found == PINS["pillow"]
    assert len(found) == NUM_PINNED


def test_damaged_files_have_one_outcome_and_the_same_twice() -> None:
    found = outcomes("mutants", 0, 500)
    assert len(found) == 500
    assert {"not_an_image", "truncated", "too_large"} < set(found.values())
    assert sum(result not in CODES for result in found.values()) > 50


@pytest.mark.slow
def test_ten_thousand_damaged_files_have_one_outcome_and_the_same_twice() -> None:
    assert len(outcomes("mutants", 1, 10_000)) == 10_000
