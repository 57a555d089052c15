"""The tensors of ONNX files: every type, both ways to store them, and the limits."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from alexnet_deploy.export.importing.readers.onnx.structure import StructureError, is_shape, read_structure


def tensor(values: np.ndarray, kind: int, *, is_raw: bool) -> np.ndarray:
    raw = values.tobytes() if is_raw else values
    made = helper.make_tensor("t", kind, values.shape, raw, raw=is_raw)
    structure = read_structure(helper.make_model(helper.make_graph([], "g", [], [], [made])).SerializeToString())
    return structure.array(structure.model.graph.initializer[0])


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT32])
def test_numbers_are_read_as_floats_or_integers(kind: int, is_raw: bool) -> None:
    values = np.array([[1, -2, 3], [4, 5, -6]], helper.tensor_dtype_to_np_dtype(kind))
    found = tensor(values, kind, is_raw=is_raw)
    assert found.dtype == (np.int64 if values.dtype.kind == "i" else np.float32)
    assert found.tolist() == values.tolist()


def test_halves_are_read() -> None:
    half = np.array([1.5, -0.25], np.float16)
    assert tensor(half, TensorProto.FLOAT16, is_raw=True).tolist() == [1.5, -0.25]
    upper = (np.array([1.5, -0.25], np.float32).view(np.uint32) >> 16).astype(np.uint16)
    found = tensor(upper, TensorProto.BFLOAT16, is_raw=True)
    assert (found.dtype, found.tolist()) == (np.float32, [1.5, -0.25])


def read_tensor(**fields: object) -> np.ndarray:
    made = TensorProto(**fields)
    structure = read_structure(helper.make_model(helper.make_graph([], "g", [], [], [made])).SerializeToString())
    return structure.array(structure.model.graph.initializer[0])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "t", "dims": [3], "raw_data": bytes(8)}, "t: has 2 values for the shape (3,)"),
        ({"name": "t", "dims": [2], "float_data": [1.0]}, "t: has 1 values for the shape (2,)"),
        ({"name": "t", "dims": [2], "raw_data": bytes(7)}, "t: 7 bytes are not a whole number of values"),
        ({"dims": [2], "raw_data": b""}, "a constant: has 0 values for the shape (2,)"),
        ({"name": "t", "dims": [1] * 9, "raw_data": bytes(4)}, "t: invalid tensor shape (1, 1, 1, 1, 1, 1, 1, 1)"),
        ({"name": "t", "dims": [-1, 0], "raw_data": b""}, "t: invalid tensor shape (-1, 0)"),
        ({"name": "t", "data_type": TensorProto.UINT8, "dims": [1], "raw_data": b"1"}, "t: is of type UINT8, expected"),
        ({"name": "t", "data_type": 99, "dims": [1], "raw_data": b"1"}, "t: is of type 99, expected floats"),
        ({"name": "t", "dims": [1], "raw_data": bytes(4), "float_data": [1.0]}, "has a tensor with two sets of data"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(StructureError) as caught:
        read_tensor(**({"data_type": TensorProto.FLOAT} | fields))
    assert str(caught.value).startswith(words)


def test_a_tensor_without_values_is_read() -> None:
    assert read_tensor(data_type=TensorProto.FLOAT, dims=[0, 3], raw_data=b"").shape == (0, 3)
    assert read_tensor(data_type=TensorProto.FLOAT, dims=[1] * 8, raw_data=bytes(4)).shape == (1,) * 8


def test_shapes_are_limited() -> None:
    assert is_shape(())
    assert is_shape([1] * 8)
    assert not is_shape([1] * 9)
    assert is_shape([0, 5])
    assert not is_shape([-1, 5])
    assert is_shape([1 << 29])
    assert is_shape([1 << 15, 1 << 14])
    assert not is_shape([(1 << 29) + 1])


def test_what_is_not_data_is_limited_to_a_mebibyte() -> None:
    def sized(number: int) -> bytes:
        # Keys and lengths count too: of the IR version, of the text, and of the graph.
        return onnx.ModelProto(ir_version=8, doc_string="a" * number).SerializeToString()

    fits = next(number for number in range(2**20, 0, -1) if len(sized(number)) + 2 * 2 <= 2**20)
    assert len(read_structure(sized(fits)).data) == 2**20 - 4
    with pytest.raises(StructureError, match=r"^has over 1,048,576 bytes beside its tensors, too many for an AlexNet"):
        read_structure(sized(fits + 1))
    # A tensor's data does not count.
    large = numpy_helper.from_array(np.zeros(2**19, np.float32), "t")
    assert read_structure(helper.make_model(helper.make_graph([], "g", [], [], [large])).SerializeToString())
