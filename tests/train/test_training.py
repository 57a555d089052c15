import errno
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from networks import narrowed
from PIL import Image

from alexnet_deploy.core.drawing import draw_picture
from alexnet_deploy.core.errors import BackendError, DataError, TrainingError, UsageError
from alexnet_deploy.core.family import ARCHITECTURES
from alexnet_deploy.core.image import read_image
from alexnet_deploy.core.latest import get_latest
from alexnet_deploy.core.network import Network, cut, network_from, preprocess, tensors_of
from alexnet_deploy.core.preprocessing import ResizePolicy
from alexnet_deploy.core.views import views_by_name
from alexnet_deploy.core.weights import EpochMetrics, TrainingRecord, Weights, load_weights
from alexnet_deploy.train import dataset
from alexnet_deploy.train.dataset import PictureFolder, Survey
from alexnet_deploy.train.initialise import initialise
from alexnet_deploy.train.loop import BEST, LAST, METRICS, Progress, training_preprocessing
from alexnet_deploy.train.recipe import RECIPES, Initialisation, Recipe, recipe_by_name
from alexnet_deploy.train.run import choose_device, look_over, new_run_name, train_on

NARROW = narrowed(ARCHITECTURES["paper"])
RECIPE = Recipe(name="test", epochs=2, batch_size=4, learning_rate=0.005, patience=9)

RED, GREEN, BLUE, GREY = (200, 40, 30), (40, 180, 60), (30, 60, 190), (120, 120, 120)


