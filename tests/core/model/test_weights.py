import os
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy
from networks import saved, with_tensor

from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.model.labels import check_labels, decode_labels, encode_labels
from alexnet_deploy.core.model.network import network_from, tensors_of
from alexnet_deploy.core.model.preprocessing import Preprocessing
from alexnet_deploy.core.model.weights import AssumptionRecord, ImportRecord, Weights, load_weights


def header_of(weights: Weights, tmp_path: Path) -> dict[str, object]:
    """A header of format 1, which has no digests."""
    path = saved(weights, tmp_path / "whole.safetensors").path
    with safetensors.safe_open(path, framework="numpy") as file:
        header: dict[str, object] = msgspec.json.decode(file.metadata()["alexnet-deploy"])
    del header["tensors_sha256"], header["header_sha256"]
    return header | {"format_version": 1}


def test_weights_come_back_bit_for_bit(weights: Weights, tmp_path: Path) -> None:
    loaded = saved(weights, tmp_path / "w.safetensors").weights
    assert (loaded.architecture, loaded.preprocessing, loaded.labels) == (
        weights.architecture,
        weights.preprocessing,
        weights.labels,
    )
    for name, tensor in weights.tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], tensor)


def test_the_record_of_an_import_comes_back(weights: Weights, tmp_path: Path) -> None:
    record = ImportRecord(
        file="a.pth",
        sha256="0" * 64,
        format="torch checkpoint",
        assumptions=(AssumptionRecord(subject="mean", value="1, 2, 3", reason="as usual"),),
        referee="the file itself",
        num_images=16,
        max_error=1e-7,
        max_log_error=1e-6,
    )
    assert saved(replace(weights, origin=record), tmp_path / "a.safetensors").weights.origin == record
    assert saved(weights, tmp_path / "b.safetensors").weights.origin is None


def test_same_weights_make_the_same_file(weights: Weights, tmp_path: Path) -> None:
    assert saved(weights, tmp_path / "a.safetensors").sha256 == saved(weights, tmp_path / "b.safetensors").sha256


def test_network_gives_back_the_tensors_it_was_made_of(weights: Weights) -> None:
    tensors = tensors_of(network_from(weights.architecture, weights.tensors))
    assert list(tensors) == list(weights.architecture.tensor_shapes())
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, weights.tensors[name])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_value_that_is_no_number_is_refused_by_name(weights: Weights, value: float) -> None:
    broken = weights.tensors["conv3.weight"].copy()
    broken[0, 0, 1, 1] = value
    with pytest.raises(WeightsError, match=r"conv3\.weight holds 1 NaN or infinite value"):
        with_tensor(weights, "conv3.weight", broken)


def test_tensor_of_another_shape_is_refused_by_name(weights: Weights) -> None:
    with pytest.raises(WeightsError, match=r"fc6\.weight is \(2, 2\), the table needs"):
        with_tensor(weights, "fc6.weight", np.zeros((2, 2), np.float32))


def test_tensor_of_another_type_is_refused_by_name(weights: Weights) -> None:
    with pytest.raises(WeightsError, match=r"fc8\.bias must be float32, got float64"):
        with_tensor(weights, "fc8.bias", weights.tensors["fc8.bias"].astype(np.float64))


def test_missing_and_surplus_tensors_are_refused_by_name(weights: Weights) -> None:
    tensors = dict(weights.tensors)
    del tensors["conv1.bias"]
    with pytest.raises(WeightsError, match=r"conv1\.bias is missing"):
        replace(weights, tensors=tensors)
    with pytest.raises(WeightsError, match=r"conv9\.bias is \(1,\), the table needs none"):
        with_tensor(weights, "conv9.bias", np.zeros(1, np.float32))


def test_file_that_is_missing_damaged_or_no_weights_is_refused(weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        load_weights(tmp_path / "nothing.safetensors")
    with pytest.raises(WeightsError, match="it is a directory, not a regular file"):
        load_weights(tmp_path)
    whole = saved(weights, tmp_path / "w.safetensors").path.read_bytes()
    for number, data in enumerate((b"\x80\x02}q\x00.", whole[:100])):
        path = tmp_path / f"damaged{number}.safetensors"
        path.write_bytes(data)
        with pytest.raises(WeightsError, match=r"not a safetensors file, or a damaged one: .+ `alexnet-deploy import`"):
            load_weights(path)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match=r"safetensors: is empty; copy the file again$"):
        load_weights(path)
    path.write_bytes(whole[:-10])
    with pytest.raises(WeightsError, match=r"is truncated: its tensors take .+ header; copy the file again$"):
        load_weights(path)


def test_safetensors_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.numpy.save_file({"x": np.zeros(3, np.float32)}, path)
    with pytest.raises(WeightsError, match="not alexnet-deploy weights"):
        load_weights(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "format_version",
            5,
            "weights version 5 is newer than supported; this program reads weights version 1, 2, 3 and 4",
        ),
        ("format_version", 2, "the digest does not match"),
        ("header_sha256", "0" * 64, "its header has a digest, but format 1 has none"),
        ("architecture", {"name": "x"}, r"header cannot be read: .*\$\.architecture"),
        ("preprocessing", "none", r"header cannot be read: .*\$\.preprocessing"),
        ("labels", ["one"], "1 label for 4 classes"),
        ("surprise", 1, "header cannot be read: .*surprise"),
        ("labels", None, "header cannot be read: .*labels"),
    ],
)
def test_header_that_does_not_hold_what_it_must_is_refused(
    weights: Weights, tmp_path: Path, field: str, value: object, message: str
) -> None:
    header = header_of(weights, tmp_path)
    if value is None:
        del header[field]
    else:
        header[field] = value
    path = tmp_path / "edited.safetensors"
    text = msgspec.json.encode(header).decode()
    safetensors.numpy.save_file(dict(weights.tensors), path, {"alexnet-deploy": text})
    with pytest.raises(WeightsError, match=message):
        load_weights(path)


def test_failed_save_leaves_the_old_file(weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(weights, tmp_path / "w.safetensors").path
    before = path.read_bytes()

    def disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        replace(weights, tools={"other": "1"}).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("a",), "1 label for 2 classes"),
        (("a", "a"), "duplicate label 'a'"),
        (("a", ""), "not one line"),
        (("a", "b\nc"), "not one line"),
    ],
)
def test_labels_that_cannot_name_classes_are_refused(labels: tuple[str, ...], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        check_labels(labels, 2)


def test_a_label_that_comes_twice_is_found_among_many() -> None:
    labels = [f"class {number}" for number in range(200_000)]
    with pytest.raises(WeightsError, match="duplicate label 'class 199999'"):
        check_labels([*labels, labels[-1]], 200_001)


def test_labels_survive_their_file() -> None:
    labels = ("tench, Tinca tinca", "hen", "Ωmega", 'quote "d"')
    assert decode_labels(encode_labels(labels)) == labels
    with pytest.raises(WeightsError, match="not UTF-8"):
        decode_labels(b"\xff\n")


@pytest.mark.parametrize(
    "change", [{"mean": (300.0, 0.0, 0.0)}, {"scale": (0.0, 1.0, 1.0)}, {"scale": (float("nan"), 1.0, 1.0)}]
)
def test_preprocessing_that_makes_no_sense_is_refused(change: dict[str, tuple[float, float, float]]) -> None:
    sound = Preprocessing(resize="warp", channel_order="BGR", mean=(1.0, 2.0, 3.0), scale=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=r"mean|scale"):
        msgspec.structs.replace(sound, **change)
