"""Mean images: read from Caffe's files, kept exactly in weights and graphs, or reduced to three numbers."""

import io
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from commands import Run
from foreign_caffe import digits_files, mean_file, write_caffe, write_tar
from foreign_torch import same
from networks import narrowed, separating_weights, shipped
from onnx import numpy_helper
from PIL import Image

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import WeightsError
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.network import preprocess
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights, Weights, load_weights
from alexnet_deploy.engines.graph_guard import graph_problems
from alexnet_deploy.export.audit import audit_graph
from alexnet_deploy.export.calibration import pixel_range
from alexnet_deploy.export.graph import build_graph
from alexnet_deploy.export.importing.assume import Overrides
from alexnet_deploy.export.importing.readers.caffe.mean import read_mean_image
from alexnet_deploy.pipeline.pretrained.importing import understand, weights_of

DOWN, ACROSS = np.mgrid[:256, :256].astype(np.float32) / 255 - 0.5
RGB_MEANS = (123.0, 117.0, 104.0)
SLOPES = np.stack([20 * DOWN * ACROSS, 30 * ACROSS, 40 * DOWN])
"""What a pixel's mean is apart from its channel's, red, green, blue; no channel is symmetric in both directions."""
PICTURE = (np.array(RGB_MEANS, np.float32).reshape(3, 1, 1) + SLOPES).astype(np.float32)
"""Red, green, blue, height, width."""


@pytest.fixture(scope="module")
def caffe() -> Weights:
    return separating_weights(narrowed(ARCHITECTURES["caffe"]))


