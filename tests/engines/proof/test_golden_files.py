"""The proof that begins at a file's bytes."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from commands import Run
from networks import republished
from standing_in import engine_info

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.bundle.store import GOLDEN_FILE_PIXELS, Bundle, open_bundle
from alexnet_deploy.core.errors import BundleError
from alexnet_deploy.core.golden.files import golden_files
from alexnet_deploy.core.golden.record import GoldenFiles
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.engines.engine import Engine, EngineInfo
from alexnet_deploy.engines.proof import golden_files as proof
from alexnet_deploy.engines.proof.golden_files import golden_pixels, prove_decoder, prove_files
from alexnet_deploy.pipeline.check import check

INFO = engine_info()


class Memory:
    """A runner that knows the answer to each image, and to no other."""

    def __init__(self, images: np.ndarray, answers: np.ndarray) -> None:
        self.answers = {image.tobytes(): answer for image, answer in zip(images, answers, strict=True)}

    def run(self, images: np.ndarray) -> np.ndarray:
        return np.stack([self.answers[image.tobytes()] for image in images])

    def close(self) -> None:
        self.answers = {}


def files_of(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    files = bundle.manifest.golden.files
    assert isinstance(files, GoldenFiles)
    return bundle.read_tensor(files.pixels), bundle.read_tensor(files.probabilities)


def engine(images: np.ndarray, answers: np.ndarray, info: EngineInfo = INFO) -> Engine:
    return Engine([Memory(images, answers)], info, name="a graph", output=Output(size=answers.shape[1]), max_batch=100)


def without_files(bundle: Bundle, out: Path) -> Bundle:
    """The same bundle as the program of format version 2 published it."""
    golden = msgspec.structs.replace(bundle.manifest.golden, files=msgspec.UNSET)
    manifest = msgspec.structs.replace(bundle.manifest, format_version=2, golden=golden)
    return republished(bundle, out, {}, manifest)


def test_a_bundle_holds_the_golden_files_and_what_must_come_of_them(bundle: Bundle, loaded: LoadedWeights) -> None:
    wanted = golden_files(loaded.weights.preprocessing.image_policy)
    found = golden_pixels(bundle)
    assert list(found) == [f"golden/files/{file.name}" for file in wanted]
    for file in wanted:
        assert bundle.read(f"golden/files/{file.name}") == file.data
        np.testing.assert_array_equal(found[f"golden/files/{file.name}"], file.pixels)
    row = prove_decoder(bundle)
    assert row.passed
    assert (row.num_exact, row.num_files, row.max_error, row.mean_error) == (19, 19, 0, 0.0)
    assert row.decoder.startswith("Pillow ")


def test_the_parity_of_an_export_includes_the_golden_files(bundle: Bundle) -> None:
    rows = [row for row in bundle.manifest.parity if row.images == "golden files"]
    assert {row.backend for row in rows} == {row.backend for row in bundle.manifest.parity}
    assert {row.num_images for row in rows} == {19}


def test_one_wrong_value_of_one_file_fails_the_decoder(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = proof.decode_image

    def wrong(data: bytes, resize: str) -> np.ndarray:
        pixels = decode(data, resize)  # type: ignore[arg-type]
        if data == bundle.read("golden/files/grey.jpg"):
            pixels[0, 0, 0] ^= 4
        return pixels

    monkeypatch.setattr(proof, "decode_image", wrong)
    row = prove_decoder(bundle)
    assert not row.passed
    assert (row.num_exact, row.max_error) == (18, 4)
    assert row.failures == ("grey.jpg: 0.0% of the values differ, by 2e-05 on average and 4 at most",)
    assert not check(bundle, backends=["onnxruntime"]).passed


def test_a_file_that_cannot_be_decoded_fails_the_decoder(bundle: Bundle, tmp_path: Path) -> None:
    half = bundle.read("golden/files/odd.jpg")[:5000]
    row = prove_decoder(republished(bundle, tmp_path / "half.bundle", {"golden/files/odd.jpg": half}))
    assert not row.passed
    assert row.num_exact == 18
    assert [failure[:38] for failure in row.failures] == ["odd.jpg: cannot be decoded: JPEG: ends"]


def test_an_engine_must_answer_each_file_right(bundle: Bundle) -> None:
    images, expected = files_of(bundle)
    (row,) = prove_files(engine(images, expected), bundle)
    assert row.passed
    assert (row.images, row.num_images, row.max_error, row.against) == ("golden files", 19, 0.0, "network")
    (row,) = prove_files(engine(images, expected[::-1]), bundle)
    assert not row.passed
    (row,) = prove_files(engine(images, np.full_like(expected, np.nan)), bundle)
    assert not row.passed


def test_an_int8_engine_is_held_against_its_own_graph_alone(int8_shipment: tuple[LoadedWeights, Bundle]) -> None:
    _, bundle = int8_shipment
    images, expected = files_of(bundle)
    (row,) = prove_files(engine(images, expected, replace(INFO, precision="int8")), bundle)
    assert (row.against, row.max_error, row.passed) == ("graph", 0.0, True)
    assert prove_files(engine(images, expected), bundle) == (), "the trained network is not the graph"


def test_an_older_bundle_opens_and_says_what_it_lacks(bundle: Bundle, tmp_path: Path, run: Run) -> None:
    older = without_files(bundle, tmp_path / "older.bundle")
    assert open_bundle(older.path).manifest.format_version == 2
    with pytest.raises(BundleError, match="holds no golden files: its manifest is of format version 2; export again"):
        golden_pixels(older)
    images, expected = files_of(bundle)
    assert prove_files(engine(images, expected), older) == ()
    said = run("check", older.path, "--pixels", "cat").refused(3)
    assert said == f"{older.path}: holds no golden files: its manifest is of format version 2; export again"


def test_a_version_3_manifest_without_golden_files_is_refused(bundle: Bundle) -> None:
    golden = msgspec.structs.replace(bundle.manifest.golden, files=msgspec.UNSET)
    fields = msgspec.to_builtins(msgspec.structs.replace(bundle.manifest, format_version=2, golden=golden))
    with pytest.raises(msgspec.ValidationError, match="format version 3 needs golden files"):
        msgspec.convert(fields | {"format_version": 3}, Manifest)


@pytest.mark.parametrize("name", ["golden/files/cmyk.jpg", GOLDEN_FILE_PIXELS, "golden/file_probabilities.f32"])
def test_a_flipped_bit_is_refused(name: str, bundle: Bundle, run: Run, tmp_path: Path) -> None:
    other = republished(bundle, tmp_path / "a.bundle", {})
    data = bytearray((other.path / name).read_bytes())
    data[100] ^= 1
    (other.path / name).write_bytes(data)
    assert run("check", "a.bundle", "--backend", "onnxruntime").refused(3).startswith(f"a.bundle/{name}: SHA-256 ")
    if name != "golden/file_probabilities.f32":
        assert run("check", "a.bundle", "--pixels", "cat").refused(3).startswith(f"a.bundle/{name}: SHA-256 ")


def test_check_shows_the_decoder_s_row_and_fails_with_it(
    bundle: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("check", bundle.path, "--backend", "onnxruntime")
    outcome = run(*command)
    assert outcome.code == 0
    assert ": 19 of 19 golden files equal to the bit, max error 0, mean error 0: passed\n" in outcome.out
    assert "golden files" in outcome.out.splitlines()[2], outcome.out
    decode = proof.decode_image
    monkeypatch.setattr(proof, "decode_image", lambda data, resize: decode(data, resize)[..., ::-1])
    outcome = run(*command)
    assert outcome.code == 1
    assert ": 2 of 19 golden files equal to the bit, max error 255, " in outcome.out
    assert "\nFAILED: baseline.jpg: " in outcome.out
    answer = msgspec.json.decode(run(*command, "--json").out)
    assert answer["passed"] is False
    assert answer["decoder"]["num_exact"] == 2
