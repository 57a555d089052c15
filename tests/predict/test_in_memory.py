"""Images in memory: run, decode, classify and predict."""

import io
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from commands import HANGS_AFTER_S
from PIL import Image, ImageOps

import alexnet_deploy
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import BackendError, ImageError, ImageErrorCode, UsageError
from alexnet_deploy.core.images.decode import DecodeLimits, convert_image, decode_image
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.engines.registry import Backend
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.predictor import Predictor, load


@pytest.fixture(scope="module")
def predictor(bundle: Bundle) -> Iterator[Predictor]:
    with load(bundle.path) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def encoded(images: Path) -> bytes:
    return (images / "a.jpg").read_bytes()


def probabilities(prediction: Prediction) -> list[float]:
    return [guess.probability for guess in sorted(prediction.top, key=lambda guess: guess.index)]


def test_run_reproduces_the_golden_probabilities(predictor: Predictor, bundle: Bundle) -> None:
    golden = bundle.manifest.golden
    found = predictor.run(bundle.read_tensor(golden.images))
    assert found.dtype == np.float32
    assert np.abs(found - bundle.read_tensor(golden.probabilities)).max() <= golden.tolerance.probability


def test_decode_and_run_give_the_same_as_predict(predictor: Predictor, images: Path) -> None:
    paths = sorted(images.iterdir())[:3]
    batch = np.stack([predictor.decode(path) for path in paths])
    assert (batch.dtype, batch.shape) == (np.uint8, (3, 256, 256, 3))
    for row, found in zip(predictor.predict(paths, batch_size=3), predictor.run(batch), strict=True):
        assert probabilities(row) == pytest.approx(found.tolist(), abs=1e-6)


def test_the_same_image_in_every_form_has_the_same_prediction(predictor: Predictor, images: Path) -> None:
    path = images / "a.jpg"
    data = path.read_bytes()
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    forms = [path, str(path), data, bytearray(data), memoryview(data), Image.open(path), pixels, pixels[None]]
    (expected,) = predictor.predict(path, batch_size=1)
    for form in forms:
        (row,) = predictor.predict(form, batch_size=1)
        assert row.top == expected.top, type(form)
        assert predictor.classify(form).top == expected.top, type(form)


def test_predictions_are_in_input_order(predictor: Predictor, images: Path) -> None:
    opened = [Image.open(images / f"{name}.jpg") for name in "abcd"]
    arrays = np.stack([np.asarray(image.resize((300, 260))) for image in opened])
    inputs = [opened[0], str(images / "[bc].jpg"), arrays, b"", images / "d.jpg", opened[1].tobytes()[:50]]
    rows = list(predictor.predict(iter(inputs), batch_size=3))
    names = ["#0", f"{images}/b.jpg", f"{images}/c.jpg", "#1", "#2", "#3", "#4", "#5", f"{images}/d.jpg", "#6"]
    assert [row.path for row in rows] == names
    assert [row.error for row in rows[7:]] == [ImageErrorCode.EMPTY, None, ImageErrorCode.NOT_AN_IMAGE]
    alone = [predictor.classify(array) for array in arrays]
    for row, single in zip(rows[3:7], alone, strict=True):
        assert [guess.index for guess in row.top] == [guess.index for guess in single.top]
        assert probabilities(row) == pytest.approx(probabilities(single), abs=1e-6)


def test_a_reused_buffer_changes_no_prediction(predictor: Predictor, images: Path) -> None:
    frames = [np.asarray(Image.open(images / f"{name}.jpg")) for name in "abcdef"]
    buffer = np.empty_like(frames[0])

    def film() -> Iterator[np.ndarray]:
        for frame in frames:
            buffer[:] = frame
            yield buffer

    rows = list(predictor.predict(film(), batch_size=1))
    assert [row.top for row in rows] == [predictor.classify(frame).top for frame in frames]


def test_a_stream_of_images_is_not_read_far_ahead(predictor: Predictor) -> None:
    taken = 0

    def film() -> Iterator[np.ndarray]:
        nonlocal taken
        while True:
            taken += 1
            yield np.full((256, 256, 3), taken % 256, dtype=np.uint8)

    rows = predictor.predict(film(), batch_size=2)
    for used in range(1, 6):
        assert next(rows).ok
        assert taken <= used + (1 + 2 * (predictor.info.num_streams + 1)) * 2 + 1
    rows.close()