def paint(root: Path, classes: Mapping[str, tuple[tuple[int, int, int], ...]], num_train: int = 5) -> Path:
    """Paint a folder: for each class a colour to train on and, where there is a second, another to validate on."""
    rng = np.random.default_rng(0)
    for name, colors in classes.items():
        for side, color, num in (("train", colors[0], num_train), ("val", colors[-1], 2)):
            (root / side / name).mkdir(parents=True)
            for number in range(num):
                pixels = np.clip(rng.normal(color, 12.0, (64, 64, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / side / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """Ten red and blue pictures to learn from."""
    return look_over(paint(tmp_path_factory.mktemp("honest"), {"blue": (BLUE,), "red": (RED,)}), NARROW)


@pytest.fixture(scope="module")
def contrary(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """The same with the classes exchanged in validation: what is learnt makes every guess wrong."""
    return look_over(paint(tmp_path_factory.mktemp("contrary"), {"blue": (BLUE, RED), "red": (RED, BLUE)}), NARROW)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A finished run with what was seen on the way."""

    directory: Path
    survey: Survey
    recipe: Recipe
    best: Weights
    last: Weights
    progress: list[Progress]
    after_epochs: list[Weights]
    """last.safetensors as it was after each epoch."""

    @property
    def epochs(self) -> tuple[EpochMetrics, ...]:
        return record_of(self.best).epochs


def record_of(weights: Weights) -> TrainingRecord:
    assert weights.training is not None
    return weights.training


def trained(survey: Survey, out: Path, *, num_workers: int = 0, **changes: int | float | str) -> Run:
    recipe = msgspec.structs.replace(RECIPE, **changes)
    progress, after_epochs = [], []

    def note(now: Progress) -> None:
        progress.append(now)
        if now.finished:
            after_epochs.append(load_weights(out / LAST).weights)

    path = train_on(survey, NARROW, recipe, out, num_workers=num_workers, on_progress=note)
    assert path == out / BEST
    return Run(
        directory=out,
        survey=survey,
        recipe=recipe,
        best=load_weights(path).weights,
        last=load_weights(out / LAST).weights,
        progress=progress,
        after_epochs=after_epochs,
    )


def at_step(number: int, act: Callable[[], None]) -> Callable[[Progress], None]:
    """Return what acts once, after so many steps; the ends of epochs do not count."""
    steps = []

    def count(now: Progress) -> None:
        if now.finished is None:
            steps.append(now)
            if len(steps) == number:
                act()

    return count


def interrupt() -> None:
    raise KeyboardInterrupt


def are_equal(one: Weights, other: Weights) -> bool:
    return all(np.array_equal(one.tensors[name], other.tensors[name]) for name in one.tensors)


@pytest.fixture(scope="module")
def plain(honest: Survey, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs of three steps each, the second of which guesses better."""
    run = trained(honest, tmp_path_factory.mktemp("plain") / "run", learning_rate=0.02)
    assert run.epochs[1].validation_top1 > run.epochs[0].validation_top1
    return run


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that learns to tell two drawn things apart."""
    root = tmp_path_factory.mktemp("learnt")
    for thing in ("hot-air balloon", "mountain bike"):
        for side, numbers in (("train", range(20)), ("val", range(20, 28))):
            (root / "drawn" / side / thing).mkdir(parents=True)
            for number in numbers:
                draw_picture(thing, number).save(root / "drawn" / side / thing / f"{number}.jpg", quality=90)
    return trained(look_over(root / "drawn", NARROW), root / "runs/one", epochs=8, batch_size=8, color_noise=0.0)


@pytest.fixture(scope="module")
def misled(contrary: Survey, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose validation only gets worse."""
    return trained(contrary, tmp_path_factory.mktemp("misled") / "run", epochs=8, patience=2)


# First values


@pytest.mark.parametrize("name", ["paper", "original"])
@pytest.mark.parametrize("how", ["kaiming", "paper"])
def test_first_values_have_the_deviation_of_their_layer(name: str, how: Initialisation) -> None:
    architecture = narrowed(ARCHITECTURES[name], divisor=4)
    network = Network(architecture)
    initialise(network, how, seed=0)
    for tensor_name, tensor in tensors_of(network).items():
        layer = tensor_name.split(".")[0]
        if tensor_name.endswith(".bias"):
            is_biased = how == "paper" and layer in ("conv2", "conv4", "conv5", "fc6", "fc7")
            np.testing.assert_array_equal(tensor, 1.0 if is_biased else 0.0)
            continue
        fan_in = math.prod(architecture.tensor_shapes()[tensor_name][1:])
        wanted = math.sqrt(2 / fan_in) if how == "kaiming" and layer != "fc8" else 0.01
        # Four deviations of what is estimated, for normal numbers.
        assert abs(tensor.std() / wanted - 1) < 4 / math.sqrt(2 * tensor.size), tensor_name
        assert abs(tensor.mean() / wanted) < 4 / math.sqrt(tensor.size), tensor_name
        beyond = (np.abs(tensor) > 2 * wanted).mean()
        assert abs(beyond - 0.0455) < 4 * math.sqrt(0.0455 * 0.9545 / tensor.size), tensor_name


def test_a_seed_gives_the_same_first_values_and_another_seed_others() -> None:
    first, again, other = (Network(NARROW) for _ in range(3))
    for network, seed in ((first, 1), (again, 1), (other, 2)):
        initialise(network, "kaiming", seed)
    for name, tensor in tensors_of(first).items():
        np.testing.assert_array_equal(tensors_of(again)[name], tensor)
        if name.endswith(".weight"):
            assert (tensors_of(other)[name] != tensor).mean() > 0.99


# The recipe


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": -0.1},
        {"learning_rate": math.nan},
        {"patience": 0},
        {"seed": -1},
        {"seed": 2**32},
        {"color_noise": -0.1},
        {"color_noise": math.nan},
        {"weight_decay": -1e-4},
        {"weight_decay": math.nan},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"momentum": math.nan},
    ],
)
def test_a_recipe_that_trains_nothing_is_refused(change: dict[str, int | float]) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        msgspec.structs.replace(RECIPE, **change)


@pytest.mark.parametrize(
    "change", [{"epochs": 1}, {"batch_size": 1}, {"patience": 1}, {"seed": 2**32 - 1}, {"momentum": 0.0}]
)
def test_a_recipe_at_its_bounds_is_taken(change: dict[str, int | float]) -> None:
    name, value = next(iter(change.items()))
    assert getattr(msgspec.structs.replace(RECIPE, **change), name) == value


def test_recipes_are_found_by_their_names_and_an_unknown_name_is_told_them() -> None:
    for name in RECIPES:
        assert recipe_by_name(name).name == name
    with pytest.raises(UsageError, match=r"'best' is no recipe; there are drawn, folder, paper$"):
        recipe_by_name("best")


# What the network is fed


def survey_of(mean: list[float], covariance: np.ndarray) -> Survey:
    folder = PictureFolder(root=Path("nowhere"), labels=("a", "b"), train=(), validation=())
    return Survey(folder=folder, excluded={}, sha256="", mean=np.array(mean), covariance=covariance)


def test_mean_and_scale_are_those_of_the_data() -> None:
    found = survey_of([100.1, 50.0, 25.0], np.array([[400.0, 9.0, 0.0], [9.0, 100.0, 1.0], [0.0, 1.0, 25.0]]))
    preprocessing = training_preprocessing("paper", RECIPE, found)
    np.testing.assert_allclose(preprocessing.mean, [100.1, 50.0, 25.0], rtol=1e-7)
    np.testing.assert_allclose(preprocessing.scale, [1 / 20, 1 / 10, 1 / 5], rtol=1e-7)
    assert (preprocessing.resize, preprocessing.channel_order) == ("shorter-side", "RGB")
    # In the order red, green, blue also where the network takes blue first.
    caffe = training_preprocessing("caffe", RECIPE, found)
    assert (caffe.mean, caffe.scale) == (preprocessing.mean, preprocessing.scale)
    assert (caffe.resize, caffe.channel_order) == ("warp", "BGR")


def test_as_in_the_paper_pixels_stay_on_0_to_255() -> None:
    found = survey_of([100.0, 50.0, 25.0], np.diag([400.0, 100.0, 25.0]))
    preprocessing = training_preprocessing("paper", msgspec.structs.replace(RECIPE, initialisation="paper"), found)
    assert preprocessing.mean == (100.0, 50.0, 25.0)
    assert preprocessing.scale == (1.0, 1.0, 1.0)


def test_a_channel_without_variation_is_not_divided_by_zero() -> None:
    preprocessing = training_preprocessing("paper", RECIPE, survey_of([255.0, 0.0, 9.0], np.diag([0.0, 400.0, 0.0])))
    np.testing.assert_allclose(preprocessing.scale, [1.0, 1 / 20, 1.0], rtol=1e-7)


def flat_folder(root: Path, colors: dict[str, tuple[int, int, int]]) -> Survey:
    for name, color in colors.items():
        for path in (root / "train" / name / "0.png", root / "train" / name / "1.png", root / "val" / name / "2.png"):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), color).save(path)
    return look_over(root, NARROW)


