import math
import os
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from networks import narrowed, renamed
from training import (
    NARROW,
    RECIPE,
    Run,
    fed,
    flat_folder,
    trained,
)

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.network import Network, tensors_of
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.train import recipe
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.data.source import LabelledSource
from alexnet_deploy.train.learner.init import initialise
from alexnet_deploy.train.loop.record import training_preprocessing
from alexnet_deploy.train.recipe import (
    RENAMED,
    Initialisation,
    Recipe,
    parse_settings,
    recipe_by_name,
    recipe_names,
    with_new_names,
    with_settings,
)


@pytest.mark.parametrize("name", ["paper", "original"])
@pytest.mark.parametrize("how", ["kaiming", "paper", "original"])
def test_first_values_have_the_deviation_of_their_layer(name: str, how: Initialisation) -> None:
    architecture = narrowed(ARCHITECTURES[name], divisor=4)
    network = Network(architecture)
    initialise(network, how, seed=0)
    for tensor_name, tensor in tensors_of(network).items():
        layer = tensor_name.split(".")[0]
        if tensor_name.endswith(".bias"):
            is_biased = how != "kaiming" and layer in ("conv2", "conv4", "conv5", "fc6", "fc7")
            np.testing.assert_array_equal(tensor, 1.0 if is_biased else 0.0)
            continue
        fan_in = math.prod(architecture.tensor_shapes()[tensor_name][1:])
        wanted = math.sqrt(2 / fan_in) if how == "kaiming" and layer != "fc8" else 0.01
        if how == "original" and layer in ("conv3", "conv4", "conv5"):
            wanted = 0.03
        # Four standard errors, for normal numbers.
        assert abs(tensor.std() / wanted - 1) < 4 / math.sqrt(2 * tensor.size), tensor_name
        assert abs(tensor.mean() / wanted) < 4 / math.sqrt(tensor.size), tensor_name
        beyond = (np.abs(tensor) > 2 * wanted).mean()
        assert abs(beyond - 0.0455) < 4 * math.sqrt(0.0455 * 0.9545 / tensor.size), tensor_name


@pytest.mark.parametrize("how", ["kaiming", "paper", "original"])
def test_first_values_do_not_depend_on_the_names_of_layers(how: Initialisation) -> None:
    architecture = narrowed(ARCHITECTURES["original"])
    one, other = Network(architecture), Network(renamed(architecture))
    for network in (one, other):
        initialise(network, how, seed=0)
    for (name, tensor), (other_name, same) in zip(tensors_of(one).items(), tensors_of(other).items(), strict=True):
        assert name != other_name
        np.testing.assert_array_equal(tensor, same, err_msg=f"{name}, {other_name}")


def test_a_seed_gives_the_same_first_values_and_another_seed_others() -> None:
    first, again, other = (Network(NARROW) for _ in range(3))
    for network, seed in ((first, 1), (again, 1), (other, 2)):
        initialise(network, "kaiming", seed)
    for name, tensor in tensors_of(first).items():
        np.testing.assert_array_equal(tensors_of(again)[name], tensor)
        if name.endswith(".weight"):
            assert (tensors_of(other)[name] != tensor).mean() > 0.99


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
        {"early_stopping": -1},
        {"color_noise": -0.1},
        {"color_noise": math.nan},
        {"weight_decay": -1e-4},
        {"weight_decay": math.nan},
        {"learning_rate": math.inf},
        {"bias_learning_rate": -0.1},
        {"divisions": -1},
        {"warmup_epochs": -1},
        {"schedule": "cosine", "warmup_epochs": 2},
        {"schedule": "step"},
        {"milestones": (2,)},
        {"schedule": "step", "milestones": (1, 2)},
        {"schedule": "step", "milestones": (3, 2)},
        {"schedule": "step", "milestones": (2, 2)},
        {"label_smoothing": 1.0},
        {"label_smoothing": math.nan},
        {"min_scale": 0.0},
        {"min_scale": 1.01},
        {"min_scale": math.nan},
        {"color_noise_epochs": 3},
        {"color_noise_epochs": -1},
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"momentum": math.nan},
        {"ema_decay": 1.0},
        {"ema_decay": -0.1},
        {"color_jitter": 1.0},
        {"color_jitter": -0.1},
        {"max_ratio": 0.9},
        {"max_ratio": math.inf},
        {"max_ratio": math.nan},
        {"max_rotation": -1.0},
        {"max_rotation": 181.0},
        {"random_erasing": -0.1},
        {"random_erasing": 1.1},
        {"random_erasing": math.nan},
    ],
)
def test_a_recipe_that_trains_nothing_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=list(change)[-1]):
        msgspec.structs.replace(RECIPE, **change)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 1},
        {"batch_size": 1},
        {"patience": 1},
        {"seed": 2**32 - 1},
        {"momentum": 0.0},
        {"divisions": 0},
        {"min_scale": 0.01},
        {"color_noise_epochs": 2},
        {"max_rotation": 180.0},
        {"random_erasing": 1.0},
        {"warmup_epochs": 1, "schedule": "cosine"},
        {"milestones": (2, 9), "schedule": "step"},
    ],
)
def test_a_recipe_at_its_bounds_is_taken(change: dict[str, object]) -> None:
    name, value = next(iter(change.items()))
    assert getattr(msgspec.structs.replace(RECIPE, **change), name) == value


