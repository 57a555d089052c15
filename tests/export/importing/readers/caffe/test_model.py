"""Caffe's models, field by field: blobs of both versions, what feeds the network, and the limits."""

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from wire import Field, encoded

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.export.importing.readers.caffe import caffe_model_pb2 as messages
from alexnet_deploy.export.importing.readers.caffe.layers import ChainError
from alexnet_deploy.export.importing.readers.caffe.model import (
    CaffeModel,
    array_of,
    mean_value_of,
    parse_model,
    read,
    recognises,
    scale_of,
)

ROW = np.arange(6, dtype=np.float32)


def model(*layers: Message, header: bytes = b"") -> CaffeModel:
    return parse_model(memoryview(data_of(*layers, header=header)))


def data_of(*layers: Message, header: bytes = b"") -> bytes:
    numbers = {messages.LayerParameter: 100, messages.V1LayerParameter: 2}
    return header + encoded([Field(numbers[type(one)], 2, one.SerializeToString()) for one in layers])


def v2(text: str = "", *blobs: messages.BlobProto, name: str = "one") -> messages.LayerParameter:
    return text_format.Merge(text, messages.LayerParameter(name=name, blobs=blobs))


def blob(*shape: int, **data: bytes) -> messages.BlobProto:
    return messages.BlobProto(shape=messages.BlobShape(dim=shape), **(data or {"data": ROW.tobytes()}))


@pytest.mark.parametrize(
    ("text", "shape", "expected"),
    [
        ('type: "Convolution"', (1, 2, 3, 1), (1, 2, 3, 1)),
        ('type: "InnerProduct"', (2, 3), (2, 3)),
        ('type: "InnerProduct"', (1, 1, 2, 3), (2, 3)),
        ('type: "Scale"', (1, 1, 2, 3), (6,)),
    ],
)
def test_shapes_of_the_first_blob(text: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    found = model(v2(text, blob(*shape), blob(1, 1, 1, 6)))
    assert found.tensors["one.0"].shape == expected
    assert found.tensors["one.1"].shape == (6,)
    assert found.tensors["one.0"].reshape(-1).tolist() == ROW.tolist()
    assert found.version == "V2"
    assert not found.layers[0].message.blobs


def test_shapes_of_v1_and_numbers_of_double_precision() -> None:
    old = messages.BlobProto(num=1, channels=1, height=2, width=3, data=ROW.tobytes())
    made = messages.V1LayerParameter(name="one", type=14, blobs=[old, old])
    found = model(made)
    assert (found.version, found.tensors["one.0"].shape, found.tensors["one.1"].shape) == ("V1", (2, 3), (6,))
    double = array_of(blob(6, double_data=ROW.astype("<f8").tobytes()), "b")
    assert (double.dtype, double.tolist()) == (np.float32, ROW.tolist())
    # One layer of V1 among others of V2.
    assert model(made, v2(name="two")).version == model(v2(name="two"), made).version == "V1"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (blob(7), "b has 24 bytes, which do not match its shape (7,)"),
        (blob(6, data=bytes(25)), "b has 25 bytes, which do not match its shape (6,)"),
        (blob(6, double_data=bytes(24)), "b has 24 bytes, which do not match its shape (6,)"),
        (blob(0), "b has the shape (0,)"),
        (blob(-1, -6), "b has the shape (-1, -6)"),
        (blob(*[1] * 9), "b has the shape (1, 1, 1, 1, 1, 1, 1, 1)"),
        (blob((1 << 29) + 1), "b has the shape (536870913,)"),
        (blob(1 << 29), "b has 24 bytes, which do not match its shape (536870912,)"),
        (messages.BlobProto(data=ROW.tobytes()), "b has the shape (0, 0, 0, 0)"),
    ],
)
def test_a_blob_that_does_not_fit_is_refused(given: messages.BlobProto, words: str) -> None:
    with pytest.raises(ChainError) as caught:
        array_of(given, "b")
    assert str(caught.value) == words


