"""Detect a file's format by its first bytes: supported formats, and valid unsupported ones, which are named."""

import re

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
    features,
)

from alexnet_deploy.core.codecs.parts import MAX_PARTS
from alexnet_deploy.core.codecs.strict import strict
from alexnet_deploy.core.errors import ImageError, ImageErrorCode

# Pillow's classes, not Image.open, which warns about sizes that we limit ourselves, hides why a header failed, and asks
# every other plugin that the process has registered.
DECODERS: dict[str, type[ImageFile.ImageFile]] = {
    "AVIF": strict(AvifImagePlugin.AvifImageFile),
    "BMP": strict(BmpImagePlugin.BmpImageFile),
    "GIF": strict(GifImagePlugin.GifImageFile),
    "JPEG": strict(JpegImagePlugin.JpegImageFile),
    "JPEG2000": strict(Jpeg2KImagePlugin.Jpeg2KImageFile),
    "PNG": strict(PngImagePlugin.PngImageFile),
    "PPM": strict(PpmImagePlugin.PpmImageFile),
    "TIFF": strict(TiffImagePlugin.TiffImageFile),
    "WEBP": strict(WebPImagePlugin.WebPImageFile),
}

ALLOWED_FORMATS = (*sorted({*DECODERS, "HEIF"}),)
"""The supported formats; HEIF needs pillow-heif."""

USUAL_ENDINGS = frozenset(
    (
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff"),
        ".webp",
    )
)
"""Usual endings of image files, to tell them from the files beside them; a format is detected from the content."""

