"""Models of DIGITS: archives and folders, read, recognised and proved."""

from pathlib import Path

import pytest
from foreign_caffe import digits_files, write_caffe, write_tar
from foreign_torch import same
from networks import LABELS, narrowed, separating_weights

from alexnet_deploy.core.errors import ParityError, WeightsError
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import View
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.proof import prove
from alexnet_deploy.export.importing.recognise import Recognised, recognise
from alexnet_deploy.export.importing.registry import find_format
from alexnet_deploy.pipeline.pretrained.importing import assumption_words, understand, weights_of


@pytest.fixture(scope="module")
def caffe() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["caffe"]))


@pytest.fixture
def files(caffe: Weights, tmp_path: Path) -> dict[str, bytes]:
    return digits_files(caffe, tmp_path)


def recognised(path: Path, **overrides: object) -> Recognised:
    asked = Overrides(**overrides)  # type: ignore[arg-type]
    return recognise(complete(find_format(path).reader.read(path), asked), asked)


def unpacked(path: Path, files: dict[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


@pytest.mark.parametrize("kind", ["w", "w:gz", "folder"])
def test_a_model_is_read_bit_for_bit_and_proved(
    kind: str, caffe: Weights, files: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "x"
    if kind == "folder":
        unpacked(path, files)
    else:
        write_tar(path, files, kind)  # type: ignore[arg-type]
    found = weights_of(understand(path, Overrides()))
    assert same(found.tensors, caffe.tensors)
    assert found.architecture.layers == caffe.architecture.layers
    assert found.labels == LABELS
    assert (found.preprocessing.channel_order, found.preprocessing.resize) == ("BGR", "warp")
    assert found.preprocessing.mean == (124.0, 117.0, 104.0)
    assert found.origin is not None
    words = "folder" if kind == "folder" else "archive"
    assert found.origin.format == f"DIGITS {words} (Caffe, snapshot_iter_300.caffemodel)"
    assert (found.origin.num_images, found.origin.max_error <= 1e-5) == (16, True)


def test_the_text_decides_the_order_of_layers(files: dict[str, bytes], tmp_path: Path) -> None:
    other = separating_weights(narrowed(ARCHITECTURES["caffenet"]))
    text = digits_files(other, tmp_path)["deploy.prototxt"]
    write_tar(tmp_path / "x", files | {"deploy.prototxt": text})
    assert recognised(tmp_path / "x").architecture.layers == other.architecture.layers


def test_what_info_json_says_is_taken_and_the_rest_is_assumed(caffe: Weights, tmp_path: Path) -> None:
    info: dict[str, object] = {"image resize mode": "crop", "image dimensions": [240, 240, 3]}
    write_tar(tmp_path / "x", digits_files(caffe, tmp_path, info=info))
    found = recognised(tmp_path / "x")
    assert found.preprocessing.resize == "shorter-side"
    resized = "info.json says 240 x 240, to which images are not resized here"
    because = "(as DIGITS has it unless told otherwise)"
    assert [assumption_words(one) for one in found.assumptions] == [
        f"assumed: image size 256 x 256 before the crop ({resized})",
        f"assumed: channel order BGR {because}; override with --channel-order",
        f"assumed: scale 1, 1, 1 {because}; override with --scale",
    ]
    write_tar(tmp_path / "x", digits_files(caffe, tmp_path, info={"image resize mode": "half_crop"}))
    with pytest.raises(WeightsError, match="x: was trained on images resized by 'half_crop', which is not supported"):
        recognised(tmp_path / "x")


def test_of_several_snapshots_the_latest_or_the_named_is_taken(files: dict[str, bytes], tmp_path: Path) -> None:
    later = separating_weights(narrowed(ARCHITECTURES["caffe"]), seed=1)
    write_caffe(tmp_path / "later", later, 2)
    del files["info.json"]
    folder = unpacked(tmp_path / "x", files)
    (folder / "snapshot_iter_1200.caffemodel").write_bytes((tmp_path / "later").read_bytes())
    found = recognised(folder)
    assert same(found.tensors, later.tensors)
    assert "assumed: snapshot snapshot_iter_1200.caffemodel (of 2 models, it trained for longest)" in [
        assumption_words(one) for one in found.assumptions
    ]
    (folder / "info.json").write_text('{"snapshot file": "snapshot_iter_300.caffemodel"}')
    assert not same(recognised(folder).tensors, later.tensors)
    (folder / "info.json").write_text('{"snapshot file": "snapshot_iter_500.caffemodel"}')
    (about, *_) = recognised(folder).assumptions
    assert about.reason == (
        "of 2 models, it trained for longest; info.json names snapshot_iter_500.caffemodel, which is missing"
    )


def test_models_without_an_order_are_not_chosen_from(files: dict[str, bytes], tmp_path: Path) -> None:
    model = files.pop("snapshot_iter_300.caffemodel")
    write_tar(tmp_path / "x", files | {"b.caffemodel": model, "a.caffemodel": model})
    said = r"x: holds 2 models, and neither info\.json nor their names \(_iter_N\) say .*; keep one of them"
    with pytest.raises(WeightsError, match=said):
        recognised(tmp_path / "x")
    # One model needs no order.
    write_tar(tmp_path / "x", files | {"b.caffemodel": model})
    assert recognised(tmp_path / "x").labels == LABELS


def test_class_names_are_read_as_people_write_them(files: dict[str, bytes], tmp_path: Path) -> None:
    write_tar(tmp_path / "x", files | {"labels.txt": "\ufeffKäse, alt\r\nb\r\nc\r\nd\r\n\r\n".encode()})
    assert recognised(tmp_path / "x").labels == ("Käse, alt", "b", "c", "d")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("deploy.prototxt", None, "is not a model of DIGITS: deploy.prototxt is missing"),
        ("snapshot_iter_300.caffemodel", None, "is not a model of DIGITS: it has no .caffemodel"),
        ("snapshot_iter_300.caffemodel", b"", "its snapshot_iter_300.caffemodel is empty"),
        ("snapshot_iter_300.caffemodel", b"\x0a\xff", "its model is not a Caffe model, or is damaged"),
        ("deploy.prototxt", b"layers { name: 'a' type: RELU }", r"deploy.prototxt has layers of Caffe's V1 \(`layers"),
        ("deploy.prototxt", b"name: 'a'", r"deploy.prototxt has 0 layers \(`layer {`\)"),
        ("deploy.prototxt", b"layer {", "deploy.prototxt is damaged, or is not a network's text"),
        ("deploy.prototxt", b"\xff", "deploy.prototxt is damaged, or is not a network's text"),
        ("labels.txt", b"\xff\n", "its labels.txt: the labels are not UTF-8"),
        ("labels.txt", b"one\n", "1 label for 4 classes; name the classes with --labels"),
        ("info.json", b"[", "its info.json is damaged"),
        ("mean.binaryproto", b"\xff", "its mean.binaryproto: is not a mean image"),
        ("mean.binaryproto", b"\x08\x01\x10\x01\x18\x01\x20\x01\x2a\x04abcd", "its mean.binaryproto: has the shape"),
    ],
)
def test_a_missing_or_damaged_file_is_named(
    name: str, content: bytes | None, message: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    del files[name]
    write_tar(tmp_path / "x", files if content is None else files | {name: content})
    with pytest.raises(WeightsError, match=f"x: {message}"):
        recognised(tmp_path / "x")


def test_a_text_and_a_model_that_do_not_fit_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    text = files["deploy.prototxt"]
    write_tar(tmp_path / "x", files | {"deploy.prototxt": text.replace(b"kernel_size: 11", b"kernel_size: 9")})
    with pytest.raises(WeightsError, match=r"x: conv1: has weights of shape .* not what deploy\.prototxt says of it"):
        recognised(tmp_path / "x")
    write_tar(tmp_path / "x", files | {"deploy.prototxt": text.replace(b'"conv3"', b'"conv3_new"')})
    with pytest.raises(WeightsError, match=r"x: conv3_new: is in deploy\.prototxt, but the model has no weights"):
        recognised(tmp_path / "x")


def test_two_files_of_one_name_are_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    write_tar(tmp_path / "x", files | {"folder/labels.txt": b"a\n"})
    with pytest.raises(WeightsError, match=r"x: holds two files called labels\.txt"):
        recognised(tmp_path / "x")


def test_a_crop_off_by_one_fails_by_name(files: dict[str, bytes], tmp_path: Path) -> None:
    write_tar(tmp_path / "x", files)
    right, referee = recognised(tmp_path / "x"), find_format(tmp_path / "x").referee
    assert prove(right, referee).holds
    with pytest.raises(ParityError, match=r"; they agree with a crop at 14 for 15$"):
        prove(right, referee, view=View(top=15, left=15, mirrored=False))
