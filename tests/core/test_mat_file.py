"""MATLAB files, element by element: every type, short elements, padding, and the limits."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest

from alexnet_deploy.core.mat_file import MatError, MatValue, Unread, read_mat

TYPES = {1: "<i1", 2: "<u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}


def element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)


def short(kind: int, content: bytes) -> bytes:
    return struct.pack("<HH", kind, len(content)) + content.ljust(4, b"\0")


def array(
    array_class: int, *parts: bytes, name: bytes = b"a", shape: tuple[int, ...] = (1, 2), flags: int = 0
) -> bytes:
    sizes = element(5, struct.pack(f"<{len(shape)}i", *shape))
    head = element(6, struct.pack("<II", array_class | flags, 0)) + sizes + element(1, name)
    return element(14, head + b"".join(parts))


def numbers(values: np.ndarray, kind: int, **options: object) -> bytes:
    options = {"shape": values.shape} | options
    return array(6, element(kind, values.tobytes(order="F")), **options)  # type: ignore[arg-type]


def packed(data: bytes) -> bytes:
    content = zlib.compress(data)
    return struct.pack("<II", 15, len(content)) + content


def read(*elements: bytes, more: int = 0, most: int = 1 << 20, head: bytes = b"MATLAB 5.0") -> dict[str, MatValue]:
    data = head.ljust(126) + b"IM" + b"".join(elements)
    return read_mat(BytesIO(data), len(data) + more, most)


def refused(*elements: bytes, **options: int) -> str:
    with pytest.raises(MatError) as caught:
        read(*elements, **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("is_packed", [True, False])
@pytest.mark.parametrize("kind", TYPES)
def test_numbers_of_every_type_are_read_in_matlabs_order(kind: int, is_packed: bool) -> None:
    values = np.arange(6).astype(TYPES[kind]).reshape(2, 3)
    made = numbers(values, kind)
    found = read(packed(made) if is_packed else made)["a"]
    assert isinstance(found, np.ndarray)
    assert found.dtype == values.dtype
    assert np.array_equal(found, values)
    assert not found.flags.writeable


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (1, b"sch\xf6n"),
        (2, b"sch\xf6n"),
        (4, "sch\xf6n".encode("utf-16-le")),
        (16, "sch\xf6n".encode()),
        (17, "sch\xf6n".encode("utf-16-le")),
    ],
)
def test_texts_of_every_type_are_read(kind: int, content: bytes) -> None:
    assert read(array(4, element(kind, content), shape=(1, 5))) == {"a": "sch\xf6n"}
    assert read(array(4, shape=(0, 0))) == {"a": ""}


def test_cells_and_structs_are_read() -> None:
    one, two = numbers(np.array([[1.0]]), 9, name=b""), array(4, element(16, b"x"), name=b"")
    assert read(array(1, one, two)) == {"a": [np.array([[1.0]]), "x"]}
    names = element(1, b"first\0\0\0b\0\0\0\0\0\0\0")
    fields = read(array(2, short(5, struct.pack("<i", 8)), names, one, two, two, one))["a"]
    assert fields == [{"first": 1.0, "b": "x"}, {"first": "x", "b": 1.0}]
    assert read(array(2, short(5, struct.pack("<i", 8)), element(1, b""))) == {"a": []}


def test_a_short_element_keeps_its_content_beside_its_size() -> None:
    made = array(6, short(2, b"\1\2\3"), shape=(1, 3))
    assert np.array_equal(read(made)["a"], [[1, 2, 3]])  # type: ignore[arg-type]
    # At the top it cannot be an array.
    assert list(read(short(2, b"\1\2"), numbers(np.zeros((1, 1)), 9))) == ["a"]


@pytest.mark.parametrize("number", range(1, 10))
def test_elements_are_padded_to_eight_bytes(number: int) -> None:
    values = np.arange(number, dtype=np.uint8).reshape(1, number)
    cell = array(1, numbers(values, 2), numbers(values, 2))
    found = read(cell, numbers(values, 2, name=b"b"), packed(numbers(values, 2, name=b"c")), cell)
    assert list(found) == ["a", "b", "c"]
    assert all(np.array_equal(one, values) for one in (found["b"], found["c"], *found["a"]))  # type: ignore[arg-type]


def test_two_variables_in_one_compressed_element_are_read() -> None:
    one, two = (numbers(np.zeros((1, 1)), 9, name=name) for name in (b"b", b"c"))
    assert list(read(packed(one + two))) == ["b", "c"]
    inner = packed(one + element(9, bytes(8)) + two)
    assert list(read(inner)) == ["b", "c"]


@pytest.mark.parametrize("array_class", [3, 5, 16, 17])
def test_arrays_of_other_classes_are_not_read(array_class: int) -> None:
    assert read(array(array_class, element(6, bytes(8)))) == {"a": Unread(array_class)}
    bare = element(14, element(6, struct.pack("<II", array_class, 0)))
    cell = read(array(1, bare))["a"]
    assert cell == [Unread(array_class)]


@pytest.mark.parametrize("array_class", range(6, 16))
def test_arrays_of_all_numbers_are_read(array_class: int) -> None:
    assert np.array_equal(read(array(array_class, element(2, b"\7\x09")))["a"], [[7, 9]])  # type: ignore[arg-type]


def test_arrays_that_are_empty_or_without_a_name() -> None:
    assert read(element(14, b""), array(6, name=b"", shape=(0, 0))) == {}
    assert read(array(1, element(14, b"")))["a"][0].shape == (0, 0)  # type: ignore[index,union-attr]
    assert read(array(6, shape=(0, 3)))["a"].shape == (0, 3)  # type: ignore[union-attr]
    assert read(array(1, element(14, element(6, b""))))["a"] == [Unread(0)]
    # Less than a tag at the end is no element.
    assert list(read(numbers(np.zeros((1, 1)), 9), bytes(7))) == ["a"]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (numbers(np.zeros((1, 2)), 9, flags=1 << 11), "it holds complex numbers"),
        (numbers(np.zeros((1, 2)), 9, shape=(1, 3)), "an array of shape (1, 3) has 16 bytes"),
        (numbers(np.zeros((1, 2)), 9, shape=(-1, -2)), "an array has the shape (-1, -2)"),
        (numbers(np.zeros((1,) * 9), 9), "an array has more dimensions than can be read"),
        (array(6, element(8, bytes(16))), "it is damaged: 8"),
        (array(4, element(9, bytes(16))), "it is damaged: 9"),
        (array(6, struct.pack("<II", 9, 17) + bytes(16)), "1 byte missing at its end"),
        (array(2, element(5, struct.pack("<i", 0)), element(1, b"")), "field names of 0 bytes do not fit 0 bytes"),
        (array(2, element(5, struct.pack("<i", -4)), element(1, bytes(4))), "field names of -4 bytes do not fit 4"),
        (array(2, element(5, struct.pack("<i", 8)), element(1, bytes(12))), "field names of 8 bytes do not fit 12"),
        (
            array(2, element(5, struct.pack("<i", 1)), element(1, b"a" * 1001)),
            "field names of 1 bytes do not fit 1,001",
        ),
        (packed(b"x" * 64)[:-4], "4 bytes missing at its end"),
        (struct.pack("<II", 15, 8) + zlib.compress(bytes(64))[:8], "a compressed variable ends early"),
        (struct.pack("<II", 15, 8) + b"notzlib!", "it is damaged: Error -3 while decompressing data"),
    ],
)
def test_a_damaged_file_is_refused(made: bytes, words: str) -> None:
    assert refused(made).startswith(words)


def test_a_file_that_is_not_of_level_5_is_refused() -> None:
    for data in (b"", b"MATLAB 5.0".ljust(126) + b"MI", b"MATLAB 5.0".ljust(127) + b"IM"):
        with pytest.raises(MatError, match="it is not a little-endian MATLAB file of level 5"):
            read_mat(BytesIO(data), len(data), 0)


def test_an_array_that_fills_the_file_without_padding_is_read() -> None:
    made = numbers(np.array([[1, 2, 3]], np.uint8), 2)
    assert np.array_equal(read(made)["a"], [[1, 2, 3]])  # type: ignore[arg-type]
    # The last element's own padding is missing.
    size = len(made) - 8 - 5
    bare = struct.pack("<II", 14, size) + made[8 : 8 + size]
    assert np.array_equal(read(bare)["a"], [[1, 2, 3]])  # type: ignore[arg-type]


def test_sizes_at_the_limits_are_read() -> None:
    assert read(numbers(np.zeros((1,) * 8), 9))["a"].shape == (1,) * 8  # type: ignore[union-attr]
    fields = array(2, element(5, struct.pack("<i", 1)), element(1, b"a" * 1000))
    assert read(fields) == {"a": []}
    made = packed(numbers(np.zeros((1, 100)), 9))
    num_bytes = len(numbers(np.zeros((1, 100)), 9))
    assert list(read(made, most=num_bytes)) == ["a"]
    assert refused(made, most=num_bytes - 1) == f"it unpacks to more than {num_bytes - 1:,} bytes"
    # Of all compressed variables together.
    assert refused(made, made, most=2 * num_bytes - 1) == f"it unpacks to more than {2 * num_bytes - 1:,} bytes"
    assert list(read(made, made, most=2 * num_bytes)) == ["a"]


def test_a_compressed_variable_of_more_than_one_piece_is_read() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1, 5 << 19), np.uint8)
    assert np.array_equal(read(packed(numbers(noise, 2)), most=1 << 23)["a"], noise)  # type: ignore[arg-type]


def nested(depth: int) -> bytes:
    made = array(1)
    for _ in range(depth):
        made = array(1, made)
    return made


def test_arrays_within_arrays_are_limited() -> None:
    assert list(read(nested(16))) == ["a"]
    assert refused(nested(17)) == "it has more than 100,000 arrays, or 16 within one another"


def test_the_number_of_arrays_is_limited() -> None:
    empty = element(14, b"")
    assert len(read(array(1, empty * 99_999))["a"]) == 99_999  # type: ignore[arg-type]
    assert refused(array(1, empty * 100_000)) == "it has more than 100,000 arrays, or 16 within one another"
