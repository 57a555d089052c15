import errno
import gzip
import io
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import image, tar_of

from alexnet_deploy.core.errors import ImageError, ImageErrorCode
from alexnet_deploy.core.fs import opening, patience
from alexnet_deploy.core.images.decode import DecodeLimits
from alexnet_deploy.core.inputs.lists import find_listed
from alexnet_deploy.core.inputs.paths import Input, find_files, find_inputs

LIMITS = DecodeLimits()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, *members: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(tar_of({member: member.encode() for member in members}))


def row(item: Input) -> str:
    return f"{item.name} {item.error[0]}" if item.error else item.name


def found(*names: str) -> list[str]:
    return [row(item) for item in find_inputs(names)]


def read(item: Input, limits: DecodeLimits = LIMITS) -> bytes:
    assert item.file is not None
    return item.file.read(limits)


def test_an_archive_expands_to_its_files_in_its_own_order() -> None:
    write("shards/b.tar", "2.jpg", "d/1.jpg", "0.jpg")
    names = ["shards/b.tar/2.jpg", "shards/b.tar/d/1.jpg", "shards/b.tar/0.jpg"]
    for sources in (["shards"], ["shards/b.tar"], ["shards/*.TAR"], [Path("shards/b.tar")]):
        items = list(find_inputs(sources))
        assert [item.name for item in items] == names
        assert [read(item) for item in items] == [b"2.jpg", b"d/1.jpg", b"0.jpg"]
    assert [item and item.name for item in find_listed(["-"], [b"shards/b.tar\n"])] == names


def test_an_archive_stands_where_its_name_sorts() -> None:
    write("d/b.TAR", "x.jpg")
    for name in ("d/a.jpg", "d/c.jpg"):
        Path(name).write_bytes(b"")
    assert found("d") == ["d/a.jpg", "d/b.TAR/x.jpg", "d/c.jpg"]
    # A folder of training or calibration images holds files, and an archive is one.
    assert [str(path) for path in find_files(Path("d"))] == ["d/a.jpg", "d/b.TAR", "d/c.jpg"]


def test_a_folder_called_like_an_archive_is_a_folder() -> None:
    Path("a.tar").mkdir()
    Path("a.tar/b.jpg").write_bytes(b"")
    assert found("a.tar") == ["a.tar/b.jpg"]


# WebDataset's form


@pytest.mark.parametrize(
    ("members", "inputs"),
    [
        (["0.cls", "0.jpg", "0.json", "1.JPEG", "1.txt"], ["0.jpg", "1.JPEG"]),
        (["0.input.png", "0.target.png", "0.cls"], ["0.input.png", "0.target.png"]),
        (["d/0.jpg", "e/0.cls", "d/0.cls"], ["d/0.jpg", "e/0.cls", "d/0.cls"]),
        (["README", "0.jpg"], ["README", "0.jpg"]),
        (["0.cls", "0.json", "1.cls", "1.jpg"], ["0.cls", "0.json", "1.jpg"]),
        (["./0.jpg", "./0.cls", "../1.jpg", "/2.jpg"], ["0.jpg", "../1.jpg", "/2.jpg"]),
        (["._0.jpg", "0.jpg", ".0.cls", "d/.thumbs/1.jpg", "2.jpg"], ["0.jpg", "2.jpg"]),
        ([], []),
    ],
)
def test_samples_have_a_row_for_each_image(members: list[str], inputs: list[str]) -> None:
    write("a.tar", *members)
    assert found("a.tar") == [f"a.tar/{name}" for name in inputs]


def test_a_sample_of_any_length_is_not_kept_in_memory() -> None:
    names = [f"0.{number}" for number in range(2500)]
    write("a.tar", *names)
    assert found("a.tar") == [f"a.tar/{name}" for name in names]
    # Fields beyond those that are kept have rows already when the image comes.
    write("a.tar", *names, "0.jpg", "0.cls")
    assert found("a.tar") == [f"a.tar/{name}" for name in (*names[:1500], "0.jpg")]


# Damage


