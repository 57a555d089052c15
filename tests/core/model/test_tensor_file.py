import os
import random
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from networks import saved

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.core.model.tensor_file import TensorFile, TensorFileError, open_tensors
from alexnet_deploy.core.model.weights import Weights, load_weights


def with_header(header: dict[str, object], data: bytes) -> bytes:
    text = msgspec.json.encode(header)
    return len(text).to_bytes(8, "little") + text + data


def read(path: Path, content: bytes) -> dict[str, np.ndarray]:
    path.write_bytes(content)
    with open_tensors(path) as file:
        return dict(file.read("").tensors)


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_it_reads_what_the_safetensors_package_writes(tmp_path: Path) -> None:
    tensors = {
        "a.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "step": np.array(7, np.float32),
        "b": np.ones(5, np.float32),
    }
    found = read(tmp_path / "x", safetensors.numpy.save(tensors, {"key": "text"}))
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(found[name], tensor)
        assert found[name].shape == tensor.shape


@pytest.mark.parametrize("seed", range(200))
def test_it_reads_a_damaged_file_as_the_safetensors_package_does_or_not_at_all(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    tensors = {name: np.arange(size, dtype=np.float32) for name, size in (("a", 4), ("b", 6))}
    data = bytearray(safetensors.numpy.save(tensors, {"key": "text"}))
    for _ in range(chance.choice((1, 2))):
        data[chance.randrange(len(data) - 40)] = chance.choice(b'0123456789 ,[]{}":F\n\0\xff')
    try:
        found = read(tmp_path / "x", bytes(data))
    except TensorFileError:
        return
    expected = safetensors.numpy.load(bytes(data))
    assert {name: tensor.tobytes() for name, tensor in found.items()} == {
        name: tensor.tobytes() for name, tensor in expected.items()
    }


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F8_E4M3", "F4", "I32", "F64"])
def test_another_number_format_is_refused_by_name(dtype: str, tmp_path: Path) -> None:
    with pytest.raises(TensorFileError, match=f"^conv1 must be F32, got {dtype}$"):
        read(tmp_path / "x", with_header({"conv1": entry([2], 0, 8, dtype)}, b"\0" * 8))


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"a": entry([2], 0, 4)}, r"a: shape \(2,\) does not match its bytes 0 to 4"),
        ({"a": entry([1], 4, 8)}, r"a: shape \(1,\) does not match its bytes 4 to 8"),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, "b: shape"),
        ({"a": entry([1], 0, 4)}, "its tensors take 4 bytes, but 8 follow the header"),
        ({"a": entry([3], 0, 12)}, "its tensors take 12 bytes, but 8 follow the header"),
        # In 64 bits these products overflow to 0 and 2.
        ({"a": entry([2**32, 2**32], 0, 8)}, "does not match its bytes 0 to 8"),
        ({"a": entry([2**63 + 1, 2], 0, 8)}, "does not match its bytes 0 to 8"),
        ({"a": entry([-1, -2], 0, 8)}, "does not match its bytes 0 to 8"),
        ({"a": entry([0], 0, 0), "b": entry([2], 0, 8)}, "a: shape"),
        ({"a": entry([2] * 9, 0, 8)}, "does not match its bytes 0 to 8"),
        ({"a": {"dtype": "F32"}}, "header cannot be read: .*shape"),
        ({"a": 7}, "header cannot be read: Expected `object`"),
    ],
)
def test_tensors_that_do_not_fill_the_file_are_refused(
    header: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(TensorFileError, match=sentence):
        read(tmp_path / "x", with_header(header, b"\0" * 8))


def test_a_header_that_no_parser_can_take_is_refused(tmp_path: Path) -> None:
    for text in (
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000,
        b"\xff{}",
        b"{}\n",
    ):
        with pytest.raises(TensorFileError, match="header"):
            read(tmp_path / "x", len(text).to_bytes(8, "little") + text)
    number = b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,4]}}'
    with pytest.raises(TensorFileError, match="header cannot be read"):
        read(tmp_path / "x", len(number).to_bytes(8, "little") + number + b"\0" * 4)


def test_sizes_are_bounded_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    header = with_header({"a": entry([1 << 34], 0, 1 << 36)}, b"")
    path.write_bytes(header)
    os.truncate(path, len(header) + (1 << 36))
    too_large = r"take 68,719,476,736 bytes, the limit is 8,589,934,592"
    with pytest.raises(TensorFileError, match=too_large), open_tensors(path):
        pass
    path.write_bytes((1 << 32).to_bytes(8, "little"))
    os.truncate(path, 1 << 34)
    with pytest.raises(TensorFileError, match="header has more than 100,000,000 bytes"), open_tensors(path):
        pass


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(OSError, match="it is a pipe, not a regular file"), open_tensors(tmp_path / "x"):
        pass


def test_a_damaged_byte_of_a_weights_header_is_refused(weights: Weights, tmp_path: Path) -> None:
    good = saved(weights, tmp_path / "w.safetensors").path.read_bytes()
    chance, num_header_bytes = random.Random(0), 8 + int.from_bytes(good[:8], "little")
    for place in {*range(40), *chance.sample(range(num_header_bytes), 600)}:
        damaged = bytearray(good)
        damaged[place] ^= chance.randrange(1, 256)
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(WeightsError):
            load_weights(tmp_path / "damaged")


def test_a_damaged_byte_of_a_tensor_is_refused(weights: Weights, tmp_path: Path) -> None:
    path = saved(weights, tmp_path / "w.safetensors").path
    damaged = bytearray(path.read_bytes())
    damaged[-2] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(
        WeightsError, match=r"its tensors have changed since they were saved: SHA-256 was \w{12}, now \w{12}"
    ):
        load_weights(path)


def test_weights_of_format_1_have_no_digests_and_are_read(weights: Weights, tmp_path: Path) -> None:
    path = saved(weights, tmp_path / "w.safetensors").path
    with safetensors.safe_open(path, framework="numpy") as file:
        header = msgspec.json.decode(file.metadata()["alexnet-deploy"])
    del header["header_sha256"], header["tensors_sha256"]
    text = msgspec.json.encode(header | {"format_version": 1}).decode()
    safetensors.numpy.save_file(dict(weights.tensors), path, {"alexnet-deploy": text})
    loaded = load_weights(path)
    assert loaded.sha256 == sha256(path.read_bytes())
    assert (loaded.weights.labels, loaded.weights.preprocessing) == (weights.labels, weights.preprocessing)
    # A damaged version field must not turn a newer file into one of a format without digests.
    text = msgspec.json.encode(header | {"format_version": 1, "header_sha256": "0" * 64}).decode()
    safetensors.numpy.save_file(dict(weights.tensors), path, {"alexnet-deploy": text})
    with pytest.raises(WeightsError, match="its header has a digest, but format 1 has none"):
        load_weights(path)


def test_the_digest_is_of_the_bytes_that_were_parsed(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another file replaces the weights between any two accesses."""
    path = saved(weights, tmp_path / "w.safetensors").path
    digest, whole_read = sha256(path.read_bytes()), TensorFile.read

    def exchange(file: TensorFile, tensors_sha256: str) -> object:
        (tmp_path / "other").write_bytes(b"another file")
        (tmp_path / "other").replace(path)
        return whole_read(file, tensors_sha256)

    monkeypatch.setattr(TensorFile, "read", exchange)
    loaded = load_weights(path)
    assert path.read_bytes() == b"another file"
    assert loaded.sha256 == digest
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(loaded.weights.tensors[name], tensor)
