"""Check the first directory of a TIFF, read from its bytes before Pillow or libtiff open the file.

Camera raws are TIFFs whose first image is a preview, not the photograph: they are refused by name.
"""

import struct
from collections.abc import Iterator

from alexnet_deploy.core.codecs.parts import MAX_PARTS, check_count
from alexnet_deploy.core.errors import ImageError, ImageErrorCode

NEW_SUBFILE_TYPE, SUBFILE_TYPE, IMAGE_WIDTH, COMPRESSION, PHOTOMETRIC, MAKE = 254, 255, 256, 259, 262, 271
MAX_SAMPLE_VALUE, SUB_DIRECTORIES, SAMPLE_FORMAT, DNG_VERSION = 281, 330, 339, 50706

# struct formats by type number: byte, short, long, directory, and the two 64-bit types of BigTIFF.
_NUMBERS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}

# Types that Pillow keeps as bytes; for all others it creates an object for each value.
_BYTES = (1, 2, 7)

# Offsets and lengths of strips and tiles: Pillow makes a list of them for any type.
_PLACES = (273, 279, 324, 325)

# Values read per entry: enough for every check here.
_MAX_VALUES = 16

_COLOUR_FILTER_ARRAY, _LINEAR_RAW = 32803, 34892

# Compression schemes of libtiff that Pillow does not know, or that its libtiff is built without.
_UNREAD_COMPRESSIONS = {
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

_RAW_COMPRESSIONS = {262: "Kodak", 32767: "Sony", 32769: "Nikon", 32770: "Samsung", 34713: "Nikon", 65000: "Kodak"}
_RAW_COMPRESSIONS[65535] = "Pentax"

Directory = dict[int, tuple[int, ...]]


def read_directory(data: bytes, offset: int | None = None) -> Directory:
    """Return the integer values of the directory at `offset`, by tag; `offset` defaults to the first directory.

    Values outside the file are skipped. Raises struct.error if the directory itself is outside the file, and ImageError
    (too_large) if it has too many entries, or an entry too many values.
    """
    order, is_big = ("<" if data[:2] == b"II" else ">"), data[2:4] in (b"+\0", b"\0+")
    number, entry, kept = ("Q", "HHQ8s", 8) if is_big else ("H", "HHL4s", 4)
    if offset is None:
        (offset,) = struct.unpack_from(f"{order}Q" if is_big else f"{order}L", data, 8 if is_big else 4)
    if offset >= len(data):
        raise struct.error("the directory lies outside the file")
    start = offset + struct.calcsize(f"{order}{number}")
    (num_entries,) = struct.unpack_from(f"{order}{number}", data, offset)
    size = struct.calcsize(f"{order}{entry}")
    # The directory may be truncated by the file's end.
    num_entries = max(0, min(num_entries, (len(data) - start) // size))
    check_count(num_entries, MAX_PARTS, "entries in the TIFF's directory")
    found: Directory = {}
    for tag, kind, count, value in struct.iter_unpack(f"{order}{entry}", data[start : start + size * num_entries]):
        if kind not in _BYTES or tag in _PLACES:
            # Pillow skips values beyond the end of the file.
            check_count(min(count, len(data)), MAX_PARTS, f"values of the TIFF's tag {tag}")
        form = f"{order}{min(count, _MAX_VALUES)}{_NUMBERS.get(kind, 'B')}"
        if struct.calcsize(f"{order}{_NUMBERS.get(kind, 'B')}") * count > kept:
            (place,) = struct.unpack(f"{order}{'Q' if is_big else 'L'}", value)
            value = data[place : place + struct.calcsize(form)]
        if len(value) >= struct.calcsize(form):
            found[tag] = struct.unpack_from(form, value)
    return found


def check_tiff(data: bytes) -> None:
    """Refuse a TIFF whose first image is a preview, or whose pixels are stored in an unsupported way.

    Raises ImageError (unsupported_format, truncated, too_large).
    """
    try:
        first = read_directory(data)
        raw = _raw_name(first)
        if raw is None and any(_is_the_image(sub, first) for sub in _sub_directories(data, first)):
            raw = f"{_maker(first)} raw" if MAKE in first else "TIFF that starts with a preview of a later image"
    except struct.error as error:
        raise ImageError(ImageErrorCode.TRUNCATED, "TIFF: ends before its first directory does") from error
    if raw is not None:
        raise _unsupported(f"{raw} is not supported; convert it to JPEG, PNG or plain TIFF")
    if (compression := _number(first, COMPRESSION, 1)) in _UNREAD_COMPRESSIONS:
        raise _unsupported(f"TIFF: {_UNREAD_COMPRESSIONS[compression]} compression is not supported")
    # Accepted, as Pillow reads them: 1 unsigned, 3 float, 4 undefined.
    if any(kind in (2, 5, 6) for kind in first.get(SAMPLE_FORMAT, ())):
        kind = "signed" if 2 in first[SAMPLE_FORMAT] else "complex"
        raise _unsupported(f"TIFF: {kind} samples have no defined black and white")


def _unsupported(message: str) -> ImageError:
    return ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, message)


def _number(directory: Directory, tag: int, otherwise: int) -> int:
    return next(iter(directory.get(tag, ())), otherwise)


def _maker(first: Directory) -> str:
    # At most _MAX_VALUES characters of it are read.
    return bytes(first[MAKE]).split(b"\0")[0].decode("ascii", "replace").split(" ")[0].capitalize()


def _raw_name(first: Directory) -> str | None:
    """Return the name of a raw format or preview for the error message; None for an ordinary TIFF."""
    if DNG_VERSION in first:
        return "DNG"
    compression = _number(first, COMPRESSION, 1)
    if compression in _RAW_COMPRESSIONS:
        return f"{_RAW_COMPRESSIONS[compression]} raw"
    if _number(first, PHOTOMETRIC, 0) in (_COLOUR_FILTER_ARRAY, _LINEAR_RAW):
        return f"{_maker(first)} raw" if MAKE in first else "camera raw"
    if _number(first, NEW_SUBFILE_TYPE, 0) & 1 or _number(first, SUBFILE_TYPE, 1) == 2:
        return f"{_maker(first)} raw" if MAKE in first else "TIFF that starts with a reduced image"
    return None


def _sub_directories(data: bytes, first: Directory) -> Iterator[Directory]:
    for offset in first.get(SUB_DIRECTORIES, ()):
        try:
            yield read_directory(data, offset)
        except struct.error:
            # A broken directory does not matter for the first image.
            continue


def _is_the_image(sub: Directory, first: Directory) -> bool:
    """Return whether a directory below the first holds the full image of which the first is a preview."""
    is_raw = _number(sub, PHOTOMETRIC, 0) in (_COLOUR_FILTER_ARRAY, _LINEAR_RAW)
    is_whole = NEW_SUBFILE_TYPE in sub and not _number(sub, NEW_SUBFILE_TYPE, 0) & 1
    return is_raw or (is_whole and _number(sub, IMAGE_WIDTH, 0) > _number(first, IMAGE_WIDTH, 0))
