import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from commands import HANGS_AFTER_S
from networks import republished

from alexnet_deploy.core.bundle.manifest import (
    FEATURES_VERSION,
    FORMAT_VERSION,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from alexnet_deploy.core.bundle.store import Bundle, open_bundle, publishing
from alexnet_deploy.core.errors import BundleError, IntegrityError, UsageError
from alexnet_deploy.core.model.preprocessing import DECODING
from alexnet_deploy.engines.engine import open_engine

QUANTIZATION: dict[str, Any] = {
    "ranges": {"conv1": 1.0},
    "rest": "fp32",
    "calibration": {"method": "minmax", "num_images": 1, "images_sha256": "0" * 64, "graph_sha256": "0" * 64},
}
PLAN: dict[str, Any] = {
    "file": "plans/tensorrt-10.13-aot.engine",
    "backend": "tensorrt",
    "version": "10.13",
    "target": "aot",
    "graph_sha256": "0" * 64,
    "profile": {},
    "options": {},
    "build_seconds": 1.0,
    "layers": {},
    "proof": "pending",
}
DIGEST_AT = r"Expected `str` matching regex '^[0-9a-f]{{64}}\\Z' - at `$.{}`"


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of a bundle that a test can damage."""
    target = tmp_path / "copy.bundle"
    shutil.copytree(bundle.path, target)
    return target


def edit_manifest(copy: Path, change: dict[str, object]) -> None:
    manifest = msgspec.json.decode((copy / "manifest.json").read_bytes())
    manifest.update(change)
    (copy / "manifest.json").write_bytes(msgspec.json.encode(manifest))


def refuses(copy: Path, match: str) -> None:
    """Opening the bundle or an engine is refused with one sentence, before a loader reads anything."""
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


def test_the_manifest_names_the_decoding_policy_and_one_without_it_is_read(bundle: Bundle) -> None:
    assert bundle.manifest.decoding == DECODING
    assert DECODING.resize_filter == "Pillow bilinear, antialiased, horizontal pass first"
    older = encode_manifest(msgspec.structs.replace(bundle.manifest, decoding=msgspec.UNSET))
    assert b'"decoding"' not in older
    assert decode_manifest(older, "a bundle").decoding is msgspec.UNSET


@pytest.mark.parametrize("place", [0, 1000, -1])
def test_flipped_byte_is_refused(copy: Path, place: int) -> None:
    data = bytearray((copy / "model.onnx").read_bytes())
    data[place] ^= 1
    (copy / "model.onnx").write_bytes(data)
    changed = r"model\.onnx: SHA-256 is \w{12}\.\.\., expected \w{12}\.\.\."
    refuses(copy, rf"{changed}; copy the bundle again, or export it again$")


def test_truncated_file_is_refused(copy: Path) -> None:
    data = (copy / "model.onnx").read_bytes()
    (copy / "model.onnx").write_bytes(data[:-1])
    refuses(copy, r"model\.onnx: [\d,]+ bytes, expected [\d,]+")


def test_longer_file_is_refused(copy: Path) -> None:
    with (copy / "model.onnx").open("ab") as file:
        file.write(b"\0" * 100)
    refuses(copy, r"model\.onnx: [\d,]+ bytes, expected [\d,]+")


def test_missing_file_is_refused(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    refuses(copy, r"model\.onnx: missing, but the manifest lists it")


def test_link_is_refused_even_to_the_same_bytes(copy: Path) -> None:
    (copy / "model.onnx").rename(copy / "elsewhere.onnx")
    (copy / "model.onnx").symlink_to("elsewhere.onnx")
    refuses(copy, r"model\.onnx: this is a link, but all files of a bundle must be inside it; copy the bundle")


def test_linked_folder_is_refused(copy: Path) -> None:
    (copy / "golden").rename(copy.parent / "outside")
    (copy / "golden").symlink_to(copy.parent / "outside")
    with pytest.raises(IntegrityError, match="golden: this is a link"):
        open_bundle(copy).verify()


def test_linked_manifest_is_refused(copy: Path) -> None:
    (copy / "manifest.json").rename(copy.parent / "manifest.json")
    (copy / "manifest.json").symlink_to(copy.parent / "manifest.json")
    refuses(copy, r"manifest\.json: this is a link")


def test_pipe_is_refused_and_not_waited_for(copy: Path) -> None:
    (copy / "model.onnx").unlink()
    os.mkfifo(copy / "model.onnx")
    refuses(copy, "not a regular file")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "golden/../../x", "a\\b", "a//b", "./a", "a/.hidden", ""]
)
def test_path_that_may_leave_the_bundle_is_refused(copy: Path, name: str) -> None:
    edit_manifest(copy, {"files": {name: {"sha256": "0" * 64, "bytes": 1}}})
    refuses(copy, "it must be a plain path inside the bundle")


@pytest.mark.parametrize("version", [0, 1, FEATURES_VERSION + 1, 99])
def test_unknown_version_is_refused(copy: Path, version: int) -> None:
    edit_manifest(copy, {"format_version": version})
    why = "newer than supported" if version > FEATURES_VERSION else "not supported"
    refuses(copy, f"version {version} is {why}; this program reads alexnet-deploy bundle version 2, 3 and 4")


def test_another_format_is_refused(copy: Path) -> None:
    edit_manifest(copy, {"format": "something else"})
    refuses(copy, f"something else version {FORMAT_VERSION}")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"format": "alexnet-deploy bundle", "format_version": %d}' % FORMAT_VERSION,
        b"null",
        b'{"a": "\xd8"}',
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_manifest_that_is_no_manifest_is_refused(copy: Path, data: bytes) -> None:
    (copy / "manifest.json").write_bytes(data)
    refuses(copy, r"manifest\.json cannot be read")


def test_unknown_field_is_refused(copy: Path) -> None:
    edit_manifest(copy, {"surprise": 1})
    refuses(copy, "surprise")


def test_flipped_bit_anywhere_in_the_manifest_is_refused_or_says_the_same(copy: Path) -> None:
    whole = (copy / "manifest.json").read_bytes()
    original = decode_manifest(whole, "a bundle")
    num_refused = 0
    for place in range(len(whole)):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        try:
            # White space may differ, the content may not.
            assert decode_manifest(bytes(flipped), "a bundle") == original
        except BundleError:
            num_refused += 1
    assert num_refused > len(b"".join(whole.split()))  # every byte that is not white space, and more


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("files/model.onnx/bytes", 10**9, "expected 1,000,000,000"),
        ("files/model.onnx/bytes", 2**32 + 1, "Expected `int` <= 4294967296 - at `$.files[...].bytes`"),
        ("files/model.onnx/bytes", 2**63, "Expected `int` <= 4294967296 - at `$.files[...].bytes`"),
        ("files/model.onnx/bytes", -1, "Expected `int` >= 0 - at `$.files[...].bytes`"),
        ("files/model.onnx/sha256", "A" * 64, DIGEST_AT.format("files[...].sha256")),
        ("files/model.onnx/sha256", "0" * 64 + "\n", DIGEST_AT.format("files[...].sha256")),
        ("golden/images/shape", [2] * 9, "Expected `array` of length <= 8 - at `$.golden.images.shape`"),
        ("golden/images/shape", [], "Expected `array` of length >= 1 - at `$.golden.images.shape`"),
        ("plans", [{**PLAN, "graph_sha256": "0" * 63}], DIGEST_AT.format("plans[0].graph_sha256")),
        ("plans", [{**PLAN, "file": "plans/../a.engine"}], "invalid plan path 'plans/../a.engine'"),
        ("views/crops", [], "Expected `array` of length >= 1 - at `$.views.crops`"),
        ("views/crops/3/top", 31, "the crops do not match the views 'ten'"),
        ("views/name", "center", "the crops do not match the views 'center'"),
        ("golden/images/shape", [8, -256, -256, 3], "Expected `int` >= 1 - at `$.golden.images.shape[1]`"),
        ("golden/images/shape", [8, 196608], "the golden vectors have invalid shapes"),
        ("golden/probabilities/shape", [4, 8], "the golden vectors have invalid shapes"),
        ("golden/files/pixels/shape", [19, 256, 256, 4], "the 19 golden files have invalid shapes"),
        ("golden/files/probabilities/shape", [4, 19], "the 19 golden files have invalid shapes"),
        ("golden/files/names", ["golden/files/a.png"], "the 1 golden files have invalid shapes"),
        ("golden/files/names", ["golden/files/a.png"] * 19, "a golden file is listed twice"),
        ("golden/files/names", ["golden/files/../a.png"], "at `$.golden.files.names[0]`"),
        ("golden/files/names", [], "Expected `array` of length >= 1 - at `$.golden.files.names`"),
        ("format_version", 2, "format version 2 has no golden files"),
        ("contract/input/name", "foo", "the contract is not the expected one for 4 probabilities"),
        ("architecture/layers/0/stride", 0, "must be 1 or more"),
        ("architecture/layers/0/groups", 0, "must be 1 or more"),
        ("precision", "int4", "Invalid enum value 'int4'"),
        ("precision", "int8", "precision int8 needs quantization"),
        ("quantization", QUANTIZATION, "precision fp32 must not have quantization"),
        (
            "quantization",
            {**QUANTIZATION, "ranges": {"conv1": 0.0}},
            "conv1: calibration range must be finite and > 0, got 0.0",
        ),
        (
            "quantization",
            {**QUANTIZATION, "ranges": {"conv1": -1.0}},
            "conv1: calibration range must be finite and > 0, got -1.0",
        ),
        ("quantization", {**QUANTIZATION, "rest": "bf16"}, "Invalid enum value 'bf16'"),
        (
            "quantization",
            {**QUANTIZATION, "calibration": {**QUANTIZATION["calibration"], "num_images": 0}},
            "num_images must be 1 or more, got 0",
        ),
    ],
)
def test_manifest_that_makes_no_sense_is_refused(copy: Path, place: str, value: object, message: str) -> None:
    manifest = msgspec.json.decode((copy / "manifest.json").read_bytes())
    *path, last = place.split("/")
    inner = manifest
    for key in path:
        inner = inner[int(key)] if isinstance(inner, list) else inner[key]
    inner[last] = value
    (copy / "manifest.json").write_bytes(resealed(manifest))
    refuses(copy, re.escape(message))


def resealed(manifest: dict[str, object]) -> bytes:
    """Update the manifest's digest to match again, if the manifest can be read at all."""
    data = msgspec.json.encode(manifest)
    try:
        return encode_manifest(msgspec.json.decode(data, type=Manifest))
    except msgspec.ValidationError:
        return data


def test_labels_that_do_not_fit_are_refused_with_their_place(bundle: Bundle, tmp_path: Path) -> None:
    short = republished(bundle, tmp_path / "short.bundle", {"labels.txt": b"one\n"})
    with pytest.raises(IntegrityError, match=r"short\.bundle/labels\.txt: 1 label for 4 classes"):
        _ = short.labels


def test_tensor_whose_file_holds_more_or_fewer_values_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    for number, data in enumerate((b"", bytes(4), bundle.read("golden/probabilities.f32") + bytes(4))):
        other = republished(bundle, tmp_path / f"{number}.bundle", {"golden/probabilities.f32": data})
        with pytest.raises(IntegrityError, match=rf"probabilities\.f32: {len(data)} bytes do not match shape \(8, 4\)"):
            other.read_tensor(other.manifest.golden.probabilities)


def test_published_files_have_the_rights_of_any_other(bundle: Bundle, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        again = republished(bundle, tmp_path / "again.bundle", {})
    finally:
        os.umask(before)
    rights = {path.stat().st_mode & 0o777 for path in (again.path, again.path / "golden")}
    assert rights == {0o750}
    assert (again.path / "manifest.json").stat().st_mode & 0o777 == 0o640


def test_directory_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"not a bundle: there is no manifest\.json"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="there is no such bundle"):
        open_bundle(tmp_path / "nothing")
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="is not a directory"):
        open_bundle(tmp_path / "file")


