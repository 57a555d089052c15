"""Archives, devkits and batches that try to hang a command or fill its memory are refused quickly."""

import bz2
import gzip
import lzma
import os
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import (
    TRUTH,
    WNIDS,
    cifar_batches,
    element,
    ilsvrc_images,
    matrix,
    meta_of,
    write_batches,
    write_devkit,
    write_ilsvrc,
)
from odd_files import Stand, bound_socket, directory, pipe

from alexnet_deploy.core.errors import DataError, ImageError
from alexnet_deploy.train.data.cifar10 import ARCHIVE, TRAIN
from alexnet_deploy.train.data.ilsvrc import DEVKIT, MAPPING, VALIDATION
from alexnet_deploy.train.data.ilsvrc_devkit import synsets
from alexnet_deploy.train.data.scan import find_images
from alexnet_deploy.train.data.tar import TarImage, unpack

MIB = 1 << 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ilsvrc(tmp_path_factory.mktemp("ilsvrc") / "whole", ilsvrc_images())


@pytest.fixture
def archives(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    (tmp_path / "archives").mkdir()
    for path in whole.iterdir():
        (tmp_path / "archives" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "archives"


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A tar header with its size in base 256, which can be negative."""
    member = tarfile.TarInfo(name)
    member.type = kind
    data = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    data[124:136] = (size % 2**96).to_bytes(12, "big") if size < 0 else (2**95 + size).to_bytes(12, "big")
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return bytes(data)


KINDS = {
    "a folder": (tarfile.DIRTYPE, "folder"),
    "a hidden file": (tarfile.REGTYPE, "._hidden"),
    "an image": (tarfile.REGTYPE, "ILSVRC2012_val_00000001.JPEG"),
    "a pax header": (tarfile.XHDTYPE, "pax"),
    "a pax header for all": (tarfile.XGLTYPE, "pax"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [-512, -1, -(2**70)])
def test_a_member_of_negative_size_is_refused_wherever_it_lies(archives: Path, kind: str, size: int) -> None:
    member, name = KINDS[kind]
    bad = header(name, size, member) + bytes(1024)
    (archives / VALIDATION).write_bytes(bad)
    with pytest.raises(DataError, match=rf"the header of {name} has a size of {size:,} bytes; it is damaged"):
        find_images(archives)
    (archives / VALIDATION).unlink()
    with gzip.open(archives / DEVKIT, "wb") as file:
        file.write(bad)
    with pytest.raises(DataError, match=rf"the header of {name} has a size of {size:,} bytes; it is damaged"):
        unpack(archives / DEVKIT, ("x",), MIB)


@pytest.mark.parametrize("size", [2**40, 2**87])
def test_a_member_larger_than_its_archive_is_refused(archives: Path, size: int) -> None:
    (archives / VALIDATION).write_bytes(header("ILSVRC2012_val_00000001.JPEG", size) + bytes(1024))
    with pytest.raises(DataError, match=r"in the middle of ILSVRC2012_val_00000001\.JPEG; download it again"):
        find_images(archives)


def pax(records: dict[str, str]) -> bytes:
    member = tarfile.TarInfo("ILSVRC2012_val_00000001.JPEG")
    member.pax_headers = records
    return member.tobuf(tarfile.PAX_FORMAT) + bytes(1024)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("ILSVRC2012_val_00000001.JPEG", 0, tarfile.GNUTYPE_SPARSE), "is a sparse file, which is not supported"),
        (
            pax({"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**40)}),
            "has sparse files, which are not",
        ),
        (pax({"size": "-512"}), "a pax header has a size of -512 bytes; it is damaged"),
        (pax({"size": str(2**62)}), r"in the middle of ILSVRC2012_val_00000001\.JPEG; download it again"),
        (header("pax", 2 * MIB, tarfile.XHDTYPE) + bytes(2 * MIB), "has a header of 2,097,152 bytes for one name"),
    ],
)
def test_sizes_that_stand_elsewhere_than_in_the_header_are_refused(
    archives: Path, content: bytes, message: str
) -> None:
    (archives / VALIDATION).write_bytes(content + bytes(1024))
    with pytest.raises(DataError, match=message):
        find_images(archives)


def peak_bytes(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("is_zipped", [False, True])
def test_what_is_unpacked_is_limited_before_it_is_read(tmp_path: Path, is_zipped: bool) -> None:
    archive = tmp_path / "a.tar.gz"

    def write(size: int) -> None:
        data = header("d/wanted", size) + bytes(-(-size // 512) * 512) + bytes(1024)
        archive.write_bytes(gzip.compress(data, 1) if is_zipped else data)

    write(3 * MIB)
    room = 3 * MIB + 1024
    assert unpack(archive, ("wanted",), room) == {"wanted": bytes(3 * MIB)}
    with pytest.raises(DataError, match=rf"unpacks to more than {room - 1:,} bytes, more than the published file"):
        unpack(archive, ("wanted",), room - 1)
    # A false size is not trusted: no memory is allocated for it.
    write(0)
    archive.write_bytes(header("d/wanted", 2**60) + bytes(1024))

    def refuse() -> None:
        with pytest.raises(DataError, match="unpacks to more than 1,048,576 bytes"):
            unpack(archive, ("wanted",), MIB)

    assert peak_bytes(refuse) < 4 * MIB


def test_many_members_that_nobody_wants_count_too(tmp_path: Path) -> None:
    one = header("d/other", MIB) + bytes(MIB)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(one * 20 + bytes(1024), 1))
    with pytest.raises(DataError, match="unpacks to more than 10,485,760 bytes"):
        unpack(tmp_path / "a.tar.gz", ("wanted",), 10 * MIB)
    assert unpack(tmp_path / "a.tar.gz", ("wanted",), 30 * MIB) == {}


@pytest.mark.parametrize(
    ("compress", "program"), [(bz2.compress, "bzip2"), (lzma.compress, "xz"), (gzip.compress, "gzip")]
)
def test_an_archive_that_is_compressed_otherwise_is_refused_by_name(
    compress: Callable[[bytes], bytes], program: str, archives: Path, tmp_path: Path
) -> None:
    plain = (archives / VALIDATION).read_bytes()
    (archives / VALIDATION).write_bytes(compress(plain))
    sentence = f"{VALIDATION}: is compressed with {program}; decompress it$"
    with pytest.raises(DataError, match=sentence):
        find_images(archives)
    (tmp_path / "a.tar.gz").write_bytes(compress(plain))
    if program == "gzip":
        assert unpack(tmp_path / "a.tar.gz", ("nothing",), len(plain)) == {}
    else:
        with pytest.raises(DataError, match=rf"a\.tar\.gz: is compressed with {program}, "):
            unpack(tmp_path / "a.tar.gz", ("wanted",), MIB)


HEAD = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"


def test_a_compressed_element_unpacks_to_so_many_bytes_at_most() -> None:
    packer = zlib.compressobj(9)
    bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(200)) + packer.flush()
    assert len(bomb) < MIB

    def refuse() -> None:
        with pytest.raises(ValueError, match="it unpacks to more than 33,554,432 bytes"):
            synsets(HEAD + element(15, bomb))

    assert peak_bytes(refuse) < 100 * MIB
    # The limit covers all elements together.
    half = element(15, zlib.compress(element(14, bytes(20 * MIB)), 9))
    with pytest.raises(ValueError, match="it unpacks to more than 33,554,432 bytes"):
        synsets(HEAD + half + half)


@pytest.mark.parametrize("width", [0, -1, 1])
def test_a_record_of_absurdly_many_fields_is_refused(width: int) -> None:
    names = element(1, bytes(5000))
    record = matrix(2, (1, 1), element(5, struct.pack("<i", width)), names)
    with pytest.raises(ValueError, match=rf"field names of {width} bytes do not fit 5,000 bytes"):
        synsets(HEAD + record)


def test_numbers_of_a_devkit_are_bounded(archives: Path) -> None:
    write_devkit(archives, "1" * 5000 + "\n", meta_of(WNIDS))
    with pytest.raises(DataError, match=r"line 1 of .* is b'1{20}', which is not a class number"):
        find_images(archives)
    infinite = meta_of(WNIDS, is_compressed=False).replace(
        matrix(6, (1, 1), element(2, b"\2")), matrix(6, (1, 1), element(9, struct.pack("<d", float("inf")))), 1
    )
    write_devkit(archives, "".join(f"{number}\n" for number in TRUTH), infinite)
    with pytest.raises(DataError, match=r"meta\.mat cannot be read \("):
        find_images(archives)


# Entries that are not regular files

ODD_INPUTS = pytest.mark.parametrize(
    ("stand", "kind"), [(pipe, "a pipe"), (bound_socket, "a socket"), (directory, "a directory")]
)


@ODD_INPUTS
@pytest.mark.parametrize("name", [MAPPING, DEVKIT])
def test_what_says_the_classes_is_a_plain_file(archives: Path, stand: Stand, kind: str, name: str) -> None:
    (archives / name).unlink(missing_ok=True)
    stand(archives / name, archives)
    with pytest.raises(DataError, match=rf"{name}: cannot be read: it is {kind}, not a regular file"):
        find_images(archives)


@ODD_INPUTS
def test_batches_and_their_archive_are_plain_files(tmp_path: Path, stand: Stand, kind: str) -> None:
    batches = write_batches(tmp_path / "batches", cifar_batches())
    (batches / TRAIN[2]).unlink()
    stand(batches / TRAIN[2], batches)
    stand(tmp_path / ARCHIVE, batches)
    for place, root in ((batches / TRAIN[2], batches), (tmp_path / ARCHIVE, tmp_path)):
        with pytest.raises(DataError, match=rf"{place}: cannot be read: it is {kind}, not a regular file"):
            find_images(root)


@ODD_INPUTS
def test_an_archive_that_became_something_else_gives_coded_errors(tmp_path: Path, stand: Stand, kind: str) -> None:
    stand(tmp_path / "a.tar", tmp_path)
    example = TarImage(archive=tmp_path / "a.tar", name="x", label=0, offset=0, num_bytes=1)
    with pytest.raises(ImageError, match=f"it is {kind}, not a regular file") as caught:
        example.read()
    assert caught.value.code == "unreadable"


def test_a_batch_of_any_size_is_not_read_beyond_its_limit(tmp_path: Path) -> None:
    batches = write_batches(tmp_path, cifar_batches())
    os.truncate(batches / TRAIN[0], 2**33)
    with pytest.raises(DataError, match="it has 8,589,934,592 bytes, the limit is 268,435,456"):
        find_images(batches)