def test_a_cut_archive_gives_the_rows_before_the_cut_and_one_for_itself() -> None:
    whole = tar_of({f"{number}.jpg": bytes(700) for number in range(3)})
    for cut in [1, 511, 512, 1000, *range(1024, 4609, 256)]:
        Path("a.tar").write_bytes(whole[:cut])
        *before, last = find_inputs(["a.tar", "after.jpg"])
        num_whole = max(0, (cut - 1212) // 1536 + 1)
        assert [row(item) for item in before] == [
            *(f"a.tar/{number}.jpg" for number in range(num_whole)),
            "a.tar truncated",
        ]
        assert last.name == "after.jpg"


def test_fields_before_the_damage_have_rows() -> None:
    data = tar_of({"0.cls": b"1", "0.json": b"{}", "0.jpg": b"x"})
    Path("a.tar").write_bytes(data[:2048])
    assert found("a.tar") == ["a.tar/0.cls", "a.tar/0.json", "a.tar truncated"]


def archive_of(kind: bytes) -> bytes:
    member = tarfile.TarInfo("0.jpg")
    member.type = kind
    member.linkname = "1.jpg"
    after = tarfile.TarInfo("1.jpg")
    return member.tobuf(tarfile.GNU_FORMAT) + after.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"", ["a.tar empty"]),
        (b"\xff\xd8\xff" + bytes(2000), ["a.tar not_an_image"]),
        (gzip.compress(tar_of({"0.jpg": b"x"})), ["a.tar unsupported_format"]),
        (archive_of(tarfile.SYMTYPE), ["a.tar/0.jpg unreadable", "a.tar/1.jpg"]),
        (archive_of(tarfile.LNKTYPE), ["a.tar/0.jpg unreadable", "a.tar/1.jpg"]),
        (archive_of(tarfile.FIFOTYPE), ["a.tar/0.jpg unreadable", "a.tar/1.jpg"]),
        (archive_of(tarfile.GNUTYPE_SPARSE), ["a.tar unsupported_format"]),
    ],
    # Not the bytes: gzip writes the time, and each process of pytest-xdist must find tests of the same names.
    ids=["empty", "not an archive", "gzip", "symbolic link", "hard link", "FIFO", "sparse"],
)
def test_what_cannot_be_read_has_one_row(content: bytes, rows: list[str]) -> None:
    Path("a.tar").write_bytes(content)
    assert found("a.tar") == rows


@pytest.mark.parametrize("ending", ["tar.gz", "tgz", "TAR.XZ", "tar.bz2", "tar.zst"])
def test_a_compressed_archive_says_what_to_do(ending: str) -> None:
    Path(f"a.{ending}").write_bytes(gzip.compress(tar_of({"0.jpg": b"x"})))
    (item,) = find_inputs([f"a.{ending}"])
    expected = (ImageErrorCode.UNSUPPORTED_FORMAT, "archive: is compressed with gzip; decompress it")
    assert item.error == expected


def test_an_archive_that_is_not_there_or_not_a_file_has_one_row() -> None:
    os.mkfifo("pipe.tar")
    assert found("no.tar", "*.tar.gz", "pipe.tar", "n\0.tar") == [
        "no.tar missing",
        "*.tar.gz missing",
        "pipe.tar unreadable",
        "n\0.tar unreadable",
    ]


def test_a_member_over_the_limit_or_cut_since_is_an_error() -> None:
    write("a.tar", "0.jpg")
    (item,) = find_inputs(["a.tar"])
    with pytest.raises(ImageError) as large:
        read(item, DecodeLimits(max_bytes=4))
    assert large.value.code == ImageErrorCode.TOO_LARGE
    Path("a.tar").write_bytes(b"")
    with pytest.raises(ImageError) as cut:
        read(item)
    assert cut.value.code == ImageErrorCode.TRUNCATED


@pytest.mark.parametrize(("times", "rows"), [(3, ["a.tar/0.jpg"]), (4, ["a.tar unreadable"])])
def test_an_archive_is_opened_patiently(times: int, rows: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.tar", "0.jpg")
    waits: list[float] = []
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(wait=waits.append))
    failures = [OSError(errno.ESTALE, os.strerror(errno.ESTALE))] * times
    opened: Callable[[str, int], int] = opening._open_plain

    def stale(name: str, flags: int) -> int:
        if failures:
            raise failures.pop()
        return opened(name, flags)

    monkeypatch.setattr(opening, "_open_plain", stale)
    assert found("a.tar") == rows
    assert waits == [0.1, 0.5, 2.0]


# Other programs' archives


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs a tar program")
@pytest.mark.parametrize("tar_format", ["ustar", "gnu", "posix"])
def test_archives_of_the_tar_program_are_read(tar_format: str) -> None:
    deep = f"d/{'x' * 60}/{'y' * 60}/photo.jpg"
    files = {deep: image((200, 40, 30), 1), "d/é.png": image((1, 2, 3), 2, "PNG"), "d/.hidden.jpg": b"x"}
    for name, data in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data)
    made = subprocess.run(
        ["tar", f"--format={tar_format}", "-cf", "a.tar", "d"], capture_output=True, check=False, text=True
    )
    if "unrecognized" in made.stderr or "nrecognized archive format" in made.stderr:
        pytest.skip(f"this tar does not write {tar_format}")
    assert made.returncode == 0, made.stderr
    items = {item.name: read(item) for item in find_inputs(["a.tar"])}
    assert items == {f"a.tar/{name}": data for name, data in files.items() if "hidden" not in name}


def test_a_growing_archive_is_read_to_the_size_it_had() -> None:
    write("a.tar", "0.jpg", "1.jpg")
    items = find_inputs(["a.tar"])
    first = next(items)
    with Path("a.tar").open("ab") as file:
        file.write(io.BytesIO(bytes(1 << 20)).getvalue())
    assert [first.name, *(row(item) for item in items)] == ["a.tar/0.jpg", "a.tar/1.jpg"]