# Conversion of PIL images


def saved(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **{"format": "PNG", **options})  # type: ignore[arg-type]
    return file.getvalue()


def odd_images() -> dict[str, bytes]:
    draws = np.random.default_rng(3)
    rgb = draws.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    grey = Image.fromarray(rgb[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    few = Image.fromarray(rgb[..., 0] // 85 * 85).convert("P")
    return {
        "upright by EXIF": saved(Image.fromarray(rgb), format="JPEG", exif=exif),
        "CMYK": saved(Image.fromarray(rgb).convert("CMYK"), format="JPEG"),
        "alpha": saved(Image.fromarray(draws.integers(0, 256, (40, 60, 4), dtype=np.uint8))),
        "grey and alpha": saved(Image.fromarray(rgb[..., :2].copy(), mode="LA")),
        "16 bits": saved(Image.fromarray(draws.integers(0, 65536, (40, 60), dtype=np.uint16))),
        "1 bit": saved(grey.convert("1")),
        "palette with a colour key": saved(few, transparency=85),
        "colour key": saved(Image.fromarray(rgb), transparency=tuple(int(value) for value in rgb[3, 4])),
        "zero is white, 16 bits": saved(
            Image.fromarray(draws.integers(0, 65536, (40, 60), dtype=np.uint16)), format="TIFF", tiffinfo={262: 0}
        ),
    }


@pytest.mark.parametrize("kind", odd_images())
@pytest.mark.parametrize("is_read", [False, True])
@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_a_pil_image_decodes_like_its_file(kind: str, is_read: bool, predictor: Predictor) -> None:
    data = odd_images()[kind]
    expected = decode_image(data, SHORTER_SIDE)
    image = Image.open(io.BytesIO(data))
    if is_read:
        image.load()
    for _ in range(2):
        assert np.array_equal(predictor.decode(image), expected)


def test_a_colour_key_of_four_bits_is_scaled_with_its_image() -> None:
    key_png = _four_bit_grey_png_with_key(5)
    with_key = decode_image(key_png, SHORTER_SIDE)
    image = Image.open(io.BytesIO(key_png))
    info = dict(image.info)
    assert np.array_equal(convert_image(image, SHORTER_SIDE), with_key)
    assert image.info == info
    assert (with_key == 255).any()


def _four_bit_grey_png_with_key(key: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes([key << 4 | 2] * 8) for _ in range(16))
    header = struct.pack(">IIBBBBB", 16, 16, 4, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"tRNS", struct.pack(">H", key))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_an_image_that_is_already_upright_is_not_rotated_again(predictor: Predictor) -> None:
    image = Image.open(io.BytesIO(odd_images()["upright by EXIF"]))
    turned = ImageOps.exif_transpose(image)
    assert np.array_equal(predictor.decode(turned), predictor.decode(image))


@pytest.mark.parametrize(
    ("held", "code"),
    [
        (b"", ImageErrorCode.EMPTY),
        (b"Dear reader", ImageErrorCode.NOT_AN_IMAGE),
        (Image.new("RGB", (0, 0)), ImageErrorCode.EMPTY),
        (Image.new("F", (9, 9)), ImageErrorCode.UNSUPPORTED_FORMAT),
        (Image.new("RGB", (300, 300)), ImageErrorCode.TOO_LARGE),
        (np.zeros((300, 300, 3), np.uint8), ImageErrorCode.TOO_LARGE),
        (np.zeros((0, 5, 3), np.uint8), ImageErrorCode.EMPTY),
    ],
    ids=["no bytes", "text", "no size", "float pixels", "large image", "large array", "no rows"],
)
def test_an_image_that_cannot_be_read_has_an_error_code(
    held: bytes | Image.Image | np.ndarray, code: str, predictor: Predictor
) -> None:
    limits = DecodeLimits(max_pixels=70_000)
    (row,) = predictor.predict([held], limits=limits)
    assert (row.path, row.error, row.top) == ("#0", code, ())
    assert row.message
    assert predictor.classify(held, limits=limits) == row
    with pytest.raises(ImageError) as raised:
        predictor.decode(held, limits=limits)
    assert raised.value.code == code


def test_a_cut_off_file_that_pil_has_opened_is_truncated(predictor: Predictor, encoded: bytes) -> None:
    image = Image.open(io.BytesIO(encoded[:2000]))
    assert predictor.classify(image).error == ImageErrorCode.TRUNCATED


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        (np.zeros((256, 256, 3), np.float32), r"must be uint8 .*, got float32 \(256, 256, 3\); multiply 0..1 by 255"),
        (np.zeros((256, 256, 3), np.int64), r"an array must be uint8 .*, got int64 \(256, 256, 3\)$"),
        (np.zeros((3, 256, 200), np.uint8), r"channels come last: array\.transpose\(1, 2, 0\)$"),
        (np.zeros((2, 3, 256, 200), np.uint8), r"channels come last: array\.transpose\(0, 2, 3, 1\)$"),
        (np.zeros((256, 256), np.uint8), r"for grey or alpha pass a PIL image: Image\.fromarray\(array\)$"),
        (np.zeros((256, 256, 4), np.uint8), r"for grey or alpha pass a PIL image"),
        (np.zeros((1, 1, 256, 256, 3), np.uint8), r"RGB, got uint8 \(1, 1, 256, 256, 3\)$"),
        (3.5, r"^an image must be a path, the bytes of an image file, a PIL image or an array, .*, got float$"),
        (None, r"^an image must be a path, .*, got NoneType$"),
    ],
)
def test_other_arrays_and_objects_are_refused_by_name(held: object, sentence: str, predictor: Predictor) -> None:
    with pytest.raises(UsageError, match=sentence):
        predictor.predict([held])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=sentence):
        predictor.classify(held)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=sentence):
        list(predictor.predict(item for item in [held]))  # type: ignore[misc]


