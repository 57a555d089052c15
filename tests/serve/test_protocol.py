"""Requests of the Open Inference Protocol are understood to the byte, or refused with a sentence and a 4xx."""

import base64
import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.serve.errors import RequestError
from alexnet_deploy.serve.protocol import Asked, read_request, write_answer

OUTPUT = Output(size=4)
FEATURES = Output(size=3, layer="fc7")
LABELS = ("a", "b:b", "ü", "d")
ONE = np.arange(256 * 256 * 3, dtype=np.int64).reshape(1, 256, 256, 3) % 256


def tensor(**changes: object) -> dict[str, object]:
    given = {"name": "images", "datatype": "UINT8", "shape": [1, 256, 256, 3]}
    return {name: value for name, value in (given | changes).items() if value is not None}


def request(*inputs: object, blob: bytes = b"", **more: object) -> tuple[bytes, str | None]:
    head = json.dumps({"inputs": inputs, **more}).encode()
    return head + blob, str(len(head)) if blob else None


def read(body: bytes, length: str | None, output: Output = OUTPUT, most: int = 8) -> Asked:
    return read_request(body, length, output, most)


def refused(body: bytes, length: str | None = None, output: Output = OUTPUT) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        read(body, length, output)
    return caught.value.status, str(caught.value)


@pytest.mark.parametrize("data", [ONE.tolist(), ONE.ravel().tolist()])
def test_json_may_be_nested_or_flat(data: object) -> None:
    asked = read(*request(tensor(data=data), id="7"))
    assert isinstance(asked.images, np.ndarray)
    assert asked.images.dtype == np.uint8
    assert np.array_equal(asked.images, ONE)
    assert (asked.id, asked.is_binary, asked.num_classes) == ("7", False, 0)


