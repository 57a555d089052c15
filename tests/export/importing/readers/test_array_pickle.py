"""Pickles of arrays, instruction by instruction: what Python and NumPy write, and what is refused."""

import pickle
from collections.abc import Callable

import numpy as np
import pytest

from alexnet_deploy.export.importing.readers.array_pickle import Array, PickleError, as_text, read_pickle


def read(data: bytes) -> object:
    return read_pickle(memoryview(data))


def plain(value: object) -> object:
    """Python's own objects for what was read."""
    match value:
        case Array():
            return value.values().tolist()
        case memoryview():
            return bytes(value)
        case list():
            return [plain(one) for one in value]
        case tuple():
            return tuple(plain(one) for one in value)
        case dict():
            return {key: plain(one) for key, one in value.items()}
    return value


def refused(data: bytes) -> str:
    with pytest.raises(PickleError) as caught:
        plain(read(data))
    return str(caught.value)


VALUES: list[object] = [
    None,
    True,
    False,
    0,
    255,
    256,
    65535,
    65536,
    -1,
    -(2**31),
    2**31,
    -(2**40),
    2**100,
    "text",
    "sch\xf6n",
    "a" * 300,
    b"bytes",
    b"a" * 300,
    (),
    (1,),
    (1, 2),
    (1, 2, 3),
    (1, 2, 3, 4),
    [],
    [1],
    [1, 2],
    {},
    {"a": 1},
    {"a": 1, "b": [2, {"c": (3,)}]},
    [["same"] * 3, ["same"]],
]


@pytest.mark.parametrize("protocol", [3, 4, 5])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_what_python_writes_is_read(value: object, protocol: int) -> None:
    found = plain(read(pickle.dumps(value, protocol)))
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">f8", "=f4"])
def test_arrays_of_floats_are_read(kind: str, order: str, protocol: int) -> None:
    values = np.arange(6).astype(kind).reshape(2, 3).copy(order=order)  # type: ignore[call-overload]
    # Protocol 5 takes another function for arrays that are contiguous; NumPy's files have protocol 3 and 4.
    data = pickle.dumps(values, min(protocol, 4))
    found = read(data)
    assert isinstance(found, Array)
    assert found.values().dtype == np.float32
    assert found.values().tolist() == values.tolist()
    assert found.values() is found.values()


def test_an_array_that_is_there_twice_is_one() -> None:
    values = np.ones(3, np.float32)
    one, two = read(pickle.dumps([values, values], 4))  # type: ignore[misc]
    assert one is two
    assert read(pickle.dumps(np.zeros((2, 0), np.float32), 4)).values().shape == (2, 0)  # type: ignore[union-attr]
    assert read(pickle.dumps(np.zeros((1,) * 8, np.float32), 4)).values().ndim == 8  # type: ignore[union-attr]
    objects = np.empty(2, object)
    objects[:] = ["a", "b"]
    held = read(pickle.dumps(objects, 4))
    assert (held.kind, held.content) == ("O", ["a", "b"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"U\x03abc.", b"abc"),
        (b"T\x03\0\0\0abc.", b"abc"),
        (b"B\x03\0\0\0abc.", b"abc"),
        (b"\x8e\x03\0\0\0\0\0\0\0abc.", b"abc"),
        (b"\x8d\x03\0\0\0\0\0\0\0abc.", "abc"),
        (b"X\x03\0\0\0abc.", "abc"),
        (b"\x8c\x03abc.", "abc"),
        (b"\x8a\x01\xff.", -1),
        (b"\x8a\x00.", 0),
        (b"J\xff\xff\xff\xff.", -1),
        (b"\x80\x02N.", None),
        (b"\x95\x02\0\0\0\0\0\0\0N.", None),
        (b"K\x01q\x05K\x02h\x05\x86.", (2, 1)),
        (b"K\x01r\x05\0\0\0K\x02j\x05\0\0\0\x86.", (2, 1)),
        (b"K\x01\x94K\x02\x94h\x00h\x01\x87.", (2, 1, 2)),
        (b"K\x07(K\x01K\x02t\x86.", (7, (1, 2))),
        (b"](K\x01K\x02eK\x03a.", [1, 2, 3]),
        (b"}(U\x01aK\x01X\x01\0\0\0bK\x02uU\x01cK\x03s.", {"a": 1, "b": 2, "c": 3}),
    ],
)
def test_instructions_of_python_2_and_3_are_read(data: bytes, expected: object) -> None:
    assert plain(read(data)) == expected


def test_bytes_as_python_3_writes_them_for_python_2() -> None:
    assert plain(read(pickle.dumps(b"\x00\xffab", 2))) == b"\x00\xffab"
    assert plain(read(pickle.dumps(b"", 2))) == b""


DTYPE = b"cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"


def built(shape: bytes = b"K\x01\x85", kind: bytes = DTYPE, content: bytes = b"U\x04\0\0\x80?") -> bytes:
    """An array's pickle with another state."""
    return ARRAY + b"(K\x01" + shape + kind + b"\x89" + content + b"tb."