def test_recipes_are_found_by_their_names_and_an_unknown_name_is_told_them() -> None:
    names = ("drawn", "fast", "fine-tune", "folder", "original", "paper", "two-class")
    assert recipe_names() == names
    for name in names:
        assert recipe_by_name(name).name == name
    with pytest.raises(
        UsageError, match=rf"'best' is not a recipe; use one of {', '.join(names)}, or a file whose name"
    ):
        recipe_by_name("best")


def test_each_shipped_recipe_begins_with_its_purpose_and_its_source() -> None:
    files = list((Path(recipe.__file__).parent / "recipes").iterdir())
    assert {path.stem for path in files} == set(recipe_names())
    for path in files:
        comment = path.read_text().split("\n\n")[0]
        assert all(line.startswith("# ") or line == "#" for line in comment.splitlines()), path
        purpose, source, *_ = comment.splitlines()
        assert re.fullmatch(r"# For .+\.", purpose), path
        assert re.fullmatch(r"# Source: .+\.", source), path


def test_paper_is_the_papers_section_5() -> None:
    paper = recipe_by_name("paper")
    assert (paper.batch_size, paper.momentum, paper.weight_decay) == (128, 0.9, 0.0005)
    assert (paper.learning_rate, paper.schedule, paper.divisions, paper.epochs) == (0.01, "plateau", 3, 90)
    assert (paper.initialisation, paper.color_noise, paper.precision) == ("paper", 0.1, "fp32")


