"""Studies from their request to their files: numbers, resuming, refusals, and runs side by side."""

import csv
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from studies import STUDY, request_of, write_study

from alexnet_deploy.core.errors import BusyError, DataError, DivergedError, UsageError
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.core.process.say import say_nothing
from alexnet_deploy.pipeline.study.plan import load_plan, with_epochs
from alexnet_deploy.pipeline.study.results.statistics import difference, estimate
from alexnet_deploy.pipeline.study.running import budget, runs
from alexnet_deploy.pipeline.study.running.runs import Workplace, crossing
from alexnet_deploy.pipeline.study.study import Studied, run_study
from alexnet_deploy.train.data.loader import training_set
from alexnet_deploy.train.loop.evaluation import evaluate
from alexnet_deploy.train.loop.trainer import Trainer
from alexnet_deploy.train.pack.format import open_pack, survey_of
from alexnet_deploy.train.recipe import recipe_by_name, with_settings


def studied(study: Path, data: Path, out: Path, **changes: Any) -> Studied:
    return run_study(request_of(study, data, **changes), out, Workplace(say=say_nothing))


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, painted: Path) -> tuple[Path, Path, Studied]:
    folder = tmp_path_factory.mktemp("finished")
    study = write_study(folder)
    return study, folder / "out", studied(study, painted, folder / "out")


def test_the_numbers_are_those_of_the_weights(finished: tuple[Path, Path, Studied], painted: Path) -> None:
    """Accuracy is counted again by the evaluation of `train`; intervals are those of the values in the file."""
    _, out, found = finished
    rows = table(out / "results.csv")
    assert [(row["variant"], row["seed"]) for row in rows] == [
        ("base", "0"),
        ("base", "1"),
        ("no-lrn", "0"),
        ("no-lrn", "1"),
    ]
    packed = open_pack(out / "images.pack")
    for row in rows:
        weights = load_weights(out / f"runs/{row['variant']}-{row['seed']}/weights.safetensors").weights
        policy = weights.preprocessing.image_policy
        images = training_set(survey_of(packed, policy), policy, torch.device("cpu")).validation
        again = evaluate(weights, images, np.arange(6))
        for name, answers in (("center", again.center), ("ten", again.ten)):
            assert int(row[f"right_{name}"]) == int((answers.predictions[:, 0] == again.truths).sum())
        assert float(row["value"]) == pytest.approx(100 * int(row["right_ten"]) / 6)
    base, other = ([float(row["value"]) for row in rows if row["variant"] == name] for name in ("base", "no-lrn"))
    result = found.result.variants[1]
    assert result.values == tuple(other)
    expected = difference(other, base)
    assert result.comparison is not None
    assert (result.comparison.mean, result.comparison.low, result.comparison.high) == (
        expected.mean,
        *(expected.interval or ()),
    )
    assert found.result.variants[0].ten.mean == estimate(base).mean


def test_the_variants_are_trained_as_the_study_says(finished: tuple[Path, Path, Studied]) -> None:
    _, out, _ = finished
    types = {}
    for name in ("base-0", "no-lrn-0"):
        weights = load_weights(out / f"runs/{name}/weights.safetensors").weights
        types[name] = {layer.__struct_config__.tag for layer in weights.architecture.layers}
        assert weights.training is not None
        assert weights.training.recipe["epochs"] == 2
        assert weights.training.recipe["seed"] == 0
    assert types["base-0"] - types["no-lrn-0"] == {"lrn"}


def test_the_curves_are_those_of_the_runs(finished: tuple[Path, Path, Studied]) -> None:
    _, out, _ = finished
    rows = [row for row in table(out / "curves.csv") if (row["variant"], row["seed"]) == ("no-lrn", "1")]
    lines = (out / "runs/no-lrn-1/metrics.jsonl").read_text().splitlines()
    assert len(rows) == len(lines) == 2
    for row, line in zip(rows, map(json.loads, lines), strict=True):
        assert float(row["train_loss"]) == line["train_loss"]
        assert float(row["error"]) == 1 - line["validation_top1"]
    assert [row["images"] for row in rows] == ["24", "48"]


def test_a_finished_study_trains_nothing_again(
    finished: tuple[Path, Path, Studied], painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out, _ = finished
    before = {path: path.read_bytes() for path in out.glob("*.*") if path.is_file()}

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(runs, "train", refuse)
    studied(study, painted, out)
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seeds": 3}, "seeds was 2, now it is 3"),
        ({"settings": {"epochs": 3}}, "settings was none, now it is epochs=3"),
        ({"images": 12}, "images was all, now it is 12"),
        ({"budget_seconds": 60.0}, "budget was none, now it is 60 s"),
        ({"arch": "tiny"}, "architecture was least, now it is tiny"),
    ],
)
def test_another_study_in_the_same_place_is_refused_with_what_differs(
    finished: tuple[Path, Path, Studied], painted: Path, changes: dict[str, object], words: str
) -> None:
    study, out, _ = finished
    with pytest.raises(UsageError) as refused:
        studied(study, painted, out, **changes)
    assert str(refused.value).startswith(f"{out}: holds another study: {words};")


