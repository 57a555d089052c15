"""golden/index.txt is sufficient to prove an engine, and agrees with the manifest."""

import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
from commands import Run
from faulty import faulty_bundle
from networks import republished, shipped

from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.bundle.store import GOLDEN_INDEX, Bundle, open_bundle
from alexnet_deploy.core.golden.record import GoldenGraph, TensorFile
from alexnet_deploy.core.model.weights import LoadedWeights, Weights
from alexnet_deploy.engines.proof.golden_index import golden_index
from alexnet_deploy.engines.proof.tolerances import TOLERANCES, int8_graph_tolerance
from alexnet_deploy.pipeline import export as ship

_FILE = re.compile(r"(\S+) +(uint8|float32) +(\d+(?: x \d+)+) +(\d+) bytes  (.*)")
_LIMITS = re.compile(
    r"  (\S+) +\|p - q\| <= (\S+), \|ln p - ln q\| <= (\S+), q of the engine's top-1 class within (\S+) of the "
    r"row's largest in at least (\d+) of (?:8|19) rows(.*)"
)


@dataclass(frozen=True, kw_only=True)
class Limits:
    probability: float
    log_probability: float
    tie: float
    num_same: int


def read(text: str) -> tuple[dict[str, tuple[str, tuple[int, ...], int]], dict[str, Limits]]:
    """The parsed index: dtype, shape and bytes of each file, and the tolerance of each comparison."""
    files = {
        found[1]: (found[2], tuple(map(int, found[3].split(" x "))), int(found[4])) for found in _FILE.finditer(text)
    }
    limits = {
        found[1]: Limits(
            probability=float(found[2]), log_probability=float(found[3]), tie=float(found[4]), num_same=int(found[5])
        )
        for found in map(_LIMITS.fullmatch, text.splitlines())
        if found is not None
    }
    return files, limits


def agrees(bundle: Path) -> bool:
    """Prove a bundle's graph with the index alone, without this package's code."""
    files, limits = read((bundle / GOLDEN_INDEX).read_text(encoding="utf-8"))
    tensors = {}
    for name, (dtype, shape, num_bytes) in files.items():
        data = (bundle / "golden" / name).read_bytes()
        assert len(data) == num_bytes
        tensors[name] = np.frombuffer(data, dtype={"uint8": "u1", "float32": "<f4"}[dtype]).reshape(shape)
    session = onnxruntime.InferenceSession((bundle / "model.onnx").read_bytes(), providers=["CPUExecutionProvider"])
    verdicts = []
    for name, wanted in limits.items():
        images = tensors["file_pixels.u8" if name.startswith("file_") else "images.u8"]
        (answers,) = session.run(["probabilities"], {"images": images})
        p = answers.astype(np.float64)
        q = tensors[name].astype(np.float64)
        logs = np.log(np.maximum(p, 1e-30)) - np.log(np.maximum(q, 1e-30))
        same = q[np.arange(len(q)), p.argmax(axis=1)] >= q.max(axis=1) - wanted.tie
        verdicts.append(
            np.abs(p - q).max() <= wanted.probability
            and np.abs(logs).max() <= wanted.log_probability
            and same.sum() >= wanted.num_same
        )
    assert verdicts
    return all(verdicts)


def test_an_engine_can_be_proved_by_the_index_alone(bundle: Bundle, loaded: LoadedWeights, tmp_path: Path) -> None:
    assert agrees(bundle.path)
    faulty = faulty_bundle(bundle, loaded, "red and blue swapped", tmp_path / "faulty.bundle")
    assert not agrees(faulty.path)


def test_the_index_is_among_the_bundle_s_files(bundle: Bundle) -> None:
    assert bundle.read(GOLDEN_INDEX) == golden_index(bundle.manifest)
    assert len(bundle.read(GOLDEN_INDEX).splitlines()) <= 36