def test_a_blob_of_eight_dimensions_or_none_is_read() -> None:
    assert array_of(blob(*[1] * 7, 6), "b").shape == (1,) * 7 + (6,)
    assert array_of(messages.BlobProto(shape=messages.BlobShape(), data=ROW[:1].tobytes()), "b").shape == ()


def test_layers_and_bytes_besides_them_are_limited() -> None:
    assert len(model(*[v2()] * 200).layers) == 200
    with pytest.raises(ChainError, match="has more than 200 layers"):
        model(*[v2()] * 201)
    # A key of one byte, and a length of three.
    name = Field(1, 2, b"a" * ((1 << 16) - 4))
    assert len(model(header=encoded([name])).header.name) == (1 << 16) - 4
    name.value += b"a"  # type: ignore[operator]
    with pytest.raises(ChainError, match="has over 65,536 bytes besides its layers"):
        model(header=encoded([name]))


def test_what_feeds_the_network_says_mean_and_scale() -> None:
    def said(text: str) -> tuple[object, object]:
        layers = model(v2('type: "ReLU"'), v2(f'type: "Data" {text}')).layers
        return mean_value_of(layers), scale_of(layers)

    assert said("") == (None, None)
    assert said("transform_param { mean_value: 1 mean_value: 2 mean_value: 3 }") == ((3.0, 2.0, 1.0), None)
    assert said("transform_param { mean_value: 4 }") == ((4.0, 4.0, 4.0), None)
    assert said("transform_param { mean_value: 1 mean_value: 2 }") == (None, None)
    assert said("transform_param { scale: 0.5 }") == (None, (0.5, 0.5, 0.5))


def fields_of_header(*fields: Field) -> bytes:
    return encoded(list(fields))


NAME = Field(1, 2, b"AlexNet")


@pytest.mark.parametrize(
    ("start", "is_one"),
    [
        (fields_of_header(NAME, Field(2, 2, b"x")), True),
        (fields_of_header(NAME, Field(3, 2, b"data")), True),
        (fields_of_header(NAME, Field(4, 0, 1)), True),
        (fields_of_header(NAME, Field(8, 2, b"x")), True),
        (fields_of_header(NAME, Field(100, 2, b"x")), True),
        (fields_of_header(Field(1, 2, b"")) + fields_of_header(Field(100, 2, b"x")), True),
        (fields_of_header(NAME, Field(4, 2, b"x")), False),
        (fields_of_header(NAME, Field(5, 2, b"x")), False),
        (fields_of_header(NAME, Field(101, 2, b"x")), False),
        (fields_of_header(NAME, Field(2, 0, 1)), False),
        (fields_of_header(Field(2, 2, b"AlexNet"), Field(100, 2, b"x")), False),
        (fields_of_header(Field(1, 2, b"Alex\nNet"), Field(100, 2, b"x")), False),
        (fields_of_header(Field(1, 2, b"\xff\xfe"), Field(100, 2, b"x")), False),
        (b"", False),
        (b"\x0a", False),
        (b"\x0a\x7fAlexNet", False),
        # A file that ends within its second field.
        (b"\x0a\x07AlexNet", False),
        (b"\x0a\x07AlexNet\xa2", False),
    ],
)
def test_it_is_recognised_by_its_first_fields(start: bytes, is_one: bool) -> None:
    assert recognises(Path("x"), start) is is_one


def test_a_model_is_read_and_a_damaged_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    relu = v2('type: "ReLU" bottom: "data" top: "a"')
    header = encoded([NAME])
    path.write_bytes(data_of(relu, header=header))
    found = read(path)
    assert found.format == "Caffe model (V2 layers)"
    assert [layer.name for layer in found.layers or ()] == ["one"]
    path.write_bytes(data_of(relu, header=header)[:-1])
    with pytest.raises(
        WeightsError, match="x: is not a Caffe model, or is damaged: a field is longer than the message"
    ):
        read(path)
    path.write_bytes(data_of(v2('type: "Sigmoid" bottom: "data" top: "a"')))
    with pytest.raises(WeightsError, match=r"x: one: a layer of type Sigmoid is not supported$"):
        read(path)
    with pytest.raises(WeightsError, match="absent: cannot be read: No such file or directory"):
        read(tmp_path / "absent")
