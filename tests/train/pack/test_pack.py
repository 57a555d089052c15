import fcntl
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from archives import cifar_batches, ilsvrc_images, write_cifar, write_folder, write_ilsvrc
from commands import HANGS_AFTER_S
from commands import Run as Command
from training import BLUE, RED, are_equal, paint, trained

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.images.drawing import draw_folder
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION, SHORTER_SIDE, WARP, ImagePolicy
from alexnet_deploy.train.data.scan import DecodedImages, find_images, survey
from alexnet_deploy.train.pack.format import (
    HEADER,
    IMAGE_BYTES,
    IMAGES,
    LABELS,
    SOURCES,
    Pack,
    class_counts,
    encode_header,
    open_pack,
    packed_from,
    verify,
)
from alexnet_deploy.train.pack.writer import pack
from alexnet_deploy.train.run import look_over

CHUNK = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen images and three files that are not images, in three classes."""
    root = write_folder(tmp_path_factory.mktemp("folder") / "images", ilsvrc_images())
    (root / "train/n01440764/notes.txt").write_bytes(b"not an image")
    (root / "val/n02119789" / os.fsdecode(b"caf\xe9.JPEG")).write_bytes(b"")
    return root


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its pack, made without interruption."""
    return packed(folder, tmp_path_factory.mktemp("plain") / "one.pack").path


def packed(
    folder: Path, out: Path, policy: ImagePolicy = SHORTER_SIDE, *, threads: int | None = None, **notes: list[str]
) -> Pack:
    say = notes.get("said", []).append
    return pack(find_images(folder), out, policy, chunk_images=CHUNK, threads=threads, say=say)


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_pack_holds_what_the_survey_and_the_decoder_give(folder: Path, plain: Path) -> None:
    wanted = survey(find_images(folder), SHORTER_SIDE)
    found = open_pack(plain)
    header = found.header
    assert header.labels == wanted.folder.class_names
    assert (header.num_train, header.num_validation) == (8, 6)
    assert header.source_sha256 == wanted.sha256
    assert header.excluded == wanted.excluded
    assert header.excluded == {
        "train/n01440764/notes.txt": "not_an_image",
        "train/n02119789/n02119789_10.JPEG": "truncated",
        r"val/n02119789/caf\xe9.JPEG": "empty",
    }
    np.testing.assert_array_equal(header.mean, wanted.mean)
    np.testing.assert_array_equal(header.covariance, wanted.covariance)
    assert header.source == str(folder)
    assert sorted(files_of(plain)) == sorted([HEADER, IMAGES, LABELS, SOURCES])
    examples = (*wanted.folder.train, *wanted.folder.validation)
    pixels = np.stack([example.decode(example.read(), SHORTER_SIDE) for example in examples])
    np.testing.assert_array_equal(np.fromfile(plain / IMAGES, np.uint8).reshape(14, 256, 256, 3), pixels)
    assert np.fromfile(plain / LABELS, "<i4").tolist() == [example.label for example in examples]
    assert list(verify(found)) == [4, 8, 12, 14]


def test_a_pack_is_surveyed_like_what_was_packed(folder: Path, plain: Path) -> None:
    wanted, found = look_over(folder, SHORTER_SIDE), look_over(plain, SHORTER_SIDE)
    assert found.folder.root == plain
    for side, other in ((found.folder.train, wanted.folder.train), (found.folder.validation, wanted.folder.validation)):
        assert [(example.name, example.label) for example in side] == [(one.name, one.label) for one in other]
        for index in range(len(other)):
            image, label = DecodedImages(side, SHORTER_SIDE)[index]
            expected, expected_label = DecodedImages(other, SHORTER_SIDE)[index]
            assert label == expected_label
            np.testing.assert_array_equal(image, expected)
        assert [example.label for example in side[1:3]] == [example.label for example in other[1:3]]


