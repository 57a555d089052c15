import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.core.tar_file import Member, TarError, UnsupportedError, members, reader_of

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def archive(names: dict[str, bytes], tar_format: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as tar:
        for name, content in names.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def found(data: bytes) -> list[Member]:
    return list(members(reader_of(io.BytesIO(data)), 0, len(data)))


def contents(data: bytes) -> dict[str, bytes]:
    return {one.name: data[one.offset : one.offset + one.num_bytes] for one in found(data)}


PARTS = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=150)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)


@given(st.dictionaries(NAMES, st.binary(max_size=1500), max_size=5), st.sampled_from(["gnu", "pax"]))
def test_members_are_those_that_tarfile_wrote(files: dict[str, bytes], tar_format: str) -> None:
    assert contents(archive(files, FORMATS[tar_format])) == files


@pytest.mark.parametrize("tar_format", FORMATS)
def test_names_over_a_hundred_characters_are_read(tar_format: str) -> None:
    files = {f"{'d' * 90}/{'é' * 40}.jpg": b"one", "b.jpg": b"two"}
    assert contents(archive(files, FORMATS[tar_format])) == files


def test_links_and_folders_are_what_they_are() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, kind in (("d", tarfile.DIRTYPE), ("d/s", tarfile.SYMTYPE), ("d/h", tarfile.LNKTYPE), ("p", b"6")):
            member = tarfile.TarInfo(name)
            member.type = kind
            member.linkname = "target" * 30
            # Folders and links may state a size, but have no content.
            member.size = 700
            tar.addfile(member)
        tar.addfile(tarfile.TarInfo("a"))
    assert [(one.name, one.num_bytes, one.is_file) for one in found(file.getvalue())] == [
        ("d/s", 0, False),
        ("d/h", 0, False),
        ("p", 0, False),
        ("a", 0, True),
    ]


@pytest.mark.parametrize("tar_format", FORMATS)
def test_an_archive_cut_anywhere_is_an_error_after_the_members_before_it(tar_format: str) -> None:
    files = {f"{'d' * 90}/{'x' * 40}{number}.jpg": bytes([number + 1]) * 700 for number in range(3)}
    data = archive(files, FORMATS[tar_format])
    whole = found(data)
    last = whole[-1]
    end = last.offset + 1024
    # Until the padding of the last member; what remains without it is two blocks of the end marker.
    for cut in [*range(0, end + 1, 256), end + 511]:
        walk = members(reader_of(io.BytesIO(data[:cut])), 0, cut)
        before = [one for one in whole if one.offset + one.num_bytes <= cut]
        assert [next(walk) for _ in before] == before
        with pytest.raises(TarError, match=r"^ends after "):
            next(walk)
    assert found(data[: end + 512]) == whole


@pytest.mark.parametrize("position", range(4))
def test_a_block_of_zeros_in_the_middle_is_not_the_end(position: int) -> None:
    data = bytearray(archive({f"{number}.jpg": b"x" * 600 for number in range(4)}, tarfile.USTAR_FORMAT))
    start = position * 1536
    data[start : start + 512] = bytes(512)
    with pytest.raises(TarError, match=rf"^has an end marker at byte {start:,}, but .* bytes follow; it is damaged"):
        found(bytes(data))


def test_more_zeros_than_padding_after_the_end_are_an_error() -> None:
    data = archive({"a.jpg": b"x"}, tarfile.USTAR_FORMAT)
    assert len(found(data + bytes(1 << 19))) == 1
    with pytest.raises(TarError, match="bytes follow"):
        found(data + bytes(1 << 20))


@given(st.data())
def test_a_damaged_archive_gives_members_or_a_tar_error(data: st.DataObject) -> None:
    whole = bytearray(
        archive({"d" * 120: b"x" * 600, "b": b"y"}, FORMATS[data.draw(st.sampled_from(sorted(FORMATS)[:2]))])
    )
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        for one in found(bytes(whole)):
            assert 0 <= one.num_bytes <= len(whole) - one.offset
    except TarError:
        pass


@pytest.mark.parametrize(
    ("begin", "program"),
    [(b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd")],
)
def test_a_compressed_archive_is_named(begin: bytes, program: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"^is compressed with {program}; decompress it$"):
        found(begin + bytes(1000))


@pytest.mark.parametrize("key", ["path", "size", "GNU.sparse.major"])
def test_a_header_for_all_members_that_names_one_is_refused(key: str) -> None:
    shared = tarfile.TarInfo.create_pax_global_header({key: "1", "comment": "x"})
    data = shared + archive({"a.jpg": b"x"}, tarfile.USTAR_FORMAT)
    with pytest.raises(UnsupportedError, match=r"not supported$"):
        found(data)
    assert contents(data.replace(key.encode(), b"x" * len(key))) == {"a.jpg": b"x"}


@pytest.mark.parametrize(
    "records", [b"9999 path=a\n", b"10 path=a\n\n\n", b"x path=a\n", b"5 a\n\n", b"-1 path=a\n", b"0 a=b\n"]
)
def test_a_damaged_pax_header_is_an_error(records: bytes) -> None:
    member = tarfile.TarInfo("pax")
    member.type, member.size = tarfile.XHDTYPE, len(records)
    data = member.tobuf(tarfile.USTAR_FORMAT) + records.ljust(512, b"\0") + archive({"a": b"x"}, tarfile.USTAR_FORMAT)
    with pytest.raises(TarError, match="has a damaged pax header"):
        found(data)