def test_this_pickle_of_an_array_is_read() -> None:
    assert plain(read(built())) == [1.0]
    assert plain(read(built(kind=DTYPE + b"(K\x03U\x01>NNNK\xffK\xffK\x00tb", content=b"U\x04?\x80\0\0"))) == [1.0]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "ends early, or says that something is longer than the file"),
        (b"K", "ends early, or says that something is longer than the file"),
        (b"U\x04abc", "ends early, or says that something is longer than the file"),
        (b"T\xff\xff\xff\xff.", "ends early, or says that something is longer than the file"),
        (b"N", "ends early, or says that something is longer than the file"),
        (b".", "is damaged: it takes from an empty stack"),
        (b"(.", "is damaged: it takes from an empty stack"),
        (b"K\x01(a.", "is damaged: it takes from an empty stack"),
        (b"K\x01\x86.", "is damaged: it takes from an empty stack"),
        (b"G\0\0\0\0\0\0\0\0.", "has an instruction that no array needs: b'G'"),
        (b"K\x01K\x02a.", "is damaged: it appends to something that is not a list"),
        (b"}(K\x01e.", "is damaged: it appends to something that is not a list"),
        (b"]K\x01K\x02s.", "is damaged: it sets an item of something that is not a dict"),
        (b"}K\x01K\x02s.", "has a int, expected a name"),
        (b"}(U\x01au.", "is damaged: ValueError"),
        (b"t.", "is damaged: IndexError"),
        (b"h\x05.", "is damaged: KeyError"),
        (b"X\x01\0\0\0\xff.", "is damaged: UnicodeDecodeError"),
        (b"c" + b"a" * 300, "is damaged: ValueError"),
        (b"cos\nsystem\n.", "holds os.system, which is not an array and is not loaded, because loading can run code"),
        (b"U\x02osU\x06system\x93.", "holds os.system, which is not an array and is not loaded, because loading can"),
        (b"K\x01)R.", "is damaged: expected a call of a named function"),
        (b"cnumpy\ndtype\n]R.", "is damaged: expected a call of a named function"),
        (b"cnumpy\ndtype\n)R.", "is damaged: unexpected arguments of dtype"),
        (b"cnumpy\nndarray\n)R.", "is damaged: unexpected arguments of ndarray"),
        (b"c_codecs\nencode\nX\x01\0\0\0aU\x05ascii\x86R.", "is damaged: unexpected arguments of encode"),
        (b"c_codecs\nencode\nX\x02\0\0\0\xc4\x80U\x06latin1\x86R.", "is damaged: UnicodeEncodeError"),
        (b"K\x01)b.", "is damaged: it sets the state of something that is not an array"),
        (DTYPE + b"(K\x03U\x01!tb.", "is damaged: it sets the state of something that is not an array"),
        (ARRAY + b"(K\x01K\x01\x85K\x01\x89U\x00tb.", "is damaged: it sets the state of something that is not an arr"),
        (built(shape=b"J\xff\xff\xff\xff\x85"), "holds an array of an impossible shape"),
        (built(shape=b"\x8a\x06\0\0\0\0\0\x01\x85"), "holds an array of an impossible shape"),
        (built(shape=b"(" + b"K\x01" * 9 + b"t"), "holds an array of an impossible shape"),
        (built(shape=b"U\x01a\x85"), "holds an array of an impossible shape"),
        (built(shape=b"K\x02\x85"), "holds an array of shape (2,) with 4 bytes"),
        (built(content=b"U\x03abc"), "holds an array of shape (1,) with 3 bytes"),
        (built(content=b"]"), "holds an array of type '|f4', expected floats"),
        (built(kind=DTYPE.replace(b"f4", b"i4")), "holds an array of type '|i4', expected floats"),
    ],
)
def test_another_pickle_is_refused(data: bytes, words: str) -> None:
    assert refused(data).startswith(words)


def test_a_size_under_the_limit_is_no_impossible_shape() -> None:
    assert refused(built(shape=b"\x8a\x05\xff\xff\xff\xff\x00\x85")).startswith("holds an array of shape (4294967295,)")
    assert refused(built(shape=b"\x8a\x06\xff\xff\xff\xff\xff\0\x85")).startswith("holds an array of shape (10995116")


def test_instructions_are_limited() -> None:
    assert read(b"N" * 99_999 + b".") is None
    assert refused(b"N" * 100_000 + b".") == "has more than 100,000 instructions"


def test_text_that_is_encoded_is_limited_to_the_file() -> None:
    start = b"c_codecs\nencode\nq\x00X\x40\0\0\0" + b"a" * 64 + b"q\x01U\x06latin1\x86q\x02"
    once: Callable[[int], bytes] = lambda times: start + b"R" + b"h\x00h\x02R" * times + b"."  # noqa: E731
    fits = next(times for times in range(99) if 64 * (times + 2) > len(once(times + 1)))
    assert read(once(fits)) == b"a" * 64
    assert refused(once(fits + 1)) == "encodes more text than the file holds"


def test_names_are_texts() -> None:
    assert (as_text("a"), as_text(b"a\xff"), as_text(memoryview(b"b"))) == ("a", "a\xff", "b")
    assert len(as_text(b"a" * 2000)) == 1000
    with pytest.raises(PickleError, match="has a int, expected a name"):
        as_text(3)