_SIGNATURES = {
    # Any text may start with these two letters, so the size of the following header is part of the signature.
    "BMP": rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0",
    "GIF": rb"GIF8[79]a",
    "JPEG": rb"\xff\xd8\xff",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  \r\n\x87\n",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "PPM": rb"P[1-6f]\s+[\d#]",
    "WEBP": rb"RIFF.{4}WEBP",
}

# Tested before those above: some start like a TIFF.
_UNREAD_SIGNATURES = {
    "Canon CR2 raw": rb"II\*\0.{4}CR",
    "Canon CRW raw": rb"II.{4}HEAPCCDR",
    "Olympus ORF raw": rb"IIR[OS]|MMOR",
    "Panasonic RW2 raw": rb"IIU\0",
    "Fujifilm RAF raw": rb"FUJIFILMCCD-RAW",
    "Minolta MRW raw": rb"\0MRM",
    "Sigma X3F raw": rb"FOVb",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    "JPEG XR": rb"II\xbc[\0\1]",
    "PDF": rb"%PDF-",
    "EPS": rb"%!PS|\xc5\xd0\xd3\xc6",
    "SVG": rb"(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]*>\s*)?(?:<!--(?:[^-]|-[^-])*-->\s*)*"
    rb"(?:<!DOCTYPE svg[^>]*>\s*)?<svg[\s>]",
    "DICOM": rb".{128}DICM",
    "PSD": rb"8BPS\0[\1\2]",
    "XCF": rb"gimp xcf ",
    "OpenEXR": rb"\x76\x2f\x31\x01",
    "Radiance HDR": rb"#\?(?:RADIANCE|RGBE)",
    "FITS": rb"SIMPLE  = {20}T",
    "QOI": rb"qoif.{8}[\3\4][\0\1]",
    "ICO or CUR": rb"\0\0[\1\2]\0[^\0]\0",
    "ICNS": rb"icns",
    "DDS": rb"DDS \x7c",
    "KTX": rb"\xabKTX [12][10]\xbb",
    "BPG": rb"BPG\xfb",
    "FLIF": rb"FLIF[1-\x7f]",
    "MNG or JNG": rb"\x8a[MJ]NG\r\n\x1a\n",
    "DjVu": rb"AT&TFORM",
    "WMF": rb"\xd7\xcd\xc6\x9a",
    "EMF": rb"\x01\0\0\0.{36} EMF",
    "SGI": rb"\x01\xda[\0\1][\1\2]\0[\1-\3]",
    "Sun raster": rb"\x59\xa6\x6a\x95",
    "PCX": rb"\n[\0\2\3\5]\x01[\1\2\4\x08]",
    "XPM": rb"/\* XPM \*/",
    "XBM": rb"\s*#define \w+_width \d+",
    "HDF5": rb"\x89HDF\r\n\x1a\n",
    "GRIB": rb"GRIB.{3}[\1\2]",
    "PAM": rb"P7\nWIDTH ",
}

_VIDEO_BRANDS = (b"qt  ", b"isom", b"iso", b"mp4", b"avc1", b"M4V", b"3g", b"dash", b"MSNV", b"XAVC")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1", b"mif2")
_MATROSKA = re.compile(rb"\x1aE\xdf\xa3")

_readers = {name: re.compile(pattern, re.DOTALL) for name, pattern in _SIGNATURES.items()}
_readers["TIFF"] = re.compile(rb"II[*+]\0|MM\0[*+]")
_unread = {name: re.compile(pattern, re.DOTALL) for name, pattern in _UNREAD_SIGNATURES.items()}

# Markers of a JPEG's first frame header, after whole segments.
_FRAMES_READ = (0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA)
_FRAMES = (*(kind for kind in range(0xC0, 0xD0) if kind not in (0xC4, 0xC8, 0xCC)), 0xF7)

# Longer than every signature.
_PREFIX_BYTES = 2048


def format_of(data: bytes) -> str:
    """Return the format of a file, one of ALLOWED_FORMATS.

    Raises ImageError: unsupported_format for a known format that is not supported, not_an_image for anything else.
    """
    prefix = data[:_PREFIX_BYTES]
    if prefix[4:8] == b"ftyp":
        return _format_of_boxes(prefix)
    if (other := next((name for name, pattern in _unread.items() if pattern.match(prefix)), None)) is not None:
        raise unread(other)
    name = next((name for name, pattern in _readers.items() if pattern.match(prefix)), None)
    if name is None:
        kind = ": it is a video" if _MATROSKA.match(prefix) or re.match(rb"(?s)RIFF.{4}AVI ", prefix) else ""
        raise ImageError(ImageErrorCode.NOT_AN_IMAGE, f"no decoder recognises its header{kind}")
    if name == "JPEG":
        _check_frame(data)
    if name == "JPEG2000" and not features.check("jpg_2000"):
        raise unread("JPEG 2000", "this Pillow was built without OpenJPEG; the wheels on PyPI have it")
    return name


def unread(name: str, why: str = f"supported formats are {', '.join(ALLOWED_FORMATS)}") -> ImageError:
    """Return the error for a valid file of an unsupported format."""
    return ImageError(ImageErrorCode.UNSUPPORTED_FORMAT, f"{name} is not supported: {why}")


def _format_of_boxes(prefix: bytes) -> str:
    """Return the format of a file of ISO boxes, by its brands."""
    length = int.from_bytes(prefix[:4], "big")
    brands = [prefix[8:12], *(prefix[place : place + 4] for place in range(16, min(length, len(prefix)), 4))]
    if brands[0] == b"crx ":
        raise unread("Canon CR3 raw")
    if any(brand in (b"avif", b"avis") for brand in brands):
        if not features.check("avif"):
            raise unread("AVIF", "this Pillow was built without libavif; the wheels on PyPI have it since 11.3")
        return "AVIF"
    if any(brand in _HEIC_BRANDS for brand in brands):
        return "HEIF"
    if brands[0].startswith(_VIDEO_BRANDS):
        raise ImageError(ImageErrorCode.NOT_AN_IMAGE, "it is a video (MP4 or QuickTime)")
    raise ImageError(ImageErrorCode.NOT_AN_IMAGE, f"no decoder reads files of brand {brands[0].decode('latin-1')}")


def _check_frame(data: bytes) -> None:
    """Refuse a JPEG whose coding process libjpeg cannot decode to 8 bits; the error names the process."""
    position = 2
    # A file with more segments is refused by core/codecs/parts.py.
    for _ in range(MAX_PARTS):
        if position + 4 >= len(data) or data[position] != 0xFF:
            return
        kind = data[position + 1]
        if kind == 0xFF:
            position += 1
            continue
        if kind in _FRAMES:
            if kind == 0xF7:
                raise unread("JPEG-LS")
            if kind not in _FRAMES_READ:
                raise unread("hierarchical or arithmetic lossless JPEG")
            if data[position + 4] != 8:
                raise unread(f"JPEG of {data[position + 4]} bits per sample")
            return
        if kind == 0xDA:
            return
        alone = kind == 0x01 or 0xD0 <= kind <= 0xD8
        position += 2 + (0 if alone else int.from_bytes(data[position + 2 : position + 4], "big"))