@pytest.fixture(scope="module")
def road(caffe: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    means = msgspec.structs.replace(caffe.preprocessing, mean=RGB_MEANS, has_mean_image=True)
    return shipped(replace(caffe, preprocessing=means, mean_image=PICTURE), tmp_path_factory.mktemp("road"))


def write_mean(path: Path, rgb: np.ndarray = PICTURE) -> Path:
    """Write a mean image as Caffe does, blue first: a BlobProto, or an array for a name that ends in .npy."""
    if path.suffix == ".npy":
        np.save(path, rgb[::-1])
    else:
        path.write_bytes(mean_file(rgb.transpose(1, 2, 0)))
    return path


@pytest.mark.parametrize("name", ["mean.binaryproto", "ilsvrc_2012_mean.npy"])
def test_an_imported_mean_image_is_subtracted_pixel_by_pixel(name: str, caffe: Weights, run: Run) -> None:
    write_caffe(Path("a.caffemodel"), caffe, 1)
    write_mean(Path(name))
    outcome = run("import", "a.caffemodel", "--mean", name, "--out", "runs/a")
    assert outcome.code == 0, outcome.err
    assert "assumed: mean" not in outcome.err
    weights = load_weights(Path("runs/a/weights.safetensors")).weights
    np.testing.assert_array_equal(weights.mean_image, PICTURE)
    assert weights.preprocessing.mean == pytest.approx(RGB_MEANS, abs=1e-4)
    images = golden_images()[:2]
    fed = preprocess(torch.from_numpy(images), weights.preprocessing, weights.mean_image).numpy()
    np.testing.assert_array_equal(fed, (images.transpose(0, 3, 1, 2) - PICTURE)[:, ::-1])


def test_the_mean_image_of_our_own_graph_comes_back_bit_for_bit(road: tuple[LoadedWeights, Bundle]) -> None:
    loaded, bundle = road
    back = weights_of(understand(bundle.path / "model.onnx", Overrides()))
    assert back.mean_image is not None
    assert back.mean_image.tobytes() == PICTURE.tobytes()
    assert same(back.tensors, loaded.weights.tensors)
    assert back.preprocessing.has_mean_image
    assert back.preprocessing.channel_order == "BGR"
    assert back.preprocessing.mean == pytest.approx(RGB_MEANS, abs=1e-4)


def test_our_own_graph_without_the_mean_image_that_it_mentions_is_refused(
    road: tuple[LoadedWeights, Bundle], tmp_path: Path
) -> None:
    graph = onnx.load(road[1].path / "model.onnx")
    (mean,) = (tensor for tensor in graph.graph.initializer if tensor.name == "mean")
    mean.CopyFrom(numpy_helper.from_array(np.zeros((1, 3, 1, 1), np.float32), "mean"))
    onnx.save(graph, tmp_path / "a.onnx")
    with pytest.raises(WeightsError, match="metadata of alexnet-deploy, but not the mean image that it mentions"):
        understand(tmp_path / "a.onnx", Overrides())


def test_channel_means_are_taken_on_request_and_the_difference_is_printed(caffe: Weights, run: Run) -> None:
    write_caffe(Path("a.caffemodel"), caffe, 1)
    write_mean(Path("mean.binaryproto"))
    outcome = run("import", "a.caffemodel", "--mean", "mean.binaryproto", "--mean-image", "channels", "--out", "runs/a")
    mean, most = np.abs(SLOPES).mean(), np.abs(SLOPES).max()
    assert (
        f"assumed: mean 123, 117, 104 (the channel means of mean.binaryproto; its pixels differ by {mean:.3g} on "
        f"average, {most:.3g} at most); override with --mean-image exact\n"
    ) in outcome.err
    weights = load_weights(Path("runs/a/weights.safetensors")).weights
    assert weights.mean_image is None
    assert weights.preprocessing.mean == pytest.approx(RGB_MEANS, abs=1e-4)


def test_a_mean_image_of_equal_pixels_is_three_numbers(caffe: Weights, run: Run) -> None:
    write_caffe(Path("a.caffemodel"), caffe, 1)
    write_mean(Path("mean.npy"), np.broadcast_to(np.float32(RGB_MEANS).reshape(3, 1, 1), (3, 256, 256)))
    assert run("import", "a.caffemodel", "--mean", "mean.npy", "--out", "runs/a").code == 0
    weights = load_weights(Path("runs/a/weights.safetensors")).weights
    assert (weights.mean_image, weights.preprocessing.mean) == (None, RGB_MEANS)


def test_a_mean_image_of_the_crop_s_size_is_refused_and_its_channel_means_are_not(caffe: Weights, run: Run) -> None:
    write_caffe(Path("a.caffemodel"), caffe, 1)
    write_mean(Path("mean.npy"), PICTURE[:, :227, :227])
    words = ("import", "a.caffemodel", "--mean", "mean.npy", "--out", "runs/a")
    assert run(*words).refused(2) == (
        "mean.npy: a mean image of 227 x 227 pixels, but it is subtracted from images of 256 x 256; "
        "--mean-image channels uses its three channel means"
    )
    assert run(*words, "--mean-image", "channels").code == 0


def test_the_mean_image_of_a_digits_archive_is_exact(caffe: Weights, run: Run) -> None:
    write_tar(Path("job.tar.gz"), digits_files(caffe, Path.cwd(), mean=PICTURE.transpose(1, 2, 0)))
    assert run("import", "job.tar.gz", "--out", "runs/a").code == 0
    weights = load_weights(Path("runs/a/weights.safetensors")).weights
    np.testing.assert_array_equal(weights.mean_image, PICTURE)
    assert run("import", "job.tar.gz", "--mean", "1,2,3", "--out", "runs/b").code == 0
    plain = load_weights(Path("runs/b/weights.safetensors")).weights
    assert (plain.mean_image, plain.preprocessing.mean) == (None, (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "has the shape"),
        (b"\xff" * 40, "is not a mean image"),
        (b"not a mean image at all", "is not a mean image"),
        (mean_file(PICTURE.transpose(1, 2, 0))[:-7], "is not a mean image"),
        (mean_file(np.full((4, 4, 3), np.nan, np.float32)), "holds NaN or infinite values"),
        (b"\x93NUMPY\x01\x00", "is not a .npy file, or is damaged"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4' ", "is not a .npy file, or is damaged"),
    ],
)
def test_a_file_that_is_no_mean_image_is_refused(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "mean").write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        read_mean_image(tmp_path / "mean")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((256, 256, 3), np.float32), "has the shape 256 x 256 x 3, expected 3 channels, height and width"),
        (np.zeros(3, np.float32), "has the shape 3, expected 3 channels"),
        (np.zeros((3, 4, 4), np.int64), "holds an array 3 x 4 x 4 of int64, expected floats"),
        (np.array([object()], object), "holds an array 1 of object, expected floats"),
    ],
)
def test_an_array_that_is_no_mean_image_is_refused(array: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", array, allow_pickle=True)
    with pytest.raises(WeightsError, match=message):
        read_mean_image(tmp_path / "mean.npy")


def test_a_declared_shape_is_not_allocated(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (3, 10**6, 10**6)})
    (tmp_path / "mean.npy").write_bytes(file.getvalue())
    with pytest.raises(WeightsError, match="has 0 bytes of values, which do not match its shape 3 x 1000000 x 1000000"):
        read_mean_image(tmp_path / "mean.npy")