def test_classify_takes_one_image(predictor: Predictor, images: Path) -> None:
    with pytest.raises(UsageError, match=r"expected one image, got an array \(2, 9, 9, 3\) of 2 images: use predict"):
        predictor.classify(np.zeros((2, 9, 9, 3), np.uint8))
    with pytest.raises(UsageError, match="topk 0 must be 1 or more"):
        predictor.classify(images / "a.jpg", topk=0)
    assert predictor.classify(images).error == ImageErrorCode.UNREADABLE
    assert predictor.classify(str(images / "*.jpg")).error == ImageErrorCode.MISSING
    assert len(predictor.classify(images / "a.jpg", topk=2).top) == 2


@pytest.mark.parametrize("wrong", [np.zeros((1, 256, 256, 3), np.float32), np.zeros((256, 256, 3), np.uint8)])
def test_run_refuses_arrays_outside_its_contract(wrong: np.ndarray, predictor: Predictor) -> None:
    with pytest.raises(UsageError, match=r"images must be uint8 \(N, 256, 256, 3\), got"):
        predictor.run(wrong)


# Servers


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_many_threads_may_run_and_classify_concurrently(backend: Backend, bundle: Bundle, images: Path) -> None:
    data = [path.read_bytes() for path in sorted(images.iterdir())]
    with load(bundle.path, backend) as predictor:
        arrays = np.stack([predictor.decode(one) for one in data])
        expected = [predictor.classify(one) for one in data]
        answers = predictor.run(arrays)
        together = threading.Barrier(8)

        def serve(number: int) -> None:
            together.wait(HANGS_AFTER_S)
            for offset in range(len(data)):
                index = (number + offset) % len(data)
                found = predictor.classify(data[index])
                assert probabilities(found) == pytest.approx(probabilities(expected[index]), abs=1e-6)
                some = [index, (index + 5) % len(data)]
                assert np.abs(predictor.run(arrays[some]) - answers[some]).max() <= 1e-6

        with ThreadPoolExecutor(8) as pool:
            for done in [pool.submit(serve, number) for number in range(8)]:
                done.result(300)
    with pytest.raises(BackendError, match="this engine is closed"):
        predictor.classify(data[0])
    with pytest.raises(BackendError, match="this engine is closed"):
        predictor.run(arrays)


def test_public_names_are_listed_by_dir_and_can_be_imported() -> None:
    assert alexnet_deploy.__all__ == dir(alexnet_deploy)
    assert alexnet_deploy.__all__ == sorted(alexnet_deploy.__all__)
    for name in alexnet_deploy.__all__:
        assert getattr(alexnet_deploy, name) is not None
    public = {name for name in dir(alexnet_deploy.Predictor) if not name.startswith("_")}
    assert public == {"classify", "close", "decode", "features", "info", "predict", "run"}
