"""The fields of a message, one by one: numbers, lists, names, and the limits of each."""

import pytest
from wire import Field, encoded, varint

from alexnet_deploy.engines.graph_wire import (
    INT,
    INTS,
    PART,
    PARTS,
    REAL,
    GraphFileError,
    bytes_of,
    int32_of,
    int_of,
    message_of,
    numbers,
    text,
    text_of,
)

RULES = {1: INT, 2: INTS, 3: REAL, 4: PART, 5: PARTS}


def read(data: bytes) -> dict[int, list[object]]:
    found = message_of(memoryview(data), RULES, "it")
    return {
        number: [bytes(one) if isinstance(one, memoryview) else one for one in values]
        for number, values in found.items()
    }


def refused(data: bytes) -> str:
    with pytest.raises(GraphFileError) as caught:
        read(data)
    return str(caught.value)


def test_fields_of_every_type_are_read_in_any_order() -> None:
    fields = [Field(5, 2, b"b"), Field(1, 0, 300), Field(2, 0, 1), Field(3, 5, b"abcd"), Field(2, 0, 2)]
    fields += [Field(4, 2, b"a" * 200), Field(5, 2, b"")]
    assert read(encoded(fields)) == {1: [300], 2: [1, 2], 3: [b"abcd"], 4: [b"a" * 200], 5: [b"b", b""]}
    assert read(b"") == {}


@pytest.mark.parametrize("value", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**31, 2**63, 2**64 - 1])
def test_numbers_of_any_length_are_read(value: int) -> None:
    assert read(encoded([Field(1, 0, value)])) == {1: [value]}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded([Field(6, 0, 1)]), "it has field 6, which our writer does not write"),
        (encoded([Field(1, 2, b"")]), "it has field 1 as a length, but our writer writes a varint"),
        (encoded([Field(1, 5, b"abcd")]), "it has field 1 as four bytes, but our writer writes a varint"),
        (encoded([Field(3, 0, 1)]), "it has field 3 as a varint, but our writer writes four bytes"),
        (encoded([Field(4, 0, 1)]), "it has field 4 as a varint, but our writer writes a length"),
        (encoded([Field(1, 0, 1), Field(1, 0, 1)]), "it has field 1 twice"),
        (encoded([Field(3, 5, b"abcd"), Field(3, 5, b"abcd")]), "it has field 3 twice"),
        (encoded([Field(4, 2, b""), Field(4, 2, b"")]), "it has field 4 twice"),
        (varint(1 << 3 | 1) + bytes(8), "cannot be parsed: it has a field of wire type 1"),
        (varint(1 << 3 | 3), "cannot be parsed: it has a field of wire type 3"),
        (varint(3 << 3 | 5) + b"abc", "cannot be parsed: it ends in the middle of a field"),
        (varint(4 << 3 | 2) + b"\x04abc", "cannot be parsed: it ends in the middle of a field"),
        (varint(1 << 3), "cannot be parsed: it ends in the middle of a number"),
        (varint(1 << 3) + b"\x80", "cannot be parsed: it ends in the middle of a number"),
        (varint(1 << 3) + b"\xff" * 10 + b"\x01", "cannot be parsed: it ends in the middle of a number"),
        (encoded([Field(1, 0, 1, surplus=1)]), "cannot be parsed: it has a varint that is not minimal"),
        (encoded([Field(1, 0, 0, surplus=1)]), "cannot be parsed: it has a varint that is not minimal"),
        (encoded([Field(4, 2, b"a", surplus=2)]), "cannot be parsed: it has a varint that is not minimal"),
        (encoded([Field(1, 0, 2**64)]), "cannot be parsed: it has a varint that is not minimal"),
    ],
)
def test_what_our_writer_does_not_write_is_refused(data: bytes, words: str) -> None:
    assert refused(data) == words


@pytest.mark.parametrize(
    ("subject", "number", "words"),
    [
        ("the model", 25, "functions"),
        ("the model", 20, "training steps"),
        ("the graph", 15, "sparse constants"),
        ("an attribute", 6, "a subgraph"),
        ("an attribute", 11, "subgraphs"),
        ("an attribute", 12, "field 12, which our writer does not write"),
    ],
)
def test_what_runs_code_or_hides_it_is_named(subject: str, number: int, words: str) -> None:
    with pytest.raises(GraphFileError, match=f"^{subject} has {words}$"):
        message_of(memoryview(encoded([Field(number, 2, b"")])), {}, subject)


def test_lists_of_numbers_are_signed_and_limited() -> None:
    assert numbers([0, 2**63 - 1, 2**63, 2**64 - 1]) == (0, 2**63 - 1, -(2**63), -1)
    assert len(numbers([1] * 64)) == 64
    with pytest.raises(GraphFileError, match="has a list of more than 64 numbers, but our writer writes at most 4"):
        numbers([1] * 65)


def test_single_numbers_are_signed_and_in_range() -> None:
    fields = {1: [2**64 - 1], 2: [memoryview(b"")], 3: [2**31 - 1], 4: [2**31], 5: [0]}
    assert int_of(fields, 1, "it") == -1
    assert int32_of(fields, 3, "it") == 2**31 - 1
    assert int32_of(fields, 5, "it") == 0
    for number in (2, 6):
        with pytest.raises(GraphFileError, match=f"cannot be parsed: it has no number in field {number}"):
            int_of(fields, number, "it")
    for number, value in ((1, -1), (4, 2**31)):
        with pytest.raises(
            GraphFileError, match=f"it has {value} in field {number}, which is out of the field's range"
        ):
            int32_of(fields, number, "it")


def test_bytes_and_names() -> None:
    fields = {1: [memoryview(b"name")], 2: [7]}
    assert bytes(bytes_of(fields, 1, "it")) == b"name"
    assert bytes(bytes_of(fields, 3, "it", memoryview(b"other"))) == b"other"
    assert bytes(bytes_of(fields, 1, "it", memoryview(b"other"))) == b"name"
    assert text_of(fields, 1, "it", "other") == "name"
    assert text_of(fields, 3, "it", "") == ""
    for call in (bytes_of, text_of):
        with pytest.raises(GraphFileError, match="cannot be parsed: it is a number"):
            call(fields, 2, "it")
        with pytest.raises(GraphFileError, match="cannot be parsed: it has no field 3"):
            call(fields, 3, "it")
    assert len(text(memoryview(b"a" * 256), "it")) == 256
    with pytest.raises(GraphFileError, match="it has a name of 257 bytes"):
        text(memoryview(b"a" * 257), "it")
    with pytest.raises(GraphFileError, match="cannot be parsed: it has a name that is not UTF-8"):
        text(memoryview(b"\xff"), "it")
