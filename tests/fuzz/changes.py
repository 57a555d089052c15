"""Mutations of input files: of bytes, and of the structure of JSON, TOML, safetensors and tar files.

Each mutation is random only through the generator that it is given.
"""

import gzip
import io
import json
import random
import re
import tarfile
import zipfile
from collections.abc import Callable
from typing import Any, TypeAlias

Change: TypeAlias = Callable[[random.Random, bytes], bytes]

_NUMBERS = (
    0,
    1,
    -1,
    7,
    255,
    256,
    2**15,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63),
)
_TEXTS = ("", "x", "..", "/etc/passwd", "../x", "a\0b", "\x1b[2J", "\u202e", "\ud800", "F64", "0" * 64, "n" * 5000)
_DEEP = 1500


def _bits(chance: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 8))):
        if changed:
            changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _cut(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _remove(chance: random.Random, data: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start + chance.choice((1, 2, 8, 64, 512)) :]


def _insert(chance: random.Random, data: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + chance.randbytes(chance.choice((1, 2, 8, 64))) + data[start:]


def _repeat(chance: random.Random, data: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice((1, 4, 64, 512))]
    return data[:start] + piece * chance.choice((2, 3, 50)) + data[start:]


def _splice(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)] + data[chance.randrange(len(data) + 1) :]


def _binary_number(chance: random.Random, data: bytes) -> bytes:
    width = chance.choice((1, 2, 4, 8))
    value = chance.choice(_NUMBERS) % 256**width
    place = chance.randrange(max(1, len(data) - width))
    return data[:place] + value.to_bytes(width, chance.choice(("little", "big"))) + data[place + width :]


def _written_number(chance: random.Random, data: bytes) -> bytes:
    """Replace a number that is written in digits."""
    found = list(re.finditer(rb"-?\d[\d.eE+-]*", data[:100_000]))
    if not found:
        return data
    place = chance.choice(found)
    number = chance.choice(
        (*map(str, _NUMBERS), "9" * 5000, "1e999", "-0.0", "1e-320", "NaN", "Infinity", "null", "0x10")
    )
    return data[: place.start()] + number.encode() + data[place.end() :]


BYTES: tuple[Change, ...] = (_bits, _bits, _cut, _remove, _insert, _repeat, _splice, _binary_number, _written_number)


def _value(chance: random.Random) -> Any:
    return chance.choice(
        (
            *_NUMBERS,
            *_TEXTS,
            None,
            True,
            0.5,
            -1e308,
            1e-300,
            [],
            {},
            [1] * 300,
            [[]] * 10,
            {"a": 1},
            ["x", "x"],
        )
    )


def change_value(chance: random.Random, root: Any) -> Any:
    """Change a part of a JSON value in place; return the value."""
    holder, place, inner = None, None, root
    while isinstance(inner, dict | list) and inner and (holder is None or chance.random() < 0.85):
        holder, place = inner, chance.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        inner = holder[place]
    if holder is None:
        return _value(chance)
    match chance.choice(("value", "value", "value", "drop", "twice", "rename", "deep", "other")):
        case "drop":
            del holder[place]
        case "twice" if isinstance(holder, list):
            holder[place:place] = [inner] * chance.choice((1, 2, 100))
        case "rename" if isinstance(holder, dict):
            holder[chance.choice(_TEXTS)] = holder.pop(place)
        case "deep":
            holder[place] = "DEEP"
        case "other":
            others = list(holder.values()) if isinstance(holder, dict) else holder
            holder[place] = chance.choice(others)
        case _:
            holder[place] = _value(chance)
    return root


def json_text(value: Any) -> bytes:
    """Return a changed value as JSON."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace('"DEEP"', "[" * _DEEP + "]" * _DEEP).encode()


def json_change(chance: random.Random, data: bytes) -> bytes:
    """Change a field, an item or a key of a JSON text."""
    return json_text(change_value(chance, json.loads(data)))


def toml_change(chance: random.Random, data: bytes) -> bytes:
    """Replace the value of a line, or the line."""
    lines = data.decode().splitlines()
    place = chance.randrange(len(lines))
    name = lines[place].partition("=")[0] or "x"
    values = ("[" * _DEEP, "9" * 5000, "nan", "inf", "-1", "2026-13-45", '"""', '"\\ud800"', "{", "true", "[1, [2]]")
    match chance.choice(("value", "value", "twice", "drop", "table")):
        case "value":
            lines[place] = f"{name} = {chance.choice((*values, *(json.dumps(_value(chance)) for _ in range(5))))}"
        case "twice":
            lines.insert(place, lines[place])
        case "drop":
            del lines[place]
        case _:
            lines.insert(place, f"[{'.'.join(['a'] * chance.choice((1, 50, _DEEP)))}]")
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def tensor_file_change(chance: random.Random, data: bytes) -> bytes:
    """Change a safetensors header: an entry, or a field of a text within its metadata."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    texts = header.get("__metadata__", {})
    if texts and chance.random() < 0.7:
        key = chance.choice(list(texts))
        texts[key] = json_change(chance, texts[key].encode()).decode()
    else:
        header = change_value(chance, header)
    text = json_text(header)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def tar_change(chance: random.Random, data: bytes) -> bytes:
    """Change a field of a header, and in most cases its checksum too."""
    headers = [place for place in range(0, len(data), 512) if data[place + 257 : place + 262] == b"ustar"]
    if not headers:
        return data
    start = chance.choice(headers)
    header = bytearray(data[start : start + 512])
    match chance.choice(("size", "size", "type", "name", "any")):
        case "size":
            number = chance.choice(_NUMBERS)
            octal = b"%011o\0" % (abs(number) % 8**11)
            header[124:136] = octal if chance.random() < 0.4 else tarfile.itn(number, 12, tarfile.GNU_FORMAT)
        case "type":
            header[156:157] = chance.choice(
                (b"0", b"\0", b"1", b"2", b"3", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S")
            )
        case "name":
            header[:100] = chance.choice(_TEXTS).encode("utf-8", "surrogatepass")[:100].ljust(100, b"\0")
        case _:
            header[chance.randrange(512)] ^= 1 << chance.randrange(8)
    if chance.random() < 0.8:
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + 512 :]


def stored_zip_change(chance: random.Random, data: bytes) -> bytes:
    """Change an entry of an archive: a value where it is JSON, or else bytes; its checksum is right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = chance.choice([name for name, content in entries.items() if content])
    change = json_change if name.endswith(".json") else chance.choice(BYTES)
    changed = io.BytesIO()
    with zipfile.ZipFile(changed, "w") as archive:
        for other, content in entries.items():
            archive.writestr(zipfile.ZipInfo(other), change(chance, content) if other == name else content)
    return changed.getvalue()


def hdf5_text_change(chance: random.Random, data: bytes) -> bytes:
    """Change a value of the config in an HDF5 file, which keeps its length: it is filled up with spaces."""
    begin = data.find(b'{"class_name"')
    end = data.find(b"\0", begin)
    config = data[begin:end]
    changed = json_change(chance, config)[: len(config)].ljust(len(config))
    return data[:begin] + changed + data[end:]


def gzip_tar_change(chance: random.Random, data: bytes) -> bytes:
    """Change a header of a tar inside a gzip file."""
    return gzip.compress(tar_change(chance, gzip.decompress(data)), 1, mtime=0)
