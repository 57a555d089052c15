"""The C++ library's engines give the probabilities of Python's engines on the same backend, equal to the bit."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cpp_library import CppEngine, CppError, backends
from images import encode, noise
from networks import republished
from PIL import Image

from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.engines.registry import BACKENDS, GraphBackend


def needs(backend: str) -> None:
    if backend not in backends():
        assert backend == "onnxruntime" or not os.environ.get("ALEXNET_DEPLOY_CPP_TESTS"), f"CI needs {backend}"
        pytest.skip(f"the library was built without {backend}: its headers are missing (ONNXRUNTIME_HEADERS)")


@pytest.fixture(params=["fp32", "int8"])
def published(request: pytest.FixtureRequest) -> Bundle:
    name = "shipment" if request.param == "fp32" else "int8_shipment"
    shipment: tuple[LoadedWeights, Bundle] = request.getfixturevalue(name)
    return shipment[1]


@pytest.mark.parametrize("backend", BACKENDS)
def test_probabilities_are_equal_to_the_bit(backend: GraphBackend, published: Bundle, images: Path) -> None:
    needs(backend)
    resize = published.manifest.preprocessing.image_policy
    squares = np.stack([read_image(path, resize) for path in sorted(images.iterdir())])
    squares = np.concatenate([squares, squares[:, ::-1], noise(256, 256 * 9).reshape(9, 256, 256, 3)])
    with CppEngine(published.path, backend) as ours, open_engine(published, backend) as theirs:
        assert ours.labels == published.labels
        for batch in (squares[:1], squares[:3], squares):
            np.testing.assert_array_equal(ours.run(batch), theirs.run(batch))
        for path in sorted(images.iterdir())[:3]:
            (expected,) = theirs.run(read_image(path, resize)[None])
            np.testing.assert_array_equal(ours.classify(path.read_bytes()), expected)
            np.testing.assert_array_equal(ours.classify_file(path), expected)
        frame = noise(256, 256)
        np.testing.assert_array_equal(ours.classify_frame(frame[:, :, ::-1].copy(), "BGR"), theirs.run(frame[None])[0])
        info = ours.info
        assert (info.backend.decode(), info.version.decode()) == (theirs.info.backend, theirs.info.version)
        assert info.arithmetic.decode() == theirs.info.arithmetic
        assert info.sha256.decode() == published.sha256
        assert (info.num_streams, info.batch_size) == (theirs.info.num_streams, theirs.info.batch_size)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_bundle_proves_itself(backend: GraphBackend, published: Bundle) -> None:
    needs(backend)
    with CppEngine(published.path, backend) as engine:
        proof = engine.prove()
    names = published.manifest.golden.files.names
    assert (proof.num_images, proof.num_files, proof.num_files_exact) == (8, len(names), len(names))
    assert 0 < proof.max_error < (0.25 if published.manifest.precision == "int8" else 1e-5)


def test_other_weights_fail_the_proof(bundle: Bundle, tmp_path: Path) -> None:
    golden = bundle.manifest.golden
    shifted = np.roll(bundle.read_tensor(golden.probabilities), 1, axis=1).tobytes()
    wrong = republished(bundle, tmp_path / "wrong.bundle", {golden.probabilities.file: shifted})
    with (
        CppEngine(wrong.path, "openvino") as engine,
        pytest.raises(CppError, match="a probability is off by") as caught,
    ):
        engine.prove()
    assert caught.value.code == "parity_error"


def test_other_pixels_fail_the_proof(bundle: Bundle, tmp_path: Path) -> None:
    name = bundle.manifest.golden.files.names[0]
    other = encode(Image.fromarray(noise(40, 30)), "JPEG")
    wrong = republished(bundle, tmp_path / "wrong.bundle", {name: other})
    with CppEngine(wrong.path, "openvino") as engine, pytest.raises(CppError, match=f"{name}: its pixels differ"):
        engine.prove()


def test_an_image_that_cannot_be_read_has_its_code(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(encode(Image.fromarray(noise(40, 30)), "JPEG")[:300])
    (tmp_path / "empty.jpg").touch()
    codes = {
        tmp_path / "cut.jpg": "truncated",
        tmp_path / "none.jpg": "missing",
        tmp_path / "empty.jpg": "empty",
        tmp_path: "unreadable",
        # Files of the kernel report 0 bytes; the second cannot be read at its start.
        Path("/proc/self/maps"): "unreadable",
        Path("/proc/self/mem"): "unreadable",
    }
    with CppEngine(bundle.path, "openvino") as engine:
        for path, code in codes.items():
            with pytest.raises(CppError) as caught:
                engine.classify_file(path)
            with pytest.raises(ImageError) as expected:
                read_image(path, bundle.manifest.preprocessing.image_policy)
            assert caught.value.code == expected.value.code == code
            if code == "unreadable":
                assert str(caught.value) == str(expected.value.alone())


@pytest.mark.parametrize(
    ("backend", "device", "threads", "code", "words"),
    [
        ("caffe", "auto", 0, "usage_error", "'caffe' is not a backend; choose from auto, openvino"),
        ("openvino", "tpu", 0, "usage_error", "'tpu' is not a device"),
        ("openvino", "cuda", 0, "usage_error", "openvino does not run on cuda; use onnxruntime"),
        ("tensorrt", "cpu", 0, "usage_error", "tensorrt does not run on the cpu"),
        ("tensorrt", "auto", 0, "backend_error", "this library was built without tensorrt"),
        ("openvino", "auto", -1, "usage_error", "number of threads must be 1 or more"),
    ],
)
def test_requests_are_obeyed_or_refused(
    bundle: Bundle, backend: str, device: str, threads: int, code: str, words: str
) -> None:
    with pytest.raises(CppError, match=words) as caught:
        CppEngine(bundle.path, backend, device=device, threads=threads)
    assert caught.value.code == code


def test_auto_takes_the_fastest_backend(bundle: Bundle) -> None:
    with CppEngine(bundle.path) as engine:
        assert engine.info.backend.decode() == "openvino"


def test_a_graph_that_cannot_be_loaded_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    wrong = republished(bundle, tmp_path / "wrong.bundle", {"model.onnx": bundle.read("model.onnx")[:500]})
    for backend in backends():
        with pytest.raises(CppError, match=f"{backend} cannot load the graph") as caught:
            CppEngine(wrong.path, backend)
        assert caught.value.code == "backend_error"


def test_a_bundle_may_be_moved(bundle: Bundle, tmp_path: Path) -> None:
    moved = tmp_path / "bündel mit leerzeichen"
    shutil.copytree(bundle.path, moved)
    with CppEngine(moved) as engine:
        assert engine.labels == open_bundle(moved).labels