def test_a_mean_that_is_neither_a_file_nor_numbers_is_named(caffe: Weights, run: Run) -> None:
    write_caffe(Path("a.caffemodel"), caffe, 1)
    said = run("import", "a.caffemodel", "--mean", "mean.npy").refused(2)
    assert said == "--mean mean.npy: there is no such file; expected three numbers or a mean image"


def test_weights_keep_their_mean_image_and_notice_its_loss(
    road: tuple[LoadedWeights, Bundle], tmp_path: Path, caffe: Weights
) -> None:
    weights = road[0].weights
    weights.save(tmp_path / "w")
    read = load_weights(tmp_path / "w").weights
    np.testing.assert_array_equal(read.mean_image, PICTURE)
    assert (read.preprocessing, read.tensors.keys()) == (weights.preprocessing, caffe.tensors.keys())
    for wrong in (None, PICTURE[:, :255], np.full_like(PICTURE, np.nan), PICTURE.astype(np.float64)):
        with pytest.raises(WeightsError, match=r"mean.image"):
            replace(weights, mean_image=wrong)
    with pytest.raises(WeightsError, match="differ in a mean image"):
        replace(caffe, mean_image=PICTURE)


def test_the_graph_is_held_against_the_weights_mean_image(road: tuple[LoadedWeights, Bundle]) -> None:
    loaded, bundle = road
    data, weights = bundle.read("model.onnx"), loaded.weights
    audited = (bundle.manifest, bundle.labels, weights.tensors, weights.mean_image)
    assert audit_graph(data, *audited) == ()
    assert audit_graph(data, bundle.manifest, bundle.labels) == ()
    assert list(graph_problems(data, bundle.manifest)) == []
    model = onnx.load_model_from_string(data)
    (mean,) = (tensor for tensor in model.graph.initializer if tensor.name == "mean")
    upside_down = numpy_helper.to_array(mean)[:, :, ::-1]
    mean.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(upside_down), "mean"))
    (problem,) = audit_graph(model.SerializeToString(), *audited)
    assert problem.startswith("mean: is ")
    mean.CopyFrom(numpy_helper.from_array(upside_down[:, :, :227].copy(), "mean"))
    assert "mean: its shape is [1, 3, 227, 256], the table says [1, 3, 256, 256]" in list(
        graph_problems(model.SerializeToString(), bundle.manifest)
    )


def test_a_large_mean_in_a_graph_without_a_mean_image_is_refused(
    road: tuple[LoadedWeights, Bundle], bundle: Bundle
) -> None:
    with_image = onnx.load_model_from_string(road[1].read("model.onnx"))
    (mean,) = (tensor for tensor in with_image.graph.initializer if tensor.name == "mean")
    model = onnx.load_model_from_string(bundle.read("model.onnx"))
    (place,) = (tensor for tensor in model.graph.initializer if tensor.name == "mean")
    place.CopyFrom(mean)
    problems = list(graph_problems(model.SerializeToString(), bundle.manifest))
    assert "mean: a constant that the table does not have" in problems
    assert "subtract_mean: a Sub that the table does not have" in problems


def test_golden_images_separate_every_fault_of_a_mean_image(road: tuple[LoadedWeights, Bundle]) -> None:
    separation = road[1].manifest.golden.separation
    for fault in ("mean dropped", "mean image averaged", "mean image upside down"):
        assert separation[fault] >= 10
    assert separation["mean image in the other channel order"] >= 10


def test_the_range_of_pixels_is_that_of_the_mean_image(road: tuple[LoadedWeights, Bundle]) -> None:
    weights = road[0].weights
    (center,) = views_by_name("center", 227)
    reached = max(np.abs(end - PICTURE).max() for end in (0, 255))
    assert pixel_range(build_graph(weights, [center]).graph) == pytest.approx(reached, rel=1e-6)
    assert reached > max(max(mean, 255 - mean) for mean in RGB_MEANS) + 1


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_mean_image_goes_the_whole_road(precision: str, road: tuple[LoadedWeights, Bundle], run: Run) -> None:
    loaded = road[0]
    images = Path("images")
    images.mkdir()
    for number, image in enumerate(golden_images()):
        Image.fromarray(image).save(images / f"{number}.png")
    calibrate = ("--calibrate", images, "--method", "minmax") if precision == "int8" else ()
    exported = run("export", loaded.path, "--precision", precision, *calibrate, "--out", "a.bundle")
    assert exported.code == 0, exported.err
    checked = run("check", "a.bundle", "--weights", loaded.path)
    assert checked.code == 0, checked.err