def test_a_pack_knows_its_duplicates_and_its_classes(tmp_path: Path) -> None:
    draw_folder(tmp_path / "drawn", num_train=3, num_validation=2)
    first, second, *_ = sorted(path.name for path in (tmp_path / "drawn/train").iterdir())
    for source, target in ((f"train/{first}", f"val/{second}"), (f"train/{second}", f"train/{second}")):
        image = min((tmp_path / "drawn" / source).iterdir())
        shutil.copy(image, tmp_path / "drawn" / target / f"copy of {image.name}")
    found = [
        look_over(path, SHORTER_SIDE) for path in (tmp_path / "drawn", packed(tmp_path / "drawn", tmp_path / "p").path)
    ]
    assert found[0].duplicates == found[1].duplicates
    ((one, other),) = found[0].duplicates
    assert Path(one).parent == Path("train", first)
    assert other == f"val/{second}/copy of {Path(one).name}"
    assert [class_counts(each.folder) for each in found] == [(3, 4, 3, 3)] * 2


def test_a_seed_gives_the_same_weights_from_a_folder_and_from_its_pack(tmp_path: Path) -> None:
    root = paint(tmp_path / "data", {"blue": (BLUE,), "red": (RED,)})
    (root / "train/blue/0.txt").write_bytes(b"x")
    packed(root, tmp_path / "data.pack")
    from_folder, from_pack = (
        trained(look_over(data, SHORTER_SIDE), tmp_path / f"run {data.name}") for data in (root, tmp_path / "data.pack")
    )
    assert are_equal(from_folder.last, from_pack.last)
    assert from_folder.best.preprocessing == from_pack.best.preprocessing
    records = [run.best.training for run in (from_folder, from_pack)]
    assert records[0] is not None
    assert records[1] is not None
    assert records[1].data == str(tmp_path / "data.pack")
    assert records[0].data_sha256 == records[1].data_sha256
    assert records[0].excluded == records[1].excluded == {"train/blue/0.txt": "not_an_image"}
    for one, other in zip(from_folder.epochs, from_pack.epochs, strict=True):
        assert one == msgspec.structs.replace(other, images_per_second=one.images_per_second)


def test_the_archives_and_the_folder_made_of_them_give_the_same_images(tmp_path: Path) -> None:
    archives = packed(write_ilsvrc(tmp_path / "archives", ilsvrc_images()), tmp_path / "archives.pack")
    folder = packed(write_folder(tmp_path / "folder", ilsvrc_images()), tmp_path / "folder.pack")
    for name in (IMAGES, LABELS, SOURCES):
        assert files_of(archives.path)[name] == files_of(folder.path)[name]
    assert archives.header.source_sha256 == folder.header.source_sha256


def test_cifar_is_packed_resized(tmp_path: Path) -> None:
    source = find_images(write_cifar(tmp_path, cifar_batches()))
    found = pack(source, tmp_path / "cifar.pack", WARP)
    assert (found.header.num_train, found.header.num_validation) == (50, 10)
    np.testing.assert_array_equal(found.images[57], source.validation[7].decode(source.validation[7].read(), WARP))


# Bit-identical packs


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_changes_no_byte(folder: Path, plain: Path, tmp_path: Path, threads: int) -> None:
    assert files_of(packed(folder, tmp_path / "one.pack", threads=threads).path) == files_of(plain)


def interrupted_after(num_images: int) -> Callable[[int, int], None]:
    def stop(num_seen: int, num_examples: int) -> None:
        assert num_examples == 17
        if num_seen == num_images:
            raise KeyboardInterrupt

    return stop


@pytest.mark.parametrize("moments", [[1], [4], [5], [16], [17], [3, 6, 9, 12]])
def test_an_interrupted_pack_goes_on_and_changes_no_byte(
    folder: Path, plain: Path, tmp_path: Path, moments: list[int]
) -> None:
    source, out = find_images(folder), tmp_path / "one.pack"
    for moment in moments:
        with pytest.raises(KeyboardInterrupt):
            pack(source, out, SHORTER_SIDE, chunk_images=CHUNK, on_progress=interrupted_after(moment))
        assert not out.exists()
    said: list[str] = []
    seen: list[int] = []
    pack(
        source,
        out,
        SHORTER_SIDE,
        chunk_images=CHUNK,
        say=said.append,
        on_progress=lambda num_seen, num_examples: seen.append(num_seen),
    )
    assert files_of(out) == files_of(plain)
    assert list(tmp_path.iterdir()) == [out]
    assert bool(said) == (seen[0] > 0) == (moments[-1] > 5)
    if said:
        assert said == [f"resuming after {seen[0]} of 17 images; their digests match"]