def test_a_file_is_a_recipe_and_a_bad_one_is_told_by_file_and_field(tmp_path: Path) -> None:
    good = tmp_path / "mine.toml"
    good.write_text("epochs = 3\nbatch_size = 8\nlearning_rate = 1\nschedule = 'step'\nmilestones = [2, 3]\n")
    assert recipe_by_name(str(good)) == Recipe(
        name="mine", epochs=3, batch_size=8, learning_rate=1.0, schedule="step", milestones=(2, 3)
    )
    for text, sentence in (
        (
            "epochs = 3",
            'batch_size and learning_rate are missing; set them, or extend .+ a line such as extends = "folder"$',
        ),
        ("epochs = 3\nbatch_size = 4", "learning_rate is missing; set it, or extend a shipped recipe"),
        (
            good.read_text() + "rate = 1",
            r"rate is not a recipe field; did you mean learning_rate or bias_learning_rate or pretrained_rate\?$",
        ),
        (good.read_text() + "name = 'x'", "name is not a recipe field; the fields are epochs"),
        (good.read_text() + "patience = 'long'", "patience must be an integer, got a string$"),
        (good.read_text() + "compile = 1", "compile must be true or false, got an integer$"),
        (good.read_text() + "precision = 'fp8'", "precision is 'fp8'; it must be one of fp32, bf16$"),
        (good.read_text() + "precision = 8", "precision is 8; it must be one of fp32, bf16$"),
        (good.read_text() + "momentum = 2.0", "momentum is 2.0; it must be 0 or more and less than 1"),
        ("epochs = ", "is not valid TOML: Invalid value"),
    ):
        (tmp_path / "bad.toml").write_text(text)
        with pytest.raises(UsageError, match=rf"^{re.escape(str(tmp_path))}/bad\.toml: {sentence}"):
            recipe_by_name(str(tmp_path / "bad.toml"))
    (tmp_path / "bad.toml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"bad\.toml: is not valid TOML: 'utf-8' codec"):
        recipe_by_name(str(tmp_path / "bad.toml"))
    with pytest.raises(UsageError, match=r"none\.toml: cannot be read: No such file or directory"):
        recipe_by_name(str(tmp_path / "none.toml"))


def test_a_file_takes_what_it_does_not_set_from_the_recipe_that_it_extends(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("extends = 'two-class'\nepochs = 7\nmax_rotation = 20\n")
    (tmp_path / "ours.toml").write_text("extends = 'mine.toml'\nepochs = 8\n")
    base = recipe_by_name("two-class")
    assert recipe_by_name(str(tmp_path / "mine.toml")) == msgspec.structs.replace(
        base, name="mine", epochs=7, max_rotation=20.0
    )
    assert recipe_by_name(str(tmp_path / "ours.toml")) == msgspec.structs.replace(
        base, name="ours", epochs=8, max_rotation=20.0
    )


@pytest.mark.parametrize(
    ("base", "sentence"),
    [
        ("'best'", "mine.toml: extends: 'best' is not a recipe; use one of drawn, fast, "),
        ("3", 'mine.toml: extends is 3; it must be the name of a recipe, such as extends = "folder"'),
        ("'none.toml'", "none.toml: cannot be read: No such file or directory"),
        ("'mine.toml'", "mine.toml: extends mine.toml, which extends this file; break the cycle"),
        ("'circle.toml'", "circle.toml: extends mine.toml, which extends this file; break the cycle"),
        ("'odd.toml'", "odd.toml: epoch is not a recipe field; did you mean epochs?"),
    ],
)
def test_what_cannot_be_extended_is_refused(base: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f"extends = {base}\n")
    (tmp_path / "circle.toml").write_text("extends = 'mine.toml'\n")
    (tmp_path / "odd.toml").write_text("extends = 'folder'\nepoch = 3\n")
    with pytest.raises(UsageError) as caught:
        recipe_by_name(str(tmp_path / "mine.toml"))
    assert str(caught.value).startswith(f"{tmp_path}/{sentence}")


def test_settings_are_read_as_toml_and_bare_words_are_strings() -> None:
    words = ["epochs=7", "schedule=step", "milestones = [2, 5]", "compile=true", "precision='bf16'", "color_noise=0"]
    assert with_settings(RECIPE, parse_settings(words)) == msgspec.structs.replace(
        RECIPE, epochs=7, schedule="step", milestones=(2, 5), compile=True, precision="bf16", color_noise=0.0
    )
    assert with_settings(RECIPE, {}) == RECIPE


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["epochs"], "--set epochs: expected FIELD=VALUE"),
        (["=3"], "--set =3: expected FIELD=VALUE"),
        (["a.b=3"], "--set a.b=3: expected FIELD=VALUE"),
        (["epochs=3", "epochs=4"], "--set epochs=4: epochs is set twice"),
        (["epochs="], "--set epochs=: '' is not a valid TOML value"),
        (["epochs=3\nseed=4"], "--set epochs=3\nseed=4: '3\\nseed=4' is not a valid TOML value"),
    ],
)
def test_settings_that_are_none_are_refused(words: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(words)
    assert str(caught.value) == sentence


def survey_of(mean: list[float], covariance: np.ndarray) -> Survey:
    folder = LabelledSource(root=Path("nowhere"), class_names=("a", "b"), train=(), validation=())
    return Survey(folder=folder, excluded={}, sha256="", mean=np.array(mean), covariance=covariance)


def test_mean_and_scale_are_those_of_the_data() -> None:
    mean = np.array([100.1, 50.0, 25.0])
    covariance = np.array([[400.0, 9.0, 0.0], [9.0, 100.0, 1.0], [0.0, 1.0, 25.0]])
    preprocessing = training_preprocessing("paper", RECIPE, mean, covariance)
    np.testing.assert_allclose(preprocessing.mean, [100.1, 50.0, 25.0], rtol=1e-7)
    np.testing.assert_allclose(preprocessing.scale, [1 / 20, 1 / 10, 1 / 5], rtol=1e-7)
    assert (preprocessing.resize, preprocessing.channel_order) == ("shorter-side", "RGB")
    # In the order red, green, blue, even if the network's first channel is blue.
    caffe = training_preprocessing("caffe", RECIPE, mean, covariance)
    assert (caffe.mean, caffe.scale) == (preprocessing.mean, preprocessing.scale)
    assert (caffe.resize, caffe.channel_order) == ("warp", "BGR")


@pytest.mark.parametrize("how", ["paper", "original"])
def test_as_in_the_paper_pixels_stay_on_0_to_255(how: Initialisation) -> None:
    mean, covariance = np.array([100.0, 50.0, 25.0]), np.diag([400.0, 100.0, 25.0])
    plan = msgspec.structs.replace(RECIPE, initialisation=how)
    preprocessing = training_preprocessing("paper", plan, mean, covariance)
    assert preprocessing.mean == (100.0, 50.0, 25.0)
    assert preprocessing.scale == (1.0, 1.0, 1.0)


def test_a_channel_without_variation_is_not_divided_by_zero() -> None:
    mean, covariance = np.array([255.0, 0.0, 9.0]), np.diag([0.0, 400.0, 0.0])
    preprocessing = training_preprocessing("paper", RECIPE, mean, covariance)
    np.testing.assert_allclose(preprocessing.scale, [1.0, 1 / 20, 1.0], rtol=1e-7)


def planes(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Mean and scale, each (3, 1, 1)."""
    mean, scale = (
        np.array(values)[:, None, None] for values in (run.best.preprocessing.mean, run.best.preprocessing.scale)
    )
    return mean, scale


def test_each_image_is_shifted_as_a_whole_along_the_datas_own_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two greys: the only principal axis of the data's colours is grey.
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
    # 24 draws; the standard deviation of the data is 20, a tenth of it 2.
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
    originals = [read_image(Path(example.place), SHORTER_SIDE) for example in honest.folder.train]
    seen = []
    for views in batches["train"]:
        for view in np.rint(views / scale + mean).astype(np.uint8).transpose(0, 2, 3, 1):
            windows = [place_of(view, original) for original in originals]
            (place,) = [(number, window) for number, window in enumerate(windows) if window is not None]
            seen.append(place)
    # Every image once, with different crops.
    assert sorted(number for number, _ in seen) == list(range(10))
    assert len({window for _, window in seen}) > 5
    assert [number for number, _ in seen] != list(range(10))
    (validation,) = batches["validation"]
    for example, view in zip(honest.folder.validation, validation, strict=True):
        expected = read_image(Path(example.place), SHORTER_SIDE)[14 : 14 + 227, 14 : 14 + 227].transpose(2, 0, 1)
        np.testing.assert_allclose(view / scale + mean, expected, atol=1e-3)


def place_of(view: np.ndarray, original: np.ndarray) -> tuple[int, int, bool] | None:
    """The position of a view in an image, or None."""
    size = len(view)
    for mirrored in (False, True):
        upright = view[:, ::-1] if mirrored else view
        windows = np.lib.stride_tricks.sliding_window_view(original[: 256 - size + 3, :, 0], (3, size))
        for top, left in np.argwhere((windows == upright[:3, :, 0]).all(axis=(2, 3))):
            if np.array_equal(original[top : top + size, left : left + size], upright):
                return int(top), int(left), mirrored
    return None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("epochs = " + "[" * 100_000, r"is not valid TOML: it is nested too deeply$"),
        ("epochs = " + "9" * 5000, "is not valid TOML: it holds a value that cannot be read"),
        ('extends = "folder"\nepochs = ' + "9" * 400, "epochs is too large; it must be at most 4,294,967,296$"),
        ('extends = "original"\nmilestones = [2, ' + "9" * 400 + "]", "milestones is too large"),
        ('extends = "a\\u0000.toml"', "it must be the name of a recipe"),
    ],
)
def test_a_file_that_no_parser_can_take_is_refused(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=sentence) as caught:
        recipe_by_name(str(path))
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000])
def test_a_setting_that_no_parser_can_take_is_refused_in_a_short_line(value: str) -> None:
    with pytest.raises(UsageError, match=r"is not a valid TOML value$") as caught:
        parse_settings([f"epochs={value}"])
    assert len(str(caught.value)) < 200


def test_a_file_that_is_no_small_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.touch()
    os.truncate(path, 50 * 2**30)
    with pytest.raises(UsageError, match=r"cannot be read: it has 53,687,091,200 bytes, the limit is 1,048,576"):
        recipe_by_name(str(path))


def test_a_long_chain_of_files_is_refused(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.toml").write_text(f'extends = "{number + 1}.toml"\n')
    with pytest.raises(UsageError, match="21 recipes extend one another; at most 20 may"):
        recipe_by_name(str(tmp_path / "0.toml"))


@pytest.mark.parametrize(("old", "new"), list(RENAMED.items()))
def test_a_field_by_its_old_name_is_refused_with_the_new_one(old: str, new: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(f'extends = "folder"\n{old} = 1\n')
    with pytest.raises(UsageError, match=f"{old} was renamed; use {new}$"):
        recipe_by_name(str(tmp_path / "mine.toml"))
    with pytest.raises(UsageError, match=f"{old} was renamed; use {new}$"):
        with_settings(recipe_by_name("folder"), {old: 1})


def test_what_was_written_down_by_old_names_is_read_by_the_new_ones() -> None:
    written = {"name": "mine", "min_crop_area": 0.3, "step_epochs": (2, 4), "momentum": 0.8}
    assert with_new_names(written) == {"name": "mine", "min_scale": 0.3, "milestones": (2, 4), "momentum": 0.8}