def test_binary_data_follow_the_json() -> None:
    blob = ONE.astype(np.uint8).tobytes()
    part = tensor(parameters={"binary_data_size": len(blob)})
    wanted = {"name": "probabilities", "parameters": {"binary_data": True, "classification": 9}}
    asked = read(*request(part, blob=blob, outputs=[wanted]))
    assert isinstance(asked.images, np.ndarray)
    assert np.array_equal(asked.images, ONE)
    assert (asked.id, asked.is_binary, asked.num_classes) == (None, True, 4)
    assert read(*request(part, blob=blob, parameters={"binary_data_output": True})).is_binary


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=8))
def test_encoded_images_come_whole_in_both_forms(files: list[bytes]) -> None:
    texts = [base64.b64encode(data).decode() for data in files]
    part = {"name": "encoded_images", "datatype": "BYTES", "shape": [len(files)]}
    assert read(*request({**part, "data": texts})).images == tuple(files)
    blob = b"".join(struct.pack("<I", len(data)) + data for data in files)
    body, length = request({**part, "parameters": {"binary_data_size": len(blob)}}, blob=blob)
    assert read(body, length).images == tuple(files)
    for wrong in (blob[:-1], blob + b"x"):
        body, length = request({**part, "parameters": {"binary_data_size": len(wrong)}}, blob=wrong)
        if wrong:
            assert refused(body, length)[0] == 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the request cannot be read"),
        (b"\xff\xfe", "the request cannot be read"),
        (b"[]", "the request cannot be read"),
        (b"{}", "the request cannot be read: Object missing required field `inputs`"),
        (request()[0], "a request has one input, images or encoded_images, got 0"),
        (request(tensor(data=[0]), tensor(data=[0]))[0], "a request has one input, images or encoded_images, got 2"),
        (request(tensor(name="x"))[0], "'x' is not an input of the model; use images or encoded_images"),
        (request(tensor(datatype="FP32"))[0], "images must be UINT8 (N, 256, 256, 3), N of 1 or more, got FP32 (1,"),
        (request(tensor(shape=[1, 224, 224, 3]))[0], "got UINT8 (1, 224, 224, 3)"),
        (request(tensor(shape=[0, 256, 256, 3]))[0], "N of 1 or more, got UINT8 (0, 256, 256, 3)"),
        (request(tensor(shape=[-1, 256, 256, 3]))[0], "N of 1 or more"),
        (request(tensor(shape=[]))[0], "N of 1 or more"),
        (request(tensor())[0], "images has neither data nor binary_data_size"),
        (request(tensor(data=[1, 2]))[0], "images (1, 256, 256, 3) needs 196,608 values, got 2"),
        (request(tensor(data=[[1], [1, 2]]))[0], "data is not an array of whole numbers"),
        (request(tensor(data=[256] * 196608))[0], "images: data must be whole numbers, 0 to 255"),
        (request(tensor(data=[-1] * 196608))[0], "images: data must be whole numbers, 0 to 255"),
        (request(tensor(data=[0.5] * 196608))[0], "images: data must be whole numbers, 0 to 255"),
        (request(tensor(data=["a"]))[0], "images: data must be whole numbers, 0 to 255"),
        (request(tensor(data={"a": 1}))[0], "images: data must be whole numbers, 0 to 255"),
        (request(tensor(data=[10**400]))[0], "images: data"),
        (request(tensor(data=[0], parameters={"binary_data_size": 3}))[0], "binary_data_size is 3, but 0 bytes follow"),
        (
            request(tensor(), outputs=[{"name": "logits"}])[0],
            "the model has one output, probabilities, but the request",
        ),
        (
            request(tensor(), outputs=[{"name": "probabilities", "parameters": {"classification": -1}}])[0],
            "classification must be a number of classes, got -1",
        ),
        (
            request({"name": "encoded_images", "datatype": "BYTES", "shape": [1], "data": ["not base64!"]})[0],
            "encoded_images: in JSON each element must be a base64 text",
        ),
        (
            request({"name": "encoded_images", "datatype": "BYTES", "shape": [2], "data": ["aGk="]})[0],
            "encoded_images (2,) needs 2 values, got 1",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_with_400(body: bytes, words: str) -> None:
    status, sentence = refused(body)
    assert status == 400
    assert words in sentence


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999999999", "9" * 5000, "²", ""])
def test_a_wrong_length_of_the_json_is_refused(length: str) -> None:
    status, sentence = refused(request(tensor(data=[0]))[0], length)
    assert status == 400
    assert sentence.startswith("Inference-Header-Content-Length must be 0 to ")


def test_bytes_that_no_tensor_claims_are_refused() -> None:
    body, length = request(tensor(data=[0]), blob=b"xyz")
    assert refused(body, length) == (400, "3 bytes follow the JSON, but images has no binary_data_size")
    body, length = request(tensor(data=[0], parameters={"binary_data_size": 3}), blob=b"xyz")
    assert refused(body, length) == (400, "images has both data and binary_data_size")
    body, length = request(tensor(parameters={"binary_data_size": True}), blob=b"x")
    assert refused(body, length)[0] == 400


def test_too_many_images_are_413_before_their_data_are_looked_at() -> None:
    assert refused(request(tensor(shape=[9, 256, 256, 3]))[0]) == (413, "a request has at most 8 images, got 9")


def test_features_have_no_classes() -> None:
    wanted = {"name": "features", "parameters": {"classification": 2}}
    body, _ = request(tensor(data=[0]), outputs=[wanted])
    assert refused(body, None, FEATURES) == (400, "the model returns features of fc7, which have no classes")


def asked_for(**changes: object) -> Asked:
    return Asked(**({"images": ONE, "id": None, "is_binary": False, "num_classes": 0} | changes))  # type: ignore[arg-type]


def test_answers_hold_the_output_in_both_forms() -> None:
    rows = np.array([[0.5, 0.25, 0.125, 0.125], [0.1, 0.2, 0.3, 0.4]], np.float32)
    body, length = write_answer(asked_for(id="x"), rows, OUTPUT, LABELS, "m", "3")
    assert length is None
    answer = json.loads(body)
    (found,) = answer.pop("outputs")
    assert answer == {"model_name": "m", "model_version": "3", "id": "x"}
    assert np.array_equal(np.array(found.pop("data"), np.float32), rows.ravel())
    assert found == {"name": "probabilities", "datatype": "FP32", "shape": [2, 4]}
    body, length = write_answer(asked_for(is_binary=True), rows, OUTPUT, LABELS, "m", "3")
    assert length is not None
    (found,) = json.loads(body[:length])["outputs"]
    assert found["parameters"] == {"binary_data_size": 32}
    assert body[length:] == rows.tobytes()


def test_classes_are_written_as_triton_writes_them() -> None:
    rows = np.array([[0.25, 0.5, 0.25, 0.0]], np.float32)
    body, _ = write_answer(asked_for(num_classes=3), rows, OUTPUT, LABELS, "m", "1")
    (found,) = json.loads(body)["outputs"]
    assert (found["datatype"], found["shape"]) == ("BYTES", [1, 3])
    # Ties by index, as in predict.
    assert found["data"] == ["0.500000:1:b:b", "0.250000:0:a", "0.250000:2:ü"]
    body, length = write_answer(asked_for(num_classes=3, is_binary=True), rows, OUTPUT, LABELS, "m", "1")
    blob, texts = body[length:], []
    while blob:
        (size,) = struct.unpack_from("<I", blob)
        texts.append(blob[4 : 4 + size].decode())
        blob = blob[4 + size :]
    assert texts == found["data"]