def killed(work: Callable[[], object]) -> bool:
    """Pack in a separate process; return whether it was killed before its end."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_pack_that_is_killed_again_and_again_changes_no_byte(folder: Path, plain: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.pack"
    source = find_images(folder)

    def pack_until(last: int) -> None:
        calls = itertools.count(1)

        def count(event: str, _: object) -> None:
            # In any thread: decoders open images, and the other files are the pack's.
            if event.startswith(("open", "os.", "fcntl.", "shutil.")) and next(calls) == last:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        pack(source, out, SHORTER_SIDE, chunk_images=CHUNK, threads=2)

    num_killed = 0
    # The last kill may come after the rename.
    while not out.exists():
        num_killed += killed(partial(pack_until, 3 * num_killed + 1))
    assert num_killed >= 5
    assert files_of(out) == files_of(plain)
    assert list(verify(open_pack(out)))


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_pack_that_is_killed_whenever_something_reaches_the_disk_changes_no_byte(
    folder: Path, plain: Path, tmp_path: Path
) -> None:
    source, fsync = find_images(folder), os.fsync

    def pack_until(out: Path, last: int) -> None:
        calls: list[int] = []

        def count(descriptor: int) -> None:
            calls.append(descriptor)
            if len(calls) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(descriptor)

        os.fsync = count  # type: ignore[assignment]
        pack(source, out, SHORTER_SIDE, chunk_images=CHUNK, threads=1)

    num_kills = 0
    for number in range(1, 100):
        out = tmp_path / f"{number}.pack"
        if not killed(lambda out=out, number=number: pack_until(out, number)):  # type: ignore[misc]
            break
        num_kills += 1
        # The last kill is after the rename.
        if not out.exists():
            packed(folder, out)
        assert files_of(out) == files_of(plain), number
    assert num_kills >= 15


def partial_of(folder: Path, out: Path) -> Path:
    """An interrupted pack of two and a half chunks."""
    with pytest.raises(KeyboardInterrupt):
        pack(find_images(folder), out, SHORTER_SIDE, chunk_images=CHUNK, on_progress=interrupted_after(13))
    return out.with_name(f".{out.name}.partial")


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "goes_on_after"),
    [
        (lambda partial: None, 10),
        (lambda partial: flip(partial / "pack" / IMAGES, 3), None),
        (lambda partial: flip(partial / "pack" / IMAGES, 5 * IMAGE_BYTES), 5),
        (lambda partial: flip(partial / "pack" / IMAGES, 9 * IMAGE_BYTES), 10),
        (lambda partial: os.truncate(partial / "pack" / IMAGES, 8 * IMAGE_BYTES - 1), 5),
        (lambda partial: (partial / "pack" / IMAGES).unlink(), None),
        (lambda partial: flip(partial / "pack" / SOURCES, 10), None),
        (lambda partial: (partial / "pack" / SOURCES).unlink(), None),
        (lambda partial: os.truncate(partial / "journal.jsonl", (partial / "journal.jsonl").stat().st_size - 1), 5),
        (lambda partial: (partial / "journal.jsonl").unlink(), None),
    ],
)
def test_what_is_damaged_while_a_pack_rests_is_made_again(
    folder: Path, plain: Path, tmp_path: Path, damage: Callable[[Path], None], goes_on_after: int | None
) -> None:
    out = tmp_path / "one.pack"
    partial = partial_of(folder, out)
    # Written but not in the journal: cut off.
    with (partial / "pack" / IMAGES).open("ab") as file:
        file.write(bytes(1000))
    damage(partial)
    said: list[str] = []
    packed(folder, out, said=said)
    assert files_of(out) == files_of(plain)
    found = [int(line.split()[2]) for line in said if line.startswith("resuming after ")]
    assert found == ([] if goes_on_after is None else [goes_on_after])


def test_other_images_or_options_do_not_go_on_with_a_partial_pack(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.pack"
    partial = partial_of(folder, out)
    before = files_of(partial / "pack")
    for change in ("resize", "images"):
        other = Path(shutil.copytree(folder, tmp_path / change))
        (other / "train/n01440764/new.JPEG").write_bytes(b"")
        with pytest.raises(DataError, match=f"^{partial}: was started with different images, options, tool versions "):
            packed(folder if change == "resize" else other, out, WARP if change == "resize" else SHORTER_SIDE)
    assert files_of(partial / "pack") == before


def test_two_processes_do_not_pack_into_the_same_place(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "one.pack"
    partial = partial_of(folder, out)
    with (partial / "journal.jsonl").open("rb") as journal:
        fcntl.flock(journal, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"another process is packing into it; wait for it to finish$"):
            packed(folder, out)
    packed(folder, out)


# Write errors


def test_a_place_that_is_taken_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match=r"taken: already exists; choose another directory for the packed set$"):
        packed(folder, tmp_path / "taken")
    with pytest.raises(DataError, match=r"could not be written: Not a directory"):
        packed(folder, Path("/dev/null/one.pack"))


def test_a_disk_without_the_room_is_refused_before_anything_is_decoded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=17 * IMAGE_BYTES - 1))
    with pytest.raises(
        DataError, match=r"one\.pack: needs 3\.3 MB of disk space, but only 3\.3 MB is free; free some space"
    ):
        packed(folder, tmp_path / "one.pack")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=17 * IMAGE_BYTES))
    packed(folder, tmp_path / "one.pack")


FILLED = """
import resource, sys
from pathlib import Path
from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.train.data.scan import find_images
from alexnet_deploy.train.pack.writer import pack
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), -1))
try:
    pack(find_images(Path(sys.argv[1])), Path(sys.argv[2]), SHORTER_SIDE, chunk_images=4)