def test_a_changed_definition_is_refused(finished: tuple[Path, Path, Studied], painted: Path) -> None:
    study, out, _ = finished
    text = study.read_text()
    try:
        study.write_text(text.replace('expect = "lower"', 'expect = "higher"'))
        with pytest.raises(UsageError, match="holds another study: the definition of"):
            studied(study, painted, out)
        study.write_text(text)
        (study.parent / "least.toml").write_text(
            (study.parent / "least.toml").read_text().replace("k = 1.0", "k = 2.0")
        )
        with pytest.raises(UsageError, match="holds another study: the table of"):
            studied(study, painted, out)
    finally:
        write_study(study.parent)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, painted: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/letters.txt").write_text("dear")
    with pytest.raises(UsageError, match=r"contains letters.txt but no plan.json, so it is not a study"):
        studied(write_study(tmp_path), painted, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["letters.txt"]


def test_two_processes_do_not_run_one_study(
    finished: tuple[Path, Path, Studied], painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alexnet_deploy.core.fs.locks import Lock
    from alexnet_deploy.pipeline.study import study as module

    monkeypatch.setattr(module, "_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr(module, "try_lock", lambda file: Lock.TAKEN)
    with pytest.raises(BusyError, match="another process runs this study"):
        studied(finished[0], painted, finished[1])


def test_runs_side_by_side_have_the_same_results(
    finished: tuple[Path, Path, Studied], painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one thread each, as a study of two jobs on two processors has."""
    from alexnet_deploy.pipeline.study import study as module

    monkeypatch.setattr(module, "num_processors", lambda: 1)
    study = write_study(tmp_path)
    alone = studied(study, painted, tmp_path / "alone")
    request = request_of(study, painted)
    together = run_study(request, tmp_path / "together", Workplace(say=say_nothing, jobs=2))
    assert together.result == alone.result
    for name in ("results.csv", "curves.csv", "study.json"):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


EPOCHS = STUDY.replace(
    "[[variants]]",
    'metric = "epochs"\ntarget = { of = "error", share = 0.3 }\nsearch = { learning_rate = [0.02, 1e6] }\n[[variants]]',
).replace('expect = "lower"', 'expect = "higher"')


def test_a_search_takes_the_best_rate_and_other_seeds(tmp_path: Path, painted: Path) -> None:
    """The rate of 1e6 diverges, which only ends a run of the search."""
    found = studied(write_study(tmp_path, EPOCHS), painted, tmp_path / "out", settings={"epochs": 3})
    assert [variant.searched for variant in found.result.variants] == [0.02, 0.02]
    assert found.result.seeds == (1, 2)
    assert sorted(path.name for path in (tmp_path / "out/search").iterdir()) == [
        "base-0.02",
        "base-1e+06",
        "no-lrn-0.02",
        "no-lrn-1e+06",
    ]
    for row in table(tmp_path / "out/results.csv"):
        curve = [
            float(line["error"])
            for line in table(tmp_path / "out/curves.csv")
            if (line["variant"], line["seed"]) == (row["variant"], row["seed"])
        ]
        reached = crossing([2 / 3, *curve], 0.3)
        assert float(row["value"]) == (reached if np.isfinite(reached) else 3.0)
        assert row["reached"] == ("yes" if np.isfinite(reached) else "no")


def test_the_training_error_is_measured_on_the_training_images(tmp_path: Path, painted: Path) -> None:
    text = EPOCHS.replace("search = { learning_rate = [0.02, 1e6] }\n", "")
    studied(write_study(tmp_path, text), painted, tmp_path / "out", seeds=1, images=12)
    record = load_weights(tmp_path / "out/runs/base-0/weights.safetensors").weights.training
    assert record is not None
    assert (record.num_train, record.num_validation) == (12, 12)


def test_a_run_that_diverges_ends_the_study_with_its_name(tmp_path: Path, painted: Path) -> None:
    with pytest.raises(DivergedError, match=r"out/runs/base-0: the loss became"):
        studied(write_study(tmp_path), painted, tmp_path / "out", settings={"learning_rate": 1e6})


@pytest.mark.parametrize(
    ("values", "wanted", "expected"),
    [
        ([0.9, 0.5, 0.1], 0.5, 1.0),
        ([0.9, 0.5, 0.1], 0.3, 1.5),
        ([0.9, 0.5, 0.6, 0.2], 0.25, 2.875),
        ([0.9, 0.8], 0.3, float("inf")),
        ([0.2, 0.8], 0.3, 0.0),
    ],
)
def test_where_a_curve_reaches_a_level(values: list[float], wanted: float, expected: float) -> None:
    assert crossing(values, wanted) == pytest.approx(expected)


def test_views_and_images_and_held_out(tmp_path: Path, painted: Path) -> None:
    text = STUDY.replace("[[variants]]", "held_out = 3\n[[variants]]") + (
        '[[variants]]\nname = "center"\nexpect = "lower"\nviews = "center"\n'
        '[[variants]]\nname = "half"\nexpect = "lower"\nimages = 0.5\n'
    )
    found = studied(write_study(tmp_path, text), painted, tmp_path / "out")
    rows = {(row["variant"], row["seed"]): row for row in table(tmp_path / "out/results.csv")}
    for seed in ("0", "1"):
        base, center, half = (rows[name, seed] for name in ("base", "center", "half"))
        assert center["weights_sha256"] == base["weights_sha256"] != half["weights_sha256"]
        assert float(center["value"]) == pytest.approx(100 * int(base["right_center"]) / 3)
        assert (base["tested_images"], base["train_images"], half["train_images"]) == ("3", "24", "12")
        assert (base["epochs"], half["epochs"]) == ("2", "4"), "as many steps"
    record = load_weights(tmp_path / "out/runs/base-0/weights.safetensors").weights.training
    assert record is not None
    assert record.num_validation == 3, "the held-out images choose no epoch"
    assert found.result.is_held_out
    assert not (tmp_path / "out/runs/center-0").exists()


def test_epochs_stretch_a_schedule() -> None:
    recipe = with_settings(
        recipe_by_name("two-class"),
        {"epochs": 40, "warmup_epochs": 4, "color_noise_epochs": 10, "patience": 8, "early_stopping": 20},
    )
    half = with_epochs(recipe, 0.5)
    assert (half.epochs, half.warmup_epochs, half.color_noise_epochs, half.patience, half.early_stopping) == (
        20,
        2,
        5,
        4,
        10,
    )
    one = with_epochs(recipe, 0.001)
    assert (one.epochs, one.warmup_epochs, one.color_noise_epochs, one.patience) == (1, 0, 1, 1)
    stepped = with_settings(recipe_by_name("folder"), {"schedule": "step", "milestones": [10, 20], "epochs": 24})
    assert with_epochs(stepped, 0.25).milestones == (2, 5)
    assert with_epochs(stepped, 2.0).milestones == (20, 40)


def test_a_budget_shrinks_seeds_then_epochs_then_images(
    tmp_path: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of one second for each training image, and nothing for the rest."""
    speed = budget.Speed(train=1.0 / budget._RESERVE, view=0.0)
    sizes = budget.Sizes(num_validation=6, num_tested=6)
    monkeypatch.setattr(budget, "_measured", lambda *arguments: (speed, sizes))
    study = write_study(tmp_path)

    def lines(seconds: float, name: str, seeds: int = 4) -> tuple[str, ...]:
        monkeypatch.setattr(runs, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            studied(study, painted, tmp_path / name, budget_seconds=seconds, seeds=seeds, settings={"epochs": 8})
        plan = load_plan(tmp_path / name)
        assert plan is not None
        return plan.shrunk

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    # Two variants of 4 seeds, 8 epochs and 24 images: 1,536 seconds.
    assert lines(1536.01, "all") == ()
    assert lines(1535.0, "three") == ("3 seeds in place of 4",)
    assert lines(768.01, "two") == ("2 seeds in place of 4",)
    assert lines(400.0, "epochs") == (
        "2 seeds in place of 4",
        "base: 4 epochs in place of 8",
        "no-lrn: 4 epochs in place of 8",
    )
    assert lines(96.01, "images")[-1] == "12 training images in place of 24"
    with pytest.raises(
        UsageError, match=r"--budget 5 s is too short: the smallest plan \(2 seeds, 1 epoch, 6 images\)"
    ):
        studied(study, painted, tmp_path / "short", budget_seconds=5.0)


def test_a_budget_is_measured_and_obeyed_when_resumed(
    tmp_path: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    study = write_study(tmp_path)
    request = request_of(study, painted, budget_seconds=3600.0)
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "run", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_study(request, tmp_path / "out", Workplace(say=said.append))
    assert any(line.startswith("base: ") and line.endswith("images/s in training") for line in said)
    assert any(line.startswith("expected: ") for line in said)
    plan = (tmp_path / "out/plan.json").read_bytes()
    said.clear()
    run_study(request, tmp_path / "out", Workplace(say=said.append))
    assert (tmp_path / "out/plan.json").read_bytes() == plan
    assert not any("images/s" in line for line in said), "measured once"


def interrupted(trainer: Trainer) -> None:
    raise KeyboardInterrupt


def test_a_plan_of_another_version_or_a_damaged_one_is_refused(
    finished: tuple[Path, Path, Studied], painted: Path, tmp_path: Path
) -> None:
    study, out, _ = finished
    plan = load_plan(out)
    assert plan is not None
    for data, words in (
        (msgspec.json.encode(msgspec.structs.replace(plan, format_version=9)), "has version 9, this program reads 1"),
        (msgspec.json.encode(plan)[:-9], "is not a plan of this version, or it is damaged"),
    ):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/plan.json").write_bytes(data)
        with pytest.raises(DataError, match=words):
            studied(study, painted, tmp_path / "out")
