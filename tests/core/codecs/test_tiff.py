"""The directory of a TIFF, entry by entry: both byte orders, both sizes, and what lies outside the file."""

import struct

import pytest
from images import tiff

from alexnet_deploy.core.codecs.parts import MAX_PARTS
from alexnet_deploy.core.codecs.tiff import Directory, check_tiff, read_directory
from alexnet_deploy.core.errors import ImageError

FORMS = {1: "B", 2: "B", 3: "H", 4: "L", 7: "B", 13: "L", 16: "Q", 18: "Q"}
Entry = tuple[int, int, int, bytes]


def directory(*entries: Entry, order: str = "<", is_big: bool = False, rest: bytes = b"", count: int = -1) -> bytes:
    """A file whose directory begins at byte 16; what follows the directory is `rest`."""
    start = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}HHHQ", 43, 8, 0, 16) if is_big else struct.pack(f"{order}HL", 42, 16)
    form = f"{order}HHQ8s" if is_big else f"{order}HHL4s"
    number = struct.pack(f"{order}{'Q' if is_big else 'H'}", len(entries) if count < 0 else count)
    return (start + head).ljust(16, b"\0") + number + b"".join(struct.pack(form, *entry) for entry in entries) + rest


def entry(tag: int, kind: int, *values: int, order: str = "<", is_big: bool = False) -> Entry:
    """An entry whose values lie in it."""
    return tag, kind, len(values), struct.pack(f"{order}{len(values)}{FORMS[kind]}", *values)


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_entries_of_every_type_are_read(order: str, is_big: bool) -> None:
    options = {"order": order, "is_big": is_big}
    kinds = [1, 2, 3, 4, 7, 13, *([16, 18] if is_big else [])]
    entries = [entry(1000 + kind, kind, 77, **options) for kind in kinds]  # type: ignore[arg-type]
    entries.append(entry(2000, 3, 300, 400, **options))  # type: ignore[arg-type]
    expected: Directory = {1000 + kind: (77,) for kind in kinds} | {2000: (300, 400)}
    assert read_directory(directory(*entries, **options)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_values_that_do_not_fit_into_an_entry_lie_elsewhere(order: str, is_big: bool) -> None:
    kept = 8 if is_big else 4
    place = 100
    pointer = struct.pack(f"{order}{'Q' if is_big else 'L'}", place)
    many = tuple(range(1, kept // 2 + 2))
    made = directory((5, 3, len(many), pointer), order=order, is_big=is_big).ljust(place, b"\0")
    made += struct.pack(f"{order}{len(many)}H", *many)
    assert read_directory(made) == {5: many}
    # As many as fit stay in the entry.
    fitting = entry(5, 3, *many[:-1], order=order)
    assert read_directory(directory(fitting, order=order, is_big=is_big)) == {5: many[:-1]}
    # A value that is missing, or half there, is left out.
    assert read_directory(made[:-1]) == {}
    assert read_directory(made[:place]) == {}


def test_sixteen_values_of_an_entry_are_read() -> None:
    values = bytes(range(20))
    made = directory((5, 1, 20, struct.pack("<L", 60))).ljust(60, b"\0") + values
    assert read_directory(made) == {5: tuple(range(16))}
    assert read_directory(made[:76]) == {5: tuple(range(16))}
    assert read_directory(made[:75]) == {}


def test_a_directory_elsewhere_is_read() -> None:
    made = directory(entry(5, 3, 1)).ljust(64, b"\0") + struct.pack("<H", 1) + struct.pack("<HHL4s", *entry(6, 3, 2))
    assert read_directory(made) == {5: (1,)}
    assert read_directory(made, 64) == {6: (2,)}


def test_a_directory_that_the_file_cuts_off_is_read_to_its_end() -> None:
    made = directory(entry(5, 3, 1), entry(6, 3, 2), count=9)
    assert read_directory(made) == {5: (1,), 6: (2,)}
    assert read_directory(made[:-1]) == {5: (1,)}
    assert read_directory(directory(count=3)) == {}
    for offset in (len(made), len(made) + 1):
        with pytest.raises(struct.error, match="the directory lies outside the file"):
            read_directory(made, offset)
    with pytest.raises(struct.error):
        read_directory(made, len(made) - 1)


def test_values_are_limited_by_their_type_and_tag() -> None:
    def counted(tag: int, kind: int, number: int) -> bytes:
        return directory((tag, kind, number, struct.pack("<L", 0))).ljust(MAX_PARTS + 1, b"\0")

    # Numbers become objects; bytes stay bytes, except for the places of strips and tiles.
    for tag, kind in ((5, 3), (5, 4), (5, 5), (273, 1), (279, 2), (324, 7), (325, 1)):
        read_directory(counted(tag, kind, MAX_PARTS))
        with pytest.raises(ImageError, match=f"65,537 values of the TIFF's tag {tag}"):
            read_directory(counted(tag, kind, MAX_PARTS + 1))
    for kind in (1, 2, 7):
        read_directory(counted(5, kind, MAX_PARTS + 1))
        read_directory(counted(274, kind, MAX_PARTS + 1))


UNSUPPORTED = {
    22610: "JPEG XR",
    33003: "JPEG 2000",
    33004: "JPEG 2000",
    33005: "JPEG 2000",
    33007: "JPEG",
    34661: "JBIG",
    34712: "JPEG 2000",
    34715: "JBIG2",
    34887: "LERC",
    34892: "lossy DNG JPEG",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
RAW = {262: "Kodak", 32767: "Sony", 32769: "Nikon", 32770: "Samsung", 34713: "Nikon", 65000: "Kodak", 65535: "Pentax"}


def refusal_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        check_tiff(data)
    return str(caught.value)


@pytest.mark.parametrize("number", UNSUPPORTED)
def test_a_compression_that_pillow_does_not_know_is_named(number: int) -> None:
    words = f"TIFF: {UNSUPPORTED[number]} compression is not supported"
    assert refusal_of(tiff((8,), bytes(8), t259=number)) == words
    check_tiff(tiff((8,), bytes(8), t259=number + 10))
    check_tiff(tiff((8,), bytes(8), t259=number - 10))


@pytest.mark.parametrize("number", RAW)
def test_a_compression_of_cameras_is_named(number: int) -> None:
    words = f"{RAW[number]} raw is not supported; convert it to JPEG, PNG or plain TIFF"
    assert refusal_of(tiff((8,), bytes(8), t259=number)) == words


@pytest.mark.parametrize("number", [32803, 34892])
def test_pixels_of_a_sensor_are_named(number: int) -> None:
    data = tiff((8,), bytes(8), photometric=number)
    assert refusal_of(data) == "camera raw is not supported; convert it to JPEG, PNG or plain TIFF"
    made = directory(entry(262, 3, number), (271, 2, 4, b"Ab\0x"))
    assert refusal_of(made) == "Ab raw is not supported; convert it to JPEG, PNG or plain TIFF"
    check_tiff(tiff((8,), bytes(8), photometric=number + 1))


@pytest.mark.parametrize(
    ("tags", "is_reduced"),
    [
        ({"t254": 1}, True),
        ({"t254": 3}, True),
        ({"t254": 0}, False),
        ({"t254": 2}, False),
        ({"t255": 1}, False),
        ({"t255": 2}, True),
        ({"t255": 3}, False),
    ],
)
def test_a_reduced_image_is_named(tags: dict[str, int], is_reduced: bool) -> None:
    data = tiff((8,), bytes(8), **tags)
    if is_reduced:
        assert refusal_of(data).startswith("TIFF that starts with a reduced image is not supported")
    else:
        check_tiff(data)


@pytest.mark.parametrize("kind", range(1, 7))
def test_samples_without_black_and_white_are_named(kind: int) -> None:
    names = {2: "signed", 5: "complex", 6: "complex"}
    for kinds in ((kind,), (1, kind, 1), (1, 1, kind)):
        data = tiff((8,) * len(kinds), bytes(6), t339=kinds)
        if kind in names:
            assert refusal_of(data) == f"TIFF: {names[kind]} samples have no defined black and white"
        else:
            check_tiff(data)


def test_a_file_that_ends_before_its_directory_is_truncated() -> None:
    for data in (b"II*\0", b"II*\0\x10\0\0\0", b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10"):
        with pytest.raises(ImageError, match="TIFF: ends before its first directory does") as caught:
            check_tiff(data)
        assert caught.value.code == "truncated"
