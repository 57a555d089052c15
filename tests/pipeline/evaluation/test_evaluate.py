"""Bundles on labelled images: rows, their recount, failures, retries and subsets."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from commands import Run

from alexnet_deploy import evaluate_bundles
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import BackendError, DataError, UsageError
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.pipeline.evaluation.evaluate import EvaluationRequest, RowAnswers, evaluate
from alexnet_deploy.pipeline.evaluation.images_file import COLUMNS, open_images_file

QUICK = EvaluationRequest(seconds=0.0)


@pytest.fixture
def pictures(data: Path) -> Path:
    """Labelled images of which one cannot be decoded; one class folder has another spelling."""
    (data / "val/umbrella").rename(data / "val/Umbrella")
    (data / "val/Umbrella/broken.jpg").write_bytes(b"\xff\xd8\xff")
    return data


def test_every_bundle_runs_on_every_engine_and_the_file_agrees_with_the_table(
    bundle: Bundle, int8_shipment: tuple[LoadedWeights, Bundle], pictures: Path, run: Run
) -> None:
    done = run(
        "evaluate",
        bundle.path,
        int8_shipment[1].path,
        "--data",
        pictures,
        "--seconds",
        0,
        "--output",
        "all.csv",
        "--json",
    )
    # One image could not be read.
    assert done.code == 1
    assert "1 image could not be read, and did not count" in done.err
    assert "matched 1 class by name: Umbrella = umbrella" in done.err
    rows = json.loads(done.out)["rows"]
    assert [(row["precision"], row["backend"], row["status"]) for row in rows] == [
        (precision, backend, "ok") for precision in ("fp32", "int8") for backend in ("openvino", "onnxruntime")
    ]
    with Path("all.csv").open() as file:
        lines = list(csv.DictReader(file))
    num_images = len(list((pictures / "val").rglob("*.jpg")))
    assert len(lines) == 4 * num_images
    for row in rows:
        own = [line for line in lines if (line["bundle"], line["backend"]) == (row["bundle"], row["backend"])]
        read = [line for line in own if not line["error"]]
        assert [line["error"] for line in own if line["error"]] == ["truncated"]
        assert row["score"]["top1"] == np.mean([line["truth"] == line["label1"] for line in read])
        assert row["score"]["top1"] == np.mean([line["correct"] == "true" for line in read])
        assert (row["score"]["num_images"], row["score"]["num_unreadable"]) == (num_images - 1, 1)
        assert row["num_timed_runs"] >= 20
        assert row["latency_p50_ms"] > 0
        # 20 runs do not make a p99.
        assert row["latency_p99_ms"] is None


def test_a_table_says_what_could_not_run(bundle: Bundle, data: Path, run: Run) -> None:
    done = run(
        "evaluate", bundle.path, "--data", data, "--seconds", 0, "--backend", "openvino", "--backend", "tensorrt"
    )
    assert done.code == 1
    (good, bad) = done.out.splitlines()[2:4]
    assert good.endswith("  ok")
    assert "failed: " in bad
    assert "FAILED: " in done.err.splitlines()[-1]


@pytest.mark.parametrize(("limit", "code"), [("top1=0", 0), ("top1=1", 1), ("top5=1", 0)])
def test_fail_under_decides_the_exit_code(limit: str, code: int, bundle: Bundle, data: Path, run: Run) -> None:
    done = run("evaluate", bundle.path, "--data", data, "--seconds", 0, "--backend", "openvino", "--fail-under", limit)
    assert done.code == code
    assert ("top1 is" in done.err) == bool(code)


@pytest.mark.parametrize("limit", ["top1", "top1=57", "top2=0.5", "top1=x", "top1=nan"])
def test_a_wrong_limit_is_refused_before_anything_runs(limit: str, bundle: Bundle, data: Path, run: Run) -> None:
    said = run("evaluate", bundle.path, "--data", data, "--fail-under", limit).refused(2)
    assert said == f"--fail-under: must be top1 or top5=SHARE with a share of 0 to 1, got {limit}"


def test_a_wrong_backend_is_refused(bundle: Bundle, data: Path, run: Run) -> None:
    said = run("evaluate", bundle.path, "--data", data, "--backend", "cudnn").refused(2)
    assert said == "--backend: must be one of openvino, onnxruntime, tensorrt, tensorrt-rtx, got cudnn"


def test_a_subset_limits_images_and_predictions(bundle: Bundle, data: Path) -> None:
    subset = ("Umbrella", "mountain bike")
    found: list[RowAnswers] = []
    evaluate([bundle], data, EvaluationRequest(seconds=0.0, subset=subset), on_row=found.append)
    for answered in found:
        assert answered.answers is not None
        assert set(answered.answers.guesses.flat) == {2, 3}
        assert set(answered.truths.tolist()) == {2, 3}
        assert answered.answers.probabilities.sum(axis=1) == pytest.approx(1.0, abs=1e-6)
    whole: list[RowAnswers] = []
    evaluate([bundle], data, QUICK, on_row=whole.append)
    # Among two classes, the one that was more probable before is first.
    assert whole[0].answers is not None
    assert found[0].answers is not None
    ranks = {item.name: list(guesses) for item, guesses in zip(whole[0].inputs, whole[0].answers.guesses, strict=True)}
    for item, guesses in zip(found[0].inputs, found[0].answers.guesses, strict=True):
        assert [index for index in ranks[item.name] if index in (2, 3)] == guesses.tolist()


def test_a_subset_without_images_or_labels_is_refused(bundle: Bundle, data: Path) -> None:
    with pytest.raises(DataError, match="--labels-subset: the bundle has no class shark"):
        evaluate([bundle], data, EvaluationRequest(subset=("shark",)))
    for name in ("container ship", "mountain bike", "umbrella"):
        for image in (data / "val" / name).iterdir():
            image.unlink()
        (data / "val" / name).rmdir()
    with pytest.raises(UsageError, match="no image has a label of the subset"):
        evaluate([bundle], data, EvaluationRequest(subset=("umbrella", "container ship")))
    with pytest.raises(UsageError, match="a subset needs two or more labels"):
        evaluate([bundle], data, EvaluationRequest(subset=("umbrella",)))


@pytest.mark.parametrize(("may_retry", "status"), [(False, "failed"), (True, "ok")])
def test_a_retry_halves_the_batch_and_the_row_says_so(
    may_retry: bool, status: str, bundle: Bundle, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Engine.run

    def run(engine: Engine, images: np.ndarray) -> np.ndarray:
        if len(images) > 2:
            raise BackendError("out of memory")
        return honest(engine, images)

    monkeypatch.setattr(Engine, "run", run)
    request = EvaluationRequest(backends=("openvino",), batch_size=4, may_retry=may_retry, seconds=0.0)
    (row,) = evaluate([bundle], data, request).rows
    assert row.status == status
    expected = "batch 4 failed: out of memory; batch 2 succeeded" if may_retry else "out of memory"
    assert row.reason == expected
    assert (row.score is not None) == may_retry


def test_formats_of_the_file_agree_and_a_failure_leaves_none(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    import pyarrow.parquet

    found: list[RowAnswers] = []
    evaluate([bundle], pictures, QUICK, on_row=found.append)
    for ending in ("csv", "jsonl", "parquet"):
        with open_images_file(tmp_path / f"out.{ending}") as file:
            for answered in found:
                file.write(answered)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert tuple(lines[0]) == COLUMNS
    assert pyarrow.parquet.read_table(tmp_path / "out.parquet").to_pylist() == lines
    with (tmp_path / "out.csv").open() as opened:
        for cells, line in zip(csv.DictReader(opened), lines, strict=True):
            assert cells == {
                name: "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
                for name, value in line.items()
            }
    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyError), open_images_file(tmp_path / "none.csv"):
        raise KeyError
    (tmp_path / "taken.csv").write_text("mine")
    with pytest.raises(UsageError, match="was created by another program"), open_images_file(tmp_path / "taken.csv"):
        pass
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "taken.csv"])
    assert (tmp_path / "taken.csv").read_text() == "mine"


def test_a_file_with_another_ending_is_refused_first(bundle: Bundle, data: Path, run: Run) -> None:
    said = run("evaluate", bundle.path, "--data", data, "--output", "a.xls").refused(2)
    assert said == "a.xls: its extension is not one of .csv, .jsonl, .parquet"


def test_the_python_function_is_the_command(bundle: Bundle, data: Path) -> None:
    found = evaluate_bundles([bundle.path], data, backends=["openvino"], subset=["umbrella", "mountain bike"])
    (row,) = found.rows
    assert (row.status, row.backend, found.num_images) == ("ok", "openvino", 2)
    with pytest.raises(UsageError, match="there are no bundles to evaluate"):
        evaluate_bundles([], data)