def test_file_that_the_manifest_does_not_name_is_not_read(bundle: Bundle) -> None:
    with pytest.raises(IntegrityError, match=r"the manifest does not list plans/x\.engine"):
        bundle.read("plans/x.engine")


def test_what_the_manifest_does_not_name_is_listed_and_nothing_else(copy: Path) -> None:
    assert open_bundle(copy).unnamed() == ()
    (copy / "notes.txt").touch()
    (copy / ".hidden").touch()
    (copy / "golden/more").mkdir()
    (copy / "golden/more/a.txt").touch()
    (copy / "plans").mkdir()
    (copy / "golden/link").symlink_to(copy.parent)
    (copy / os.fsdecode(b"\xff")).touch()
    found = (".hidden", "golden/link", "golden/more", "notes.txt", "plans", os.fsdecode(b"\xff"))
    assert open_bundle(copy).unnamed() == tuple(sorted(found))
    # It is never read, so predictions still work.
    open_engine(open_bundle(copy)).close()


def test_a_folder_in_a_file_s_place_and_a_link_in_a_folder_s_are_not_the_named_ones(copy: Path) -> None:
    (copy / "labels.txt").unlink()
    (copy / "labels.txt").mkdir()
    assert open_bundle(copy).unnamed() == ("labels.txt",)
    (copy / "golden").rename(copy.parent / "outside")
    (copy / "golden").symlink_to(copy.parent / "outside")
    assert open_bundle(copy).unnamed() == ("golden", "labels.txt")


