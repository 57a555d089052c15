"""The C++ library refuses the bundles that Python refuses, with the same code and nearly the same sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cpp_library import CppEngine, CppError, verify
from networks import republished

from alexnet_deploy.core.bundle.manifest import encode_manifest
from alexnet_deploy.core.bundle.store import Bundle, open_bundle, publishing
from alexnet_deploy.core.confidence.record import Confidence
from alexnet_deploy.core.confidence.reliability import reliability
from alexnet_deploy.core.errors import AlexNetDeployError, BundleError, IntegrityError, UsageError

CODES = {BundleError: "bundle_error", IntegrityError: "integrity_error"}


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    target = tmp_path / "copy.bundle"
    shutil.copytree(bundle.path, target)
    return target


def refusal_of_python(path: Path) -> tuple[str, str]:
    with pytest.raises(AlexNetDeployError) as caught:
        open_bundle(path).verify()
    return CODES[type(caught.value)], str(caught.value)


def refusal_of_cpp(path: Path) -> tuple[str, str]:
    with pytest.raises(CppError) as caught:
        verify(path)
    return caught.value.code, str(caught.value)


def test_a_whole_bundle_is_accepted(copy: Path) -> None:
    verify(copy)
    (copy / "notes.txt").write_text("not in the manifest, so nothing reads it")
    verify(copy)


def test_a_bundle_with_a_calibrated_confidence_is_opened(bundle: Bundle, images: Path, tmp_path: Path) -> None:
    found = reliability(np.array([0.9, 0.6, 1 / 3]), np.array([True, False, True]))
    record = Confidence(
        temperature=1.2345678901234567,
        half_temperatures=(1e-5, 1.3),
        num_images=3,
        images_sha256="0" * 64,
        is_validation=True,
        before=found,
        after=found,
        loss_before=0.7,
        loss_after=0.6,
        num_changed=1,
    )
    manifest = msgspec.structs.replace(bundle.manifest, confidence=record)
    scaled = republished(bundle, tmp_path / "scaled.bundle", {}, manifest)
    assert open_bundle(scaled.path).manifest.confidence == record
    verify(scaled.path)
    with CppEngine(scaled.path, "openvino") as engine, CppEngine(bundle.path, "openvino") as plain:
        file = (images / "a.jpg").read_bytes()
        np.testing.assert_array_equal(engine.classify(file), plain.classify(file))


def test_a_flipped_bit_in_each_file_is_refused(bundle: Bundle, copy: Path) -> None:
    for name in bundle.manifest.files:
        file, whole = copy / name, (copy / name).read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert refusal_of_cpp(copy) == refusal_of_python(copy)
        file.write_bytes(whole)
    verify(copy)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _link(path: Path) -> None:
    moved = path.parents[1] / "elsewhere"
    path.rename(moved)
    path.symlink_to(moved)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [_cut, Path.unlink, _link, _directory])
@pytest.mark.parametrize("name", ["model.onnx", "labels.txt"])
def test_a_changed_file_is_refused_with_the_same_sentence(
    change: Callable[[Path], None], name: str, copy: Path
) -> None:
    change(copy / name)
    assert refusal_of_cpp(copy) == refusal_of_python(copy)


def test_a_linked_folder_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "golden").rename(tmp_path / "golden")
    (copy / "golden").symlink_to(tmp_path / "golden")
    assert refusal_of_cpp(copy) == refusal_of_python(copy)


def _with_version(version: int) -> Callable[[dict[str, object]], None]:
    def change(manifest: dict[str, object]) -> None:
        manifest["format_version"] = version

    return change


def _with_format(manifest: dict[str, object]) -> None:
    manifest["format"] = "another bundle"


@pytest.mark.parametrize("change", [_with_version(1), _with_version(5), _with_version(99), _with_format])
def test_another_version_is_refused_with_the_same_sentence(
    change: Callable[[dict[str, object]], None], copy: Path
) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest, indent=2))
    assert refusal_of_cpp(copy) == refusal_of_python(copy)


def test_a_bundle_of_features_is_refused_by_name(features_bundle: Bundle) -> None:
    code, sentence = refusal_of_cpp(features_bundle.path)
    assert code == "bundle_error"
    assert "returns features of fc7, but the C++ library needs probabilities" in sentence
    with pytest.raises(UsageError) as refused:
        features_bundle.refuse_features("the C++ library")
    assert str(refused.value) == sentence


def test_each_changed_field_is_refused(copy: Path) -> None:
    text = (copy / "manifest.json").read_text()
    for old, new in {"shorter-side": "warp", '"fp32"': '"fp16"', "127.3": "127.4", '"ten"': '"center"'}.items():
        assert old in text
        (copy / "manifest.json").write_text(text.replace(old, new, 1))
        assert refusal_of_cpp(copy)[0] == refusal_of_python(copy)[0] == "integrity_error"
    (copy / "manifest.json").write_text(text)
    verify(copy)


@pytest.mark.parametrize("length", [0, 1, 100, -2])
def test_a_truncated_manifest_is_refused(length: int, copy: Path) -> None:
    whole = (copy / "manifest.json").read_bytes()
    (copy / "manifest.json").write_bytes(whole[:length])
    assert refusal_of_cpp(copy)[0] == refusal_of_python(copy)[0] == "integrity_error"


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "a//b", "./a", "a/../b", "a b", ".hidden", "", "a/"])
def test_paths_that_leave_the_bundle_are_refused(path: str, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    manifest["files"][path] = manifest["files"]["labels.txt"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, message = refusal_of_cpp(copy)
    assert (code, refusal_of_python(copy)[0]) == ("integrity_error", "integrity_error")
    assert f"invalid file path '{path}'" in message


def test_wrong_labels_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    lines = bundle.read("labels.txt").splitlines()
    for name, content in {"few": lines[1:], "double": [lines[1], *lines[1:]]}.items():
        wrong = republished(bundle, tmp_path / name, {"labels.txt": b"".join(line + b"\n" for line in content)})
        with pytest.raises(CppError, match="label") as caught:
            CppEngine(wrong.path)
        assert caught.value.code == "integrity_error"


def test_what_is_not_a_bundle_is_refused_with_the_same_sentence(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    unfinished = tmp_path / ".copy.bundle.abcdefg_.partial"
    copy.rename(unfinished)
    for path in (tmp_path / "nothing", tmp_path / "file", tmp_path / "empty", unfinished):
        assert refusal_of_cpp(path) == refusal_of_python(path)


def test_a_candidate_is_refused_with_the_same_sentence(bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "candidate.bundle"
    shutil.copytree(bundle.path, target)
    candidate = msgspec.structs.replace(bundle.manifest, is_candidate=True)
    (target / "manifest.json").write_bytes(encode_manifest(candidate))
    assert refusal_of_cpp(target) == refusal_of_python(target)


@pytest.mark.parametrize("name", ["precision", "resize", "path"])
def test_a_line_break_in_the_manifest_does_not_break_the_sentence(name: str, copy: Path) -> None:
    manifest = json.loads((copy / "manifest.json").read_bytes())
    if name == "path":
        manifest["files"]["a\nb"] = manifest["files"]["labels.txt"]
    else:
        (manifest if name == "precision" else manifest["preprocessing"])[name] = "a\nb"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    code, message = refusal_of_cpp(copy)
    assert code == refusal_of_python(copy)[0] == "integrity_error"
    assert "a\\nb" in message
    assert "\n" not in message


@pytest.mark.parametrize("change", [_cut, _link, Path.unlink])
def test_a_changed_plan_is_refused_with_the_same_sentence(
    change: Callable[[Path], None], bundle: Bundle, tmp_path: Path
) -> None:
    plan, path = "plans/tensorrt-10.13.0-sm-90-h100.engine", tmp_path / "planned.bundle"
    with publishing(path) as stage:
        for name in bundle.manifest.files:
            stage.write(name, bundle.read(name))
        stage.write(plan, bytes(range(200)))
        stage.seal(bundle.manifest)
    verify(path)
    change(path / plan)
    assert refusal_of_cpp(path) == refusal_of_python(path)