except DataError as error:
    print(error)
"""


def test_a_file_that_cannot_grow_is_told_in_a_sentence_and_the_pack_goes_on_later(
    folder: Path, plain: Path, tmp_path: Path
) -> None:
    # As on a full disk, the write stops in the middle of the tenth image.
    out = tmp_path / "one.pack"
    done = subprocess.run(
        [sys.executable, "-c", FILLED, folder, out, str(9 * IMAGE_BYTES + 5000)],
        capture_output=True,
        text=True,
        check=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.stdout == (
        f"{tmp_path}/.one.pack.partial: could not be written: File too large; the images packed so far are kept: run "
        "the same command again to resume\n"
    )
    said: list[str] = []
    packed(folder, out, said=said)
    assert said == ["resuming after 10 of 17 images; their digests match"]
    assert files_of(out) == files_of(plain)


def test_a_class_whose_images_are_all_unreadable_is_refused(folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    for path in (other / "val/n01440764").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="the class 'n01440764' has no readable validation image"):
        packed(other, tmp_path / "one.pack")
    assert not (tmp_path / "one.pack").exists()


# Opening


def resealed(path: Path, **changes: object) -> None:
    header = json.loads((path / HEADER).read_bytes())
    (path / HEADER).write_text(json.dumps({**header, **changes}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / IMAGES).unlink(), r"pictures\.u8: cannot be read: No such file or directory$"),
        (
            lambda path: os.truncate(path / IMAGES, 14 * IMAGE_BYTES - 1),
            r"pictures\.u8: has 2,752,511 bytes, but 2,752,512 were packed",
        ),
        (
            lambda path: os.truncate(path / IMAGES, 14 * IMAGE_BYTES + 1),
            r"pictures\.u8: has 2,752,513 bytes, but 2,752,512 were packed",
        ),
        (lambda path: flip(path / LABELS, 4), r"labels\.i32: was changed after packing"),
        (lambda path: (path / LABELS).unlink(), r"labels\.i32: cannot be read"),
        (lambda path: resealed(path, mean=[1.0, 2.0, 3.0]), r"pack\.json: was changed after packing"),
        (lambda path: resealed(path, num_train="8"), r"pack\.json: is damaged: Expected `int`, got `str`"),
        (
            lambda path: resealed(path, format_version=2),
            "packed set version 2 is newer than supported; this program reads packed set version 1;",
        ),
        (lambda path: (path / HEADER).write_bytes(b"\xff"), r"pack\.json: is damaged"),
        (lambda path: (path / HEADER).unlink(), r"pack\.json: cannot be read"),
    ],
)
def test_a_pack_that_is_not_whole_is_refused_when_it_is_opened(
    plain: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    path = Path(shutil.copytree(plain, tmp_path / "one.pack"))
    open_pack(path)
    damage(path)
    with pytest.raises(DataError, match=message):
        open_pack(path)


@pytest.mark.parametrize("number", [0, 7, 13])
def test_verifying_finds_a_flipped_bit_in_any_image_and_in_the_names(plain: Path, tmp_path: Path, number: int) -> None:
    path = Path(shutil.copytree(plain, tmp_path / "one.pack"))
    flip(path / IMAGES, number * IMAGE_BYTES + 77)
    first = number // CHUNK * CHUNK
    with pytest.raises(DataError, match=rf"images {first} to {min(first + 3, 13)} were changed after packing; pack"):
        list(verify(open_pack(path)))
    flip(path / IMAGES, number * IMAGE_BYTES + 77)
    list(verify(open_pack(path)))
    flip(path / SOURCES, 5)
    with pytest.raises(DataError, match=r"sources\.txt: was changed after packing"):
        list(verify(open_pack(path)))


def test_a_pack_resized_otherwise_than_the_network_is_fed_is_refused(plain: Path) -> None:
    with pytest.raises(DataError, match="was packed with --resize shorter-side, but this network needs --resize warp"):
        look_over(plain, WARP)


def test_a_pack_of_another_decoding_policy_is_refused_and_says_what_it_was_made_of(
    plain: Path, folder: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(plain, tmp_path / "one.pack"))
    header = open_pack(path).header
    for decoding, named in ((msgspec.UNSET, 1), (DECODING_VERSION + 1, DECODING_VERSION + 1)):
        (path / HEADER).write_bytes(encode_header(msgspec.structs.replace(header, decoding=decoding)))
        assert (b'"decoding"' in (path / HEADER).read_bytes()) == (named != 1)
        with pytest.raises(
            DataError, match=f"by policy {named}, but this program decodes by policy {DECODING_VERSION}"
        ):
            open_pack(path)
        # Only the paths of its files are used, not its pixels.
        assert packed_from(path) == folder


def test_a_partial_pack_of_another_decoding_policy_is_not_gone_on_with(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = partial_of(folder, tmp_path / "one.pack")
    monkeypatch.setattr("alexnet_deploy.train.pack.writer.DECODING_VERSION", DECODING_VERSION + 1)
    with pytest.raises(DataError, match="tool versions or decoding policy; remove it"):
        packed(folder, tmp_path / "one.pack")
    assert partial.exists()


def test_a_mapped_image_cannot_be_written_to(plain: Path) -> None:
    found = open_pack(plain)
    with pytest.raises(ValueError, match="read-only"):
        found.images[0] = 0
    image, _ = DecodedImages(look_over(plain, SHORTER_SIDE).folder.train, SHORTER_SIDE)[0]
    image[:] = 0
    assert not image.any()
    assert found.images[0].any()


# Packs from an untrusted source


def with_seal(plain: Path, out: Path, **changes: object) -> Path:
    """A copy of a pack with a changed header and valid digests."""
    shutil.copytree(plain, out)
    header = {**json.loads((out / HEADER).read_bytes()), **changes, "sha256": ""}
    header["sha256"] = sha256(msgspec.json.encode(header))
    (out / HEADER).write_bytes(msgspec.json.encode(header))
    return out


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1, -(2**31)])
def test_a_label_without_a_class_is_refused(plain: Path, tmp_path: Path, run: Command, label: int) -> None:
    labels = np.fromfile(plain / LABELS, "<i4")
    labels[5] = label
    out = with_seal(plain, tmp_path / "bad.pack", labels_sha256=sha256(labels.tobytes()))
    (out / LABELS).write_bytes(labels.tobytes())
    for arguments in (("inspect", out), ("pack", "--verify", out), ("train", out)):
        assert f"labels.i32: has class {label}, but classes are 0 to 2" in run(*arguments).refused(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train": -8, "num_validation": 22}, "num_train -8, num_validation 22 and chunk_pictures 4 must each be"),
        ({"num_train": 14, "num_validation": 0}, "num_train 14, num_validation 0 and chunk_pictures 4 must each be 1"),
        ({"chunk_pictures": 0}, "chunk_pictures 0 must each be 1 or more"),
        ({"chunk_pictures": 5}, "4 digests do not match 14 images"),
        ({"labels": ("a", "b", "a")}, "duplicate label 'a'"),
        ({"labels": ("a", "b", "c\nd")}, r"the label 'c\\nd' is not one line of text"),
    ],
)
def test_a_header_that_no_pack_has_is_refused(
    plain: Path, tmp_path: Path, run: Command, changes: dict[str, object], message: str
) -> None:
    out = with_seal(plain, tmp_path / "bad.pack", **changes)
    for arguments in (("inspect", out), ("pack", "--verify", out), ("train", out)):
        assert re.search(message, run(*arguments).refused(3))


def test_sources_are_held_against_their_digest_when_a_pack_is_opened(plain: Path, tmp_path: Path) -> None:
    shutil.copytree(plain, tmp_path / "one.pack")
    found = open_pack(tmp_path / "one.pack")
    data = (plain / SOURCES).read_bytes()
    (tmp_path / "one.pack" / SOURCES).write_bytes(data.replace(b"train/n0", b"train/n1", 1))
    with pytest.raises(DataError, match=r"sources\.txt: was changed after packing"):
        open_pack(tmp_path / "one.pack")
    with pytest.raises(DataError, match=r"sources\.txt: was changed after packing"):
        found.name_of(0)
    (tmp_path / "one.pack" / SOURCES).unlink()
    with pytest.raises(DataError, match=r"sources\.txt: cannot be read: No such file"):
        open_pack(tmp_path / "one.pack")


@pytest.mark.parametrize("line", [b"b'a'", b"__import__('os') " + b"0" * 64, b"(" * 9999 + b" " + b"0" * 64, b"\xff"])
def test_a_line_of_sources_that_is_none_is_refused(plain: Path, tmp_path: Path, line: bytes) -> None:
    _, *others = (plain / SOURCES).read_bytes().splitlines(keepends=True)
    data = line + b"\n" + b"".join(others)
    out = with_seal(plain, tmp_path / "bad.pack", source_sha256=sha256(data))
    (out / SOURCES).write_bytes(data)
    found = open_pack(out)
    with pytest.raises(DataError, match=r"sources\.txt: a line is not a name and a digest"):
        found.name_of(0)
    if b" 0" not in line:
        with pytest.raises(DataError, match=r"sources\.txt: has a line without a digest"):
            found.duplicates()


@pytest.mark.parametrize("name", [HEADER, IMAGES, LABELS, SOURCES])
def test_a_packs_files_are_plain_files(plain: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(plain, tmp_path / "one.pack")
    (tmp_path / "one.pack" / name).unlink()
    os.mkfifo(tmp_path / "one.pack" / name)
    with pytest.raises(DataError, match=f"{name}: cannot be read: it is a pipe, not a regular file"):
        open_pack(tmp_path / "one.pack")