def int8_manifest(bundle: Bundle) -> Manifest:
    """Return the bundle's manifest with the golden vectors of an int8 bundle."""
    manifest = bundle.manifest
    own = TensorFile(file="golden/graph_probabilities.f32", dtype="float32", shape=manifest.golden.probabilities.shape)
    graph = GoldenGraph(probabilities=own, tolerance=int8_graph_tolerance(10))
    golden = msgspec.structs.replace(manifest.golden, tolerance=TOLERANCES["int8"], graph=graph)
    return msgspec.structs.replace(manifest, golden=golden)


def test_an_int8_engine_is_held_against_its_own_graph(bundle: Bundle) -> None:
    text = golden_index(int8_manifest(bundle)).decode()
    files, limits = read(text)
    assert files == {
        "images.u8": ("uint8", (8, 256, 256, 3), 8 * 256 * 256 * 3),
        "probabilities.f32": ("float32", (8, 4), 128),
        "graph_probabilities.f32": ("float32", (8, 4), 128),
        "file_pixels.u8": ("uint8", (19, 256, 256, 3), 19 * 256 * 256 * 3),
        "file_probabilities.f32": ("float32", (19, 4), 304),
    }
    assert limits == {
        "graph_probabilities.f32": Limits(probability=0.03, log_probability=0.3, tie=1e-5, num_same=7),
        "probabilities.f32": Limits(probability=0.25, log_probability=4.0, tie=0.02, num_same=7),
        "file_probabilities.f32": Limits(probability=0.03, log_probability=0.3, tie=1e-5, num_same=18),
    }
    (proof,) = [line for line in text.splitlines() if "this proves the engine" in line]
    assert "  graph_probabilities.f32 " in proof
    assert len(text.splitlines()) <= 38


def test_numbers_are_the_manifest_s_own(bundle: Bundle) -> None:
    golden = bundle.manifest.golden
    tolerance = msgspec.structs.replace(golden.tolerance, probability=0.0625, log_probability=0.5, top1_agreement=1.0)
    changed = msgspec.structs.replace(bundle.manifest, golden=msgspec.structs.replace(golden, tolerance=tolerance))
    _, limits = read(golden_index(changed).decode())
    wanted = Limits(probability=0.0625, log_probability=0.5, tie=1e-5, num_same=8)
    assert limits == {"probabilities.f32": wanted, "file_probabilities.f32": replace(wanted, num_same=19)}


def test_a_bundle_without_an_index_still_opens_and_passes(bundle: Bundle, run: Run, tmp_path: Path) -> None:
    files = {name: entry for name, entry in bundle.manifest.files.items() if name != GOLDEN_INDEX}
    older = republished(bundle, tmp_path / "older.bundle", {}, leave_out=GOLDEN_INDEX)
    assert set(older.manifest.files) == set(files)
    assert not (older.path / GOLDEN_INDEX).exists()
    open_bundle(older.path).verify()
    assert run("check", older.path, "--backend", "onnxruntime").code == 0


def test_a_changed_index_is_found(bundle: Bundle, run: Run, tmp_path: Path) -> None:
    shutil.copytree(bundle.path, tmp_path / "a.bundle")
    index = tmp_path / "a.bundle" / GOLDEN_INDEX
    index.write_bytes(index.read_bytes().replace(b"1e-05", b"9e-05", 1))
    said = run("check", "a.bundle", "--backend", "onnxruntime").refused(3)
    assert said.startswith(f"a.bundle/{GOLDEN_INDEX}: SHA-256 ")


@pytest.mark.usefixtures("whole_proof")
def test_both_references_of_an_int8_bundle_hold(sure: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The error of OpenVINO's int8 products depends on the CPU and is not tested here.
    monkeypatch.setattr(ship, "installed_backends", lambda: ("onnxruntime",))
    _, bundle = shipped(sure, tmp_path, precision="int8")
    _, limits = read((bundle.path / GOLDEN_INDEX).read_text(encoding="utf-8"))
    assert limits.keys() == {"graph_probabilities.f32", "probabilities.f32", "file_probabilities.f32"}
    assert agrees(bundle.path)
