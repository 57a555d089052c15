import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import numpy as np
import pytest
from networks import republished

from alexnet_deploy.core.bundle import Bundle, open_bundle, publishing
from alexnet_deploy.core.errors import BundleError, IntegrityError
from alexnet_deploy.core.manifest import decode_manifest, encode_manifest
from alexnet_deploy.engines.engine import open_engine


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle's directory to damage."""
    target = tmp_path / "copy.bundle"
    shutil.copytree(bundle.path, target)
    return target


def edit_manifest(copy: Path, change: dict[str, object]) -> None:
    manifest = msgspec.json.decode((copy / "manifest.json").read_bytes())
    manifest.update(change)
    (copy / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def refuses(copy: Path, match: str) -> None:
    """Opening it, or an engine on it, is refused with one sentence, before a loader sees anything."""
    with pytest.raises(BundleError, match=match) as caught:
        open_engine(open_bundle(copy))
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_what_was_published_is_read_back(bundle: Bundle) -> None:
    opened = open_bundle(bundle.path)
    assert opened.manifest == bundle.manifest
    assert opened.sha256 == bundle.sha256
    opened.verify()
    images = opened.read_tensor(opened.manifest.golden.images)
    assert images.shape == (8, 256, 256, 3)
    assert images.dtype == np.uint8


def test_manifest_survives_json(bundle: Bundle) -> None:
    assert decode_manifest(encode_manifest(bundle.manifest), "a bundle") == bundle.manifest


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_flipped_byte_is_refused(copy: Path, place: int) -> None:
    data = bytearray((copy / "model.onnx").read_bytes())
    data[place] ^= 1
    (copy / "model.onnx").write_bytes(data)
    refuses(copy, r"model\.onnx: SHA-256 \w{12}\.\.\., where \w{12}\.\.\. was published")


def test_truncated_file_is_refused(copy: Path) -> None:
    data = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(data[:-1])
    refuses(copy, r"model\.onnx: [\d]+ bytes, where [\d]+ were published")


def test_longer_file_is_refused(copy: Path) -> None:
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0" * 100)
    refuses(copy, r"model\.onnx: [\d]+ bytes, where [\d]+ were published")


def test_missing_file_is_refused(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    refuses(copy, r"model\.onnx: is missing, though the manifest names it")


def test_link_is_refused_even_to_the_same_bytes(copy: Path) -> None:
    (copy / "model.onnx").rename(copy / "elsewhere.onnx")
    (copy / "model.onnx").symlink_to("elsewhere.onnx")
    refuses(copy, r"model\.onnx: is a link")


def test_linked_folder_is_refused(copy: Path) -> None:
    (copy / "golden").rename(copy.parent / "outside")
    (copy / "golden").symlink_to(copy.parent / "outside")
    with pytest.raises(IntegrityError, match="golden: is a link"):
        open_bundle(copy).verify()


def test_linked_manifest_is_refused(copy: Path) -> None:
    (copy / "manifest.json").rename(copy.parent / "manifest.json")
    (copy / "manifest.json").symlink_to(copy.parent / "manifest.json")
    refuses(copy, r"manifest\.json: is a link")


def test_pipe_is_refused_and_not_waited_for(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    os.mkfifo(copy / "model.onnx")
    refuses(copy, "not a regular file")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "golden/../../x", "a\\b", "a//b", "./a", "a/.hidden", ""]
)
def test_path_that_may_leave_the_bundle_is_refused(copy: Path, name: str) -> None:
    edit_manifest(copy, {"files": {name: {"sha256": "0" * 64, "bytes": 1}}})
    refuses(copy, "not a plain one below the bundle")


@pytest.mark.parametrize("version", [0, 2, 99])
def test_unknown_version_is_refused(copy: Path, version: int) -> None:
    edit_manifest(copy, {"format_version": version})
    refuses(copy, f"version {version}, where this program reads alexnet-deploy bundle version 1")


def test_another_format_is_refused(copy: Path) -> None:
    edit_manifest(copy, {"format": "something else"})
    refuses(copy, "something else version 1")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe", b'{"format": "alexnet-deploy bundle", "format_version": 1}', b"null"]
)
def test_manifest_that_is_no_manifest_is_refused(copy: Path, data: bytes) -> None:
    (copy / "manifest.json").write_bytes(data)
    refuses(copy, r"manifest\.json cannot be read")


def test_unknown_field_is_refused(copy: Path) -> None:
    edit_manifest(copy, {"surprise": 1})
    refuses(copy, "surprise")


def test_directory_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="there is no such bundle"):
        open_bundle(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is no directory"):
        open_bundle(tmp_path / "file")


def test_file_that_the_manifest_does_not_name_is_not_read(bundle: Bundle) -> None:
    with pytest.raises(IntegrityError, match=r"names no plans/x\.engine"):
        bundle.read("plans/x.engine")


def test_existing_place_is_refused(bundle: Bundle) -> None:
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="exists already"), publishing(bundle.path):
        pytest.fail("nothing may be made")
    assert (bundle.path / "manifest.json").read_bytes() == before


def test_force_moves_what_was_there_aside(bundle: Bundle, copy: Path) -> None:
    before = (copy / "manifest.json").read_bytes()
    with publishing(copy, force=True) as stage:
        for name in bundle.manifest.files:
            stage.write(name, bundle.read(name))
        stage.seal(msgspec.structs.replace(bundle.manifest, created="later"))
    assert open_bundle(copy).manifest.created == "later"
    (aside,) = copy.parent.glob("copy.bundle.old-*")
    assert (aside / "manifest.json").read_bytes() == before


def test_failure_leaves_what_was_there(bundle: Bundle, copy: Path) -> None:
    before = sorted(copy.parent.rglob("*"))
    staged = publishing(copy, force=True)
    staged.__enter__().write("model.onnx", b"half")
    halfway = RuntimeError("halfway")
    assert not staged.__exit__(RuntimeError, halfway, None)
    assert sorted(copy.parent.rglob("*")) == before
    open_bundle(copy).verify()


def test_stage_that_was_damaged_is_not_published(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "new.bundle"
    staged = publishing(out)
    stage = staged.__enter__()
    for name in bundle.manifest.files:
        stage.write(name, bundle.read(name))
    stage.seal(bundle.manifest)
    (stage.path / "labels.txt").write_bytes(b"other\n")
    with pytest.raises(IntegrityError, match=r"labels\.txt"):
        staged.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_killed_process_leaves_what_was_there(bundle: Bundle, copy: Path) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from alexnet_deploy.core.bundle import publishing
        with publishing(Path({str(copy)!r}), force=True) as stage:
            stage.write("model.onnx", b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert done.returncode == -9
    open_bundle(copy).verify()
    visible = [path.name for path in copy.parent.iterdir() if not path.name.startswith(".")]
    assert visible == ["copy.bundle"]


def test_two_bundles_of_the_same_files_differ_in_nothing_but_their_place(bundle: Bundle, tmp_path: Path) -> None:
    again = republished(bundle, tmp_path / "again.bundle", {})
    assert again.sha256 == bundle.sha256