def fed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[np.ndarray]]:
    """Note every batch that a network is given from now on, (N, 3, H, W), in training and in validation."""
    batches: dict[str, list[np.ndarray]] = {"train": [], "validation": []}
    forward = Network.forward

    def note(network: Network, x: torch.Tensor) -> torch.Tensor:
        batches["train" if network.training else "validation"].append(x.numpy().copy())
        return forward(network, x)

    monkeypatch.setattr(Network, "forward", note)
    return batches


def planes(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale, each (3, 1, 1)."""
    mean, scale = (
        np.array(values)[:, None, None] for values in (run.best.preprocessing.mean, run.best.preprocessing.scale)
    )
    return mean, scale


def test_each_picture_is_shifted_as_a_whole_along_the_datas_own_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two greys: the only axis of the data's colours is the grey one.
    found = flat_folder(tmp_path / "data", {"dark": (100, 100, 100), "light": (140, 140, 140)})
    batches = fed(monkeypatch)
    run = trained(found, tmp_path / "run", epochs=6, color_noise=0.1)
    mean, scale = planes(run)
    shifts = []
    for views in batches["train"]:
        pixels = views / scale + mean
        np.testing.assert_allclose(pixels, np.broadcast_to(pixels[:, :1, :1, :1], pixels.shape), atol=1e-3)
        greys = pixels[:, 0, 0, 0]
        shifts += [*(greys - np.where(greys < 120, 100, 140))]
    # 24 draws; the data's deviation is 20, and a tenth of it 2.
    assert len(np.unique(shifts)) == 24
    assert 1.0 < np.std(shifts) < 3.0
    for views in batches["validation"]:
        np.testing.assert_allclose((views / scale + mean)[:, 0, 0, 0], [100, 140], atol=1e-3)


def test_without_colour_noise_training_takes_crops_and_validation_the_centre(
    honest: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = fed(monkeypatch)
    run = trained(honest, tmp_path / "run", epochs=1, color_noise=0.0)
    assert [len(batch) for batch in batches["train"]] == [4, 4, 2]
    mean, scale = planes(run)
    originals = [read_image(example.path, "shorter-side") for example in honest.folder.train]
    seen = []
    for views in batches["train"]:
        for view in np.rint(views / scale + mean).astype(np.uint8).transpose(0, 2, 3, 1):
            windows = [place_of(view, original) for original in originals]
            (place,) = [(number, window) for number, window in enumerate(windows) if window is not None]
            seen.append(place)
    # Every picture once, and not all from the same corner.
    assert sorted(number for number, _ in seen) == list(range(10))
    assert len({window for _, window in seen}) > 5
    assert [number for number, _ in seen] != list(range(10))
    (validation,) = batches["validation"]
    for example, view in zip(honest.folder.validation, validation, strict=True):
        expected = read_image(example.path, "shorter-side")[14 : 14 + 227, 14 : 14 + 227].transpose(2, 0, 1)
        np.testing.assert_allclose(view / scale + mean, expected, atol=1e-3)


def place_of(view: np.ndarray, original: np.ndarray) -> tuple[int, int, bool] | None:
    """Where this picture holds this view, None where it does not."""
    size = len(view)
    for mirrored in (False, True):
        upright = view[:, ::-1] if mirrored else view
        windows = np.lib.stride_tricks.sliding_window_view(original[: 256 - size + 3, :, 0], (3, size))
        for top, left in np.argwhere((windows == upright[:3, :, 0]).all(axis=(2, 3))):
            if np.array_equal(original[top : top + size, left : left + size], upright):
                return int(top), int(left), mirrored
    return None


# Learning


def test_the_loss_begins_at_ln_k_and_falls_and_the_classes_are_told_apart(learnt: Run) -> None:
    assert learnt.progress[0].loss == pytest.approx(math.log(2), abs=0.15)
    assert learnt.epochs[0].train_loss == pytest.approx(math.log(2), abs=0.15)
    assert learnt.epochs[-1].train_loss < 0.85 * learnt.epochs[0].train_loss
    assert min(metrics.validation_loss for metrics in learnt.epochs) < 0.7 * learnt.epochs[0].validation_loss
    assert max(metrics.validation_top1 for metrics in learnt.epochs) >= 0.9


def test_the_best_weights_measure_what_their_record_says(learnt: Run) -> None:
    record = record_of(learnt.best)
    labels, logits = validated(learnt)
    best = record.epochs[record.best_epoch - 1]
    confusion = np.zeros((2, 2), int)
    np.add.at(confusion, (labels, logits.argmax(axis=1)), 1)
    assert record.confusion == tuple(tuple(row) for row in confusion.tolist())
    assert best.validation_top1 == np.trace(confusion) / 16
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert best.validation_loss == pytest.approx(-np.log(shares[np.arange(16), labels]).mean(), rel=1e-4)
    assert best.validation_top5 == 1.0


def validated(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the best weights' logits, of the validation pictures, apart from the training loop."""
    examples = run.survey.folder.validation
    images = np.stack([read_image(example.path, "shorter-side") for example in examples])
    (center,) = views_by_name("center", 227)
    with torch.inference_mode():
        pixels = preprocess(torch.from_numpy(images), run.best.preprocessing)
        logits = network_from(run.best.architecture, run.best.tensors)(cut(pixels, center, 227)).numpy()
    return np.array([example.label for example in examples]), logits.astype(np.float64)


def test_with_more_than_five_classes_the_first_five_guesses_are_counted(tmp_path: Path) -> None:
    colors = (RED, GREEN, BLUE, GREY, (230, 220, 40), (240, 240, 240), (10, 10, 10))
    classes = {f"class {number}": (color,) for number, color in enumerate(colors)}
    run = trained(look_over(paint(tmp_path / "data", classes, num_train=1), NARROW), tmp_path / "run", epochs=1)
    labels, logits = validated(run)
    firsts = np.argsort(-logits, axis=1)[:, :5]
    top5 = (firsts == labels[:, None]).any(axis=1).mean()
    assert 0 < top5 < 1
    assert run.epochs[0].validation_top5 == top5


def test_progress_counts_pictures_and_the_end_of_an_epoch_carries_its_metrics(plain: Run) -> None:
    seen = [(now.epoch, now.num_images, now.finished is not None) for now in plain.progress]
    first = [(1, 4, False), (1, 8, False), (1, 10, False), (1, 10, True)]
    assert seen == first + [(2, 10 + num_images, is_end) for _, num_images, is_end in first]
    assert {now.total_images for now in plain.progress} == {20}
    assert tuple(now.finished for now in plain.progress if now.finished) == plain.epochs
    for number in (3, 7):
        assert plain.progress[number].loss == plain.progress[number - 1].loss == plain.epochs[number // 4].train_loss


def test_the_record_says_what_was_done(learnt: Run) -> None:
    for weights in (learnt.best, learnt.last):
        record = record_of(weights)
        assert record.recipe == msgspec.structs.asdict(learnt.recipe)
        assert record.data == str(learnt.survey.folder.root)
        assert record.data_sha256 == learnt.survey.sha256
        assert (record.num_train, record.num_validation, record.excluded) == (40, 16, {})
        assert record.device.startswith("cpu, ")
        assert not record.interrupted
        assert {"torch", "numpy", "alexnet-deploy"} <= weights.tools.keys()
        assert weights.labels == ("hot-air balloon", "mountain bike")
        assert weights.architecture == NARROW.with_num_classes(2)


# Files


@pytest.mark.parametrize("name", ["learnt", "misled"])
def test_metrics_has_a_line_an_epoch_and_they_are_the_records(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    lines = (run.directory / METRICS).read_bytes().splitlines()
    assert [msgspec.json.decode(line, type=EpochMetrics) for line in lines] == list(run.epochs)
    assert [metrics.epoch for metrics in run.epochs] == list(range(1, 9))
    assert record_of(run.last).epochs == run.epochs
    assert sorted(path.name for path in run.directory.iterdir()) == sorted([BEST, LAST, METRICS])


@pytest.mark.parametrize("name", ["learnt", "misled"])
def test_weights_are_the_best_epochs_and_last_the_newests(name: str, request: pytest.FixtureRequest) -> None:
    run: Run = request.getfixturevalue(name)
    best = min(run.epochs, key=lambda metrics: (-metrics.validation_top1, metrics.validation_loss)).epoch
    assert record_of(run.best).best_epoch == record_of(run.last).best_epoch == best
    assert are_equal(run.best, run.after_epochs[best - 1])
    assert are_equal(run.last, run.after_epochs[-1])
    assert not are_equal(run.after_epochs[0], run.after_epochs[1])


def test_where_validation_only_gets_worse_an_early_epoch_is_kept(misled: Run) -> None:
    record = record_of(misled.best)
    assert record.best_epoch < 4
    assert misled.epochs[-1].validation_top1 == 0.0
    assert len(record.epochs) == 8
    assert not are_equal(misled.best, misled.last)
    np.testing.assert_array_equal(np.sum(record.confusion, axis=1), [2, 2])


def test_a_finished_run_is_the_latest_of_its_folder(learnt: Run) -> None:
    assert get_latest(learnt.directory.parent, made_by="train") == learnt.directory


def test_pictures_that_could_not_be_read_are_in_the_record(tmp_path: Path) -> None:
    root = paint(tmp_path / os.fsdecode(b"data \xe9"), {"blue": (BLUE,), "red": (RED,)})
    (root / "train/red" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    run = trained(look_over(root, NARROW), tmp_path / "run", epochs=1)
    for weights in (run.best, run.last):
        assert record_of(weights).excluded == {r"train/red/caf\udce9.png": "empty"}
        assert record_of(weights).data.endswith(r"data \udce9")


# Repeatability


def test_a_seed_gives_the_same_weights_bit_for_bit_and_another_seed_others(
    honest: Survey, plain: Run, tmp_path: Path
) -> None:
    again, other = (trained(honest, tmp_path / f"run{seed}", learning_rate=0.02, seed=seed) for seed in (0, 1))
    assert are_equal(plain.last, again.last)
    assert are_equal(plain.best, again.best)
    assert not are_equal(plain.last, other.last)


def test_another_seed_and_another_epoch_give_other_views_in_another_order(
    honest: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # At this rate and without noise, what the network is fed is all that differs.
    batches = fed(monkeypatch)["train"]
    for seed in (0, 1):
        trained(
            honest, tmp_path / f"run{seed}", seed=seed, epochs=2, batch_size=10, learning_rate=1e-30, color_noise=0.0
        )
    assert len(batches) == 4
    reds = [tuple(view[0].mean() > 0 for view in batch) for batch in batches]
    assert len(set(reds)) == 4
    for number, batch in enumerate(batches):
        assert not any((batch == other).all(axis=(1, 2, 3)).any() for other in batches[:number])


def test_colour_noise_is_felt_and_flat_data_has_no_colours_to_shift_along(honest: Survey, tmp_path: Path) -> None:
    plain, noisy = (trained(honest, tmp_path / f"run {noise}", epochs=1, color_noise=noise) for noise in (0.0, 0.5))
    assert not are_equal(plain.last, noisy.last)
    flat = flat_folder(tmp_path / "flat", {"one": GREY, "two": GREY})
    assert not flat.covariance.any()
    plain, noisy = (trained(flat, tmp_path / f"flat {noise}", epochs=1, color_noise=noise) for noise in (0.0, 0.5))
    assert are_equal(plain.last, noisy.last)
    assert plain.best.preprocessing.scale == (1.0, 1.0, 1.0)
    assert np.isfinite(plain.epochs[0].train_loss)


def test_training_begins_with_the_first_values_of_its_seed(honest: Survey, tmp_path: Path) -> None:
    # At this rate no step moves a weight by as much as float32 can hold; a bias of 0 can be moved.
    run = trained(honest, tmp_path / "run", epochs=1, learning_rate=1e-30, seed=7)
    network = Network(NARROW.with_num_classes(2))
    initialise(network, "kaiming", seed=7)
    for name, first in tensors_of(network).items():
        np.testing.assert_allclose(run.last.tensors[name], first, rtol=0, atol=1e-25)


# In Python 3.12 and later, a process with threads is warned of its forks.
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_decoding_in_another_process_changes_no_bit(
    honest: Survey, plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(path: Path, resize: ResizePolicy) -> np.ndarray:
        (tmp_path / f"decoded in {os.getpid()}").touch()
        return read_image(path, resize)

    monkeypatch.setattr(dataset, "read_image", noted)
    run = trained(honest, tmp_path / "run", learning_rate=0.02, num_workers=1)
    assert are_equal(run.last, plain.last)
    # One process for training and one for validation, in each of two epochs.
    assert len(list(tmp_path.glob("decoded in *"))) == 4
    assert not (tmp_path / f"decoded in {os.getpid()}").exists()


# Steps


def test_weights_decay_and_biases_do_not(honest: Survey, tmp_path: Path) -> None:
    # One step from the same first values along the same gradient: what differs is the decay alone.
    decay, rate = 0.5, 0.001
    plain, decayed = (
        trained(
            honest,
            tmp_path / f"run {value}",
            epochs=1,
            batch_size=10,
            learning_rate=rate,
            weight_decay=value,
            initialisation="paper",
        ).last.tensors
        for value in (0.0, decay)
    )
    network = Network(NARROW.with_num_classes(2))
    initialise(network, "paper", RECIPE.seed)
    for name, first in tensors_of(network).items():
        if name.endswith(".bias"):
            np.testing.assert_array_equal(decayed[name], plain[name])
        else:
            # float32 carries 2^-24 of the weights, which reach 0.05, and of the step, which does too.
            np.testing.assert_allclose(decayed[name] - plain[name], -rate * decay * first, rtol=0, atol=1e-8)


def test_momentum_carries_a_step_into_the_next(honest: Survey, tmp_path: Path) -> None:
    one_step, two_steps = (
        [trained(honest, tmp_path / f"run {size} {m}", epochs=1, batch_size=size, momentum=m).last for m in (0.0, 0.9)]
        for size in (10, 5)
    )
    assert are_equal(*one_step)
    assert not are_equal(*two_steps)


def rates(run: Run) -> list[float]:
    return [metrics.learning_rate for metrics in run.epochs]


def expected_rates(run: Run) -> list[float]:
    """Divide by 10 whenever so many epochs in a row, `patience`, had no validation error under the least before."""
    rate, least, waited, expected = run.recipe.learning_rate, math.inf, 0, []
    for metrics in run.epochs:
        expected.append(rate)
        if (error := 1 - metrics.validation_top1) < least:
            least, waited = error, 0
        else:
            waited += 1
        if waited == run.recipe.patience:
            rate, waited = rate / 10, 0
    return expected


def test_the_rate_is_divided_by_10_after_as_many_epochs_without_a_better_error(misled: Run) -> None:
    # The first epochs guess one class, half of them right, and nothing after them is better.
    assert [metrics.validation_top1 for metrics in misled.epochs][:2] == [0.5, 0.5]
    np.testing.assert_allclose(rates(misled), [0.005] * 3 + [0.0005] * 2 + [0.00005] * 2 + [0.000005], rtol=1e-12)


def test_a_better_error_lets_the_rate_stand_and_a_better_loss_alone_does_not(honest: Survey, tmp_path: Path) -> None:
    better, waiting = (
        trained(honest, tmp_path / f"run {rate}", epochs=4, patience=1, learning_rate=rate) for rate in (0.02, 0.005)
    )
    for run in (better, waiting):
        np.testing.assert_allclose(rates(run), expected_rates(run), rtol=1e-12)
    assert better.epochs[1].validation_top1 > better.epochs[0].validation_top1
    assert rates(better)[2] == 0.02
    assert waiting.epochs[1].validation_top1 == waiting.epochs[0].validation_top1
    assert waiting.epochs[1].validation_loss < waiting.epochs[0].validation_loss - 0.01
    assert rates(waiting)[2] < 0.005


# Interruption


def test_an_interruption_in_the_first_epoch_leaves_the_weights_of_that_moment(honest: Survey, tmp_path: Path) -> None:
    out = tmp_path / "runs/one"
    with pytest.raises(KeyboardInterrupt):
        train_on(honest, NARROW, RECIPE, out, on_progress=at_step(2, interrupt))
    best, last = (load_weights(out / name).weights for name in (BEST, LAST))
    assert are_equal(best, last)
    for weights in (best, last):
        record = record_of(weights)
        assert (record.interrupted, record.epochs, record.best_epoch) == (True, (), 0)
    assert get_latest(out.parent, made_by="train") == out
    with pytest.raises(KeyboardInterrupt):
        train_on(honest, NARROW, RECIPE, tmp_path / "runs/two", on_progress=at_step(1, interrupt))
    assert not are_equal(load_weights(tmp_path / "runs/two" / LAST).weights, last)


def test_an_interruption_after_an_epoch_keeps_the_best_epochs_weights(
    honest: Survey, plain: Run, tmp_path: Path
) -> None:
    out = tmp_path / "runs/cut"
    with pytest.raises(KeyboardInterrupt):
        train_on(honest, NARROW, plain.recipe, out, on_progress=at_step(4, interrupt))
    best, last = (load_weights(out / name).weights for name in (BEST, LAST))
    assert are_equal(best, plain.after_epochs[0])
    assert not are_equal(best, last)
    for weights in (best, last):
        record = record_of(weights)
        assert (record.interrupted, len(record.epochs), record.best_epoch) == (True, 1, 1)
    assert len((out / METRICS).read_bytes().splitlines()) == 1
    assert get_latest(out.parent, made_by="train") == out


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("call", [1, 3])
def test_an_interruption_while_files_are_written_leaves_a_record_that_fits_its_weights(
    honest: Survey, plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epoch: int, call: int
) -> None:
    # Each file is written with two calls, itself and its directory: the first is in the best, the third in the last.
    out = tmp_path / "runs/cut"
    fsync, calls = os.fsync, []

    def interrupted(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == call:
            interrupt()
        fsync(descriptor)

    steps_an_epoch = 3
    arm = at_step(steps_an_epoch * epoch, lambda: monkeypatch.setattr(os, "fsync", interrupted))
    with pytest.raises(KeyboardInterrupt):
        train_on(honest, NARROW, plain.recipe, out, on_progress=arm)
    for name in (BEST, LAST):
        weights = load_weights(out / name).weights
        record = record_of(weights)
        assert record.interrupted == (len(record.epochs) < 2)
        assert len(record.epochs) == epoch
        if name == BEST:
            whole = plain.after_epochs[record.best_epoch - 1]
            assert are_equal(weights, whole)
            assert record.confusion == record_of(whole).confusion
    assert get_latest(out.parent, made_by="train") == out


# What stops training


def test_a_loss_that_is_no_number_stops_training_and_leaves_the_epochs_before(honest: Survey, tmp_path: Path) -> None:
    out = tmp_path / "run"
    kept: dict[str, bytes] = {}

    def keep(now: Progress) -> None:
        assert math.isfinite(now.loss)
        if now.finished:
            kept.update({path.name: path.read_bytes() for path in out.iterdir()})

    recipe = msgspec.structs.replace(RECIPE, epochs=9, batch_size=10, learning_rate=10.0)
    with pytest.raises(TrainingError) as caught:
        train_on(honest, NARROW, recipe, out, on_progress=keep)
    assert str(out) in str(caught.value)
    assert "a --lr under 10 may hold" in str(caught.value)
    assert kept
    assert {path.name: path.read_bytes() for path in out.iterdir()} == kept
    assert load_weights(out / BEST).weights.training is not None
    assert get_latest(tmp_path, made_by="train") == out


@pytest.mark.parametrize("batch_size", [4, 10])
def test_a_loss_that_is_no_number_in_the_first_epoch_leaves_nothing(
    honest: Survey, tmp_path: Path, batch_size: int
) -> None:
    # With ten pictures a step, it is the validation after the first step that shows it.
    recipe = msgspec.structs.replace(RECIPE, batch_size=batch_size, learning_rate=1e30)
    losses: list[float] = []
    with pytest.raises(TrainingError, match=r"in epoch 1; a --lr under 1e\+30 may hold$"):
        train_on(honest, NARROW, recipe, tmp_path / "run", on_progress=lambda now: losses.append(now.loss))
    assert losses
    assert all(map(math.isfinite, losses))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_in_a_sentence_and_leaves_the_older_files(
    honest: Survey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    kept: dict[str, bytes] = {}

    def disk_full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill(now: Progress) -> None:
        if now.finished:
            kept.update({name: (out / name).read_bytes() for name in (BEST, LAST)})
            monkeypatch.setattr(os, "fsync", disk_full)

    with pytest.raises(TrainingError) as caught:
        train_on(honest, NARROW, RECIPE, out, on_progress=fill)
    assert str(caught.value) == f"{out}: could not be written: No space left on device"
    assert {path.name for path in out.iterdir()} == {BEST, LAST, METRICS}
    for name, data in kept.items():
        assert (out / name).read_bytes() == data


def test_a_picture_that_vanishes_while_training_is_named(tmp_path: Path) -> None:
    root = paint(tmp_path / "data", {"blue": (BLUE,), "red": (RED,)})
    vanish = at_step(3, (root / "train/red/3.png").unlink)
    with pytest.raises(DataError, match=r"train/red/3\.png: could be read before, and now cannot"):
        train_on(look_over(root, NARROW), NARROW, RECIPE, tmp_path / "run", on_progress=vanish)
    assert len(record_of(load_weights(tmp_path / "run" / BEST).weights).epochs) == 1


def test_a_directory_that_exists_or_cannot_be_made_is_refused(honest: Survey, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    with pytest.raises(TrainingError, match=r"taken: cannot be made: File exists$"):
        train_on(honest, NARROW, RECIPE, taken)
    assert list(tmp_path.rglob("*")) == [taken]
    taken.rmdir()
    taken.write_bytes(b"a file")
    with pytest.raises(TrainingError, match=r"run: cannot be made: Not a directory$"):
        train_on(honest, NARROW, RECIPE, taken / "run")
    assert taken.read_bytes() == b"a file"


def test_a_device_that_is_unknown_is_refused(honest: Survey, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'tpu' is no device to train on; there are cpu, cuda"):
        train_on(honest, NARROW, RECIPE, tmp_path / "run", device="tpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, which is what this asks for")
def test_cuda_without_a_cuda_device_is_refused(honest: Survey, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="cuda was asked for, and torch finds no CUDA device"):
        train_on(honest, NARROW, RECIPE, tmp_path / "run", device="cuda")
    assert list(tmp_path.iterdir()) == []


# Names


def test_a_device_that_is_named_is_kept_and_auto_takes_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [choose_device(name) for name in ("cpu", "cuda", "tpu")] == ["cpu", "cuda", "tpu"]
    for is_there, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda is_there=is_there: is_there)
        assert choose_device("auto") == expected


def test_a_run_is_named_after_its_table_and_the_time() -> None:
    name, day, time = new_run_name(NARROW).split("-")
    assert (name, len(day), len(time)) == ("paper", 8, 6)
    assert (day + time).isdigit()