def test_existing_place_is_refused(bundle: Bundle) -> None:
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(UsageError, match="already exists"), publishing(bundle.path):
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


def test_a_bundle_that_appeared_meanwhile_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "new.bundle"
    staged = publishing(out)
    stage = staged.__enter__()
    for name in bundle.manifest.files:
        stage.write(name, bundle.read(name))
    stage.seal(bundle.manifest)
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(
        BundleError, match=r"new\.bundle: was created by another process during this export; nothing was published"
    ):
        staged.__exit__(None, None, None)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "new.bundle",
        "new.bundle/precious",
    ]


def test_killed_process_leaves_what_was_there(bundle: Bundle, copy: Path) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from alexnet_deploy.core.bundle.store import publishing
        with publishing(Path({str(copy)!r}), force=True) as stage:
            stage.write("model.onnx", b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=HANGS_AFTER_S)
    assert done.returncode == -9
    open_bundle(copy).verify()
    visible = [path.name for path in copy.parent.iterdir() if not path.name.startswith(".")]
    assert visible == ["copy.bundle"]


def test_a_bundle_is_a_candidate_until_it_is_proved(bundle: Bundle, tmp_path: Path) -> None:
    """Nobody else can open it, even under another name, and it cannot be published as it is."""
    out, kept = tmp_path / "new.bundle", tmp_path / "kept.bundle"
    staged = publishing(out)
    stage = staged.__enter__()
    for name in bundle.manifest.files:
        stage.write(name, bundle.read(name))
    with open_engine(stage.candidate(bundle.manifest), "onnxruntime") as engine:
        assert engine.info.backend == "onnxruntime"
    shutil.copytree(stage.path, kept)
    refuses(stage.path, "this bundle is unfinished: its export is still running or was stopped; export again")
    with pytest.raises(
        BundleError, match="not published: the parity check of its engines failed or was interrupted; export again"
    ):
        staged.__exit__(None, None, None)
    assert not out.exists()
    refuses(kept, "not published: the parity check of its engines failed or was interrupted; export again")
    # Removing the mark from its manifest does not turn it into a published bundle.
    manifest = msgspec.json.decode((kept / "manifest.json").read_bytes())
    del manifest["is_candidate"]
    (kept / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    refuses(kept, "manifest.json has changed since it was published: the digest does not match")


def test_a_published_manifest_says_nothing_of_candidates(bundle: Bundle) -> None:
    assert b"is_candidate" not in (bundle.path / "manifest.json").read_bytes()


def test_a_golden_file_of_a_few_bytes_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    for name, tensor in (
        ("golden/images.u8", bundle.manifest.golden.images),
        ("golden/probabilities.f32", bundle.manifest.golden.probabilities),
    ):
        short = republished(bundle, tmp_path / f"{tensor.dtype}.bundle", {name: b"abc"})
        with pytest.raises(IntegrityError, match=r"3 bytes do not match shape \("):
            short.read_tensor(tensor)
    # The product of the dimensions overflows to 0 in 64 bits.
    empty = republished(bundle, tmp_path / "empty.bundle", {"golden/images.u8": b""})
    wrapping = msgspec.structs.replace(bundle.manifest.golden.images, shape=(2**32, 2**32))
    with pytest.raises(IntegrityError, match="0 bytes do not match shape"):
        empty.read_tensor(wrapping)


def test_sizes_are_bounded_before_they_are_read(copy: Path) -> None:
    os.truncate(copy / "manifest.json", 50 * 2**30)
    refuses(copy, r"manifest\.json: cannot be read: it has 53,687,091,200 bytes, the limit is 67,108,864")


def test_two_bundles_of_the_same_files_differ_in_nothing_but_their_place(bundle: Bundle, tmp_path: Path) -> None:
    again = republished(bundle, tmp_path / "again.bundle", {})
    assert again.sha256 == bundle.sha256


def test_whole_number_where_a_float_belongs_is_sealed_like_any_other(bundle: Bundle) -> None:
    row = msgspec.structs.replace(bundle.manifest.parity[0], latency_ms=100)
    manifest = msgspec.structs.replace(bundle.manifest, parity=(row,))
    assert decode_manifest(encode_manifest(manifest), "a bundle").parity[0].latency_ms == 100.0
