"""`predict --features`: one row of features per input, complete or not there, and resumed to the bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from commands import MAIN, Outcome, Run, wait_until

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.predict.features import feature_file
from alexnet_deploy.predict.features.extraction import Extraction
from alexnet_deploy.predict.features.feature_file import confirm_features, open_feature_file
from alexnet_deploy.predict.predictor import load


@pytest.fixture
def odd(images: Path, tmp_path: Path) -> Path:
    """Five inputs in order: an image, an empty file, an image, text, an image."""
    folder = tmp_path / "odd"
    folder.mkdir()
    for name, source in (("a.jpg", "a"), ("c.jpg", "b"), ("e.jpg", "c")):
        (folder / name).write_bytes((images / f"{source}.jpg").read_bytes())
    (folder / "b.jpg").touch()
    (folder / "d.jpg").write_text("Dear reader")
    return folder


def features_of(bundle: Bundle, folder: Path, names: str) -> np.ndarray:
    resize = bundle.manifest.preprocessing.image_policy
    with open_engine(bundle, "openvino") as engine:
        return engine.run_all([read_image(folder / f"{name}.jpg", resize)[None] for name in names])


def extract(run: Run, bundle: Bundle, folder: Path, place: str, *more: object) -> Outcome:
    return run("predict", folder, "--bundle", bundle.path, "--backend", "openvino", "--features", place, *more)


def test_npy_has_a_row_for_every_input(run: Run, features_bundle: Bundle, odd: Path) -> None:
    outcome = extract(run, features_bundle, odd, "f.npy", "--output", "rows.jsonl")
    assert outcome.code == 1
    found = np.load("f.npy")
    assert (found.dtype, found.shape) == (np.float32, (5, features_bundle.manifest.output.size))
    assert np.isnan(found[[1, 3]]).all()
    assert np.allclose(found[[0, 2, 4]], features_of(features_bundle, odd, "ace"), rtol=0, atol=1e-5)
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [Path(row["path"]).name for row in rows] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert [row["ok"] for row in rows] == [True, False, True, False, True]
    assert [set(row) for row in rows] == [{"path", "ok"}, {"path", "ok", "error"}] * 2 + [{"path", "ok"}]
    assert "features: f.npy, 64 of fc7 for each input" in outcome.err
    assert "3 extracted" in outcome.err
    assert "2 could not be read: empty 1, not_an_image 1" in outcome.err


def test_parquet_holds_paths_errors_and_features(run: Run, features_bundle: Bundle, odd: Path) -> None:
    assert extract(run, features_bundle, odd, "f.parquet").code == 1
    table = pyarrow.parquet.read_table("f.parquet")
    assert table.column_names == ["path", "ok", "error", "message", "features"]
    assert str(table.schema.field("features").type) == "fixed_size_list<element: float>[64]"
    rows = table.to_pylist()
    assert [Path(row["path"]).name for row in rows] == ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"]
    assert [row["error"] for row in rows] == [None, "empty", None, "not_an_image", None]
    assert [row["message"] is None for row in rows] == [row["ok"] for row in rows] == [True, False, True, False, True]
    assert rows[1]["features"] is rows[3]["features"] is None
    found = np.array([row["features"] for row in rows if row["ok"]], np.float32)
    assert np.allclose(found, features_of(features_bundle, odd, "ace"), rtol=0, atol=1e-5)


def test_parquet_and_npy_hold_the_same_numbers_over_several_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_file, "_GROUP_BYTES", 3 * 4 * 6)
    rows = np.random.default_rng(0).standard_normal((8, 6)).astype(np.float32)
    for ending in ("npy", "parquet"):
        with open_feature_file(tmp_path / f"f.{ending}", 6) as file:
            for number, row in enumerate(rows):
                file.write(Extraction(path=f"{number}", features=row, error=None, message=""))
    table = pyarrow.parquet.ParquetFile(tmp_path / "f.parquet")
    assert table.num_row_groups == 3
    assert np.array_equal(np.array(table.read()["features"].to_pylist(), np.float32), rows)
    assert np.array_equal(np.load(tmp_path / "f.npy"), rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "f.parquet"]


@pytest.mark.parametrize("ending", ["npy", "parquet"])
def test_a_failed_run_leaves_nothing(ending: str, tmp_path: Path) -> None:
    def fail() -> None:
        with open_feature_file(tmp_path / f"f.{ending}", 4) as file:
            file.write(Extraction(path="a", features=np.ones(4, np.float32), error=None, message=""))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_no_inputs_leave_no_file_unless_that_is_allowed(run: Run, features_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for place in ("f.npy", "f.parquet"):
        refused = extract(run, features_bundle, tmp_path / "none", place, "--output", "rows.csv")
        assert refused.code == 2
        assert "none: no files found; pass --allow-empty to accept that" in refused.err
        assert sorted(path.name for path in Path().iterdir()) == ["none"]
    outcome = extract(run, features_bundle, tmp_path / "none", "f.npy", "--output", "rows.csv", "--allow-empty")
    assert outcome.code == 0
    assert np.load("f.npy").shape == (0, 64)
    assert Path("rows.csv").read_text() == "path,ok,error,message\n"


def test_a_killed_run_is_resumed_to_the_bit(run: Run, features_bundle: Bundle, odd: Path) -> None:
    names = [f"{path}\n".encode() for path in sorted(odd.iterdir())] * 8
    options = ["predict", "-", "--bundle", str(features_bundle.path), "--backend", "openvino", "--batch-size", "2"]
    command = [*options, "--features", "f.npy", "--output", "rows.jsonl"]
    process = subprocess.Popen([sys.executable, "-c", MAIN, *command], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    # It writes the rows of these names, and then waits for more names.
    process.stdin.write(b"".join(names[:30]))
    process.stdin.flush()
    wait_until(
        lambda: any(path.read_bytes().count(b"\n") > 12 for path in Path().glob(".rows.jsonl.*.partial")), process
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    assert not Path("f.npy").exists()
    (partial,) = Path().glob(".rows.jsonl.*.partial")
    num_kept = partial.read_bytes().count(b"\n")
    outcome = run(*command, "--resume", stdin=b"".join(names))
    assert f"resuming after {num_kept} rows" in outcome.err
    assert run(*options, "--features", "whole.npy", stdin=b"".join(names)).code == 1
    assert Path("f.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert np.load("f.npy").shape == (40, 64)
    assert len(Path("rows.jsonl").read_text().splitlines()) == 40
    assert list(Path().glob(".*")) == []
    # Again: everything is there.
    outcome = run(*command, "--resume", stdin=b"".join(names))
    assert "rows.jsonl: is already complete" in outcome.err


def test_a_run_killed_between_its_two_files_is_resumed(
    run: Run, features_bundle: Bundle, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("f.npy", "--output", "rows.jsonl")

    class KilledError(BaseException):
        pass

    def stop(*paths: object) -> None:
        raise KilledError

    monkeypatch.setattr("alexnet_deploy.predict.output.rename_new", stop)
    with pytest.raises(KilledError):
        extract(run, features_bundle, odd, *command)
    monkeypatch.undo()
    monkeypatch.chdir(odd.parent)
    assert Path("f.npy").exists()
    assert not Path("rows.jsonl").exists()
    before = Path("f.npy").read_bytes()
    (odd / "f.jpg").write_bytes((odd / "a.jpg").read_bytes())
    outcome = extract(run, features_bundle, odd, *command, "--resume")
    assert outcome.code == 2
    assert "f.npy: is complete, but the inputs now continue with" in outcome.err
    (odd / "f.jpg").unlink()
    assert extract(run, features_bundle, odd, *command, "--resume").code == 1
    assert Path("f.npy").read_bytes() == before
    assert len(Path("rows.jsonl").read_text().splitlines()) == 5


def interrupt_after(num_rows: int, kind: type, patch: pytest.MonkeyPatch) -> None:
    """Let the writer of features be interrupted at the row after these."""
    write, num_written = kind.write, 0

    def interrupted(self: object, extraction: Extraction) -> None:
        nonlocal num_written
        num_written += 1
        if num_written > num_rows:
            raise KeyboardInterrupt
        write(self, extraction)

    patch.setattr(kind, "write", interrupted)


def test_unfinished_features_belong_to_their_rows(
    run: Run, features_bundle: Bundle, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        interrupt_after(3, feature_file._Npy, patch)
        assert extract(run, features_bundle, odd, "f.npy", "--output", "rows.jsonl").code == 130
    others = [odd / f"{name}.jpg" for name in "ecbda"]
    with monkeypatch.context() as patch:
        interrupt_after(4, feature_file._Npy, patch)
        command = ("predict", *others, "--bundle", features_bundle.path, "--backend", "openvino")
        assert run(*command, "--features", "f.npy", "--output", "others.jsonl").code == 130
    assert len(list(Path().glob(".f.npy.*.partial"))) == 2
    # The rows are resumed with their own features, not with those of the later run.
    assert extract(run, features_bundle, odd, "f.npy", "--output", "rows.jsonl", "--resume").code == 1
    found = np.load("f.npy")
    assert np.isnan(found).any(axis=1).tolist() == [False, True, False, True, False]
    assert np.allclose(found[[0, 2, 4]], features_of(features_bundle, odd, "ace"), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "remedy"),
    [((), "choose another --features"), (("--output", "rows.jsonl"), "all features are in .f.npy.")],
)
def test_a_file_that_appears_during_the_run_stays(
    options: tuple[str, ...],
    remedy: str,
    run: Run,
    features_bundle: Bundle,
    odd: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish = feature_file._Npy.finish

    def slow(self: feature_file._Npy) -> None:
        Path("f.npy").write_text("another program's")
        finish(self)

    monkeypatch.setattr(feature_file._Npy, "finish", slow)
    outcome = extract(run, features_bundle, odd, "f.npy", *options)
    assert outcome.code == 2
    assert f"f.npy: was created by another program during this run; {remedy}" in outcome.err
    assert Path("f.npy").read_text() == "another program's"
    assert [np.load(path).shape for path in Path().glob(".f.npy.*")] == [(5, 64)] * bool(options)


def test_rows_of_an_interrupted_parquet_say_how_to_start_again(
    run: Run, features_bundle: Bundle, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("f.parquet", "--output", "rows.jsonl")
    with monkeypatch.context() as patch:
        interrupt_after(3, feature_file._Parquet, patch)
        outcome = extract(run, features_bundle, odd, *command)
    assert outcome.code == 130
    assert "the rows so far are in .rows.jsonl." in outcome.err
    assert "--resume" not in outcome.err
    (partial,) = Path().glob(".*.partial")
    outcome = extract(run, features_bundle, odd, *command)
    assert outcome.code == 2
    assert f"{partial}: holds the rows of an interrupted run; remove it to start again" in outcome.err
    partial.unlink()
    assert extract(run, features_bundle, odd, *command).code == 1
    assert pyarrow.parquet.read_table("f.parquet").num_rows == 5


def test_features_that_are_gone_or_of_another_run_are_not_confirmed(
    run: Run, features_bundle: Bundle, odd: Path
) -> None:
    assert extract(run, features_bundle, odd, "f.npy", "--output", "rows.jsonl").code == 1
    confirm_features(Path("f.npy"), 64, 5)
    np.save("other.npy", np.zeros((4, 64), np.float32))
    for place, words in (("other.npy", "does not hold 5 rows of 64 features"), ("none.npy", "cannot be read")):
        outcome = extract(run, features_bundle, odd, place, "--output", "rows.jsonl", "--resume")
        assert outcome.code == 2
        assert words in outcome.err


def test_rows_without_their_features_are_not_resumed(
    run: Run, features_bundle: Bundle, odd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("f.npy", "--output", "rows.jsonl")
    with monkeypatch.context() as patch:
        interrupt_after(3, feature_file._Npy, patch)
        assert extract(run, features_bundle, odd, *command).code == 130
    (partial,) = Path().glob(".f.npy.*.partial")
    os.truncate(partial, partial.stat().st_size - 1)
    outcome = extract(run, features_bundle, odd, *command, "--resume")
    assert outcome.code == 2
    assert "f.npy: cannot resume: fewer than the 3 rows of --output are left of it" in outcome.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--features f.txt", "f.txt: its extension is not one of .npy, .parquet"),
        ("--features f.npy --topk 2", "--topk applies to classes, but --features writes none; leave it out"),
        ("--features f.npy --reject 0.5 --gallery g.html", "--reject, --gallery apply to classes"),
        ("--features f.parquet --output r.csv --resume", "f.parquet: only .npy can be resumed; leave out --resume"),
        ("--features f.npy --output f.npy --format csv", "f.npy: is --output too; choose another --features"),
        ("--features f.npy --output f.npy", "f.npy: is --output too; choose another --features"),
        ("--features f.npy --resume", "--resume needs an --output"),
        ("--features there.npy", "there.npy: already exists; choose another --features"),
        ("--features no/f.npy", "there is no folder no"),
        ("--features there.npy/f.npy", "there.npy is a file, not a folder; choose another --features"),
        (
            "--features f.npy --views center",
            "computes ten views, not center; `alexnet-deploy export --views center --output-layer fc7` makes one",
        ),
        ("", "returns features of fc7; pass --features FILE to write them"),
    ],
)
def test_what_cannot_be_written_is_refused(
    options: str, words: str, run: Run, features_bundle: Bundle, odd: Path
) -> None:
    Path("there.npy").touch()
    outcome = run("predict", odd, "--bundle", features_bundle.path, *options.split())
    assert outcome.code == 2
    assert words in outcome.err
    assert outcome.out == ""


def test_a_bundle_of_probabilities_has_no_features(run: Run, bundle: Bundle, odd: Path) -> None:
    outcome = run("predict", odd, "--bundle", bundle.path, "--features", "f.npy")
    assert outcome.code == 2
    assert (
        "returns probabilities, but --features needs a bundle that `alexnet-deploy export --output-layer" in outcome.err
    )
    with load(bundle.path) as predictor, pytest.raises(UsageError, match="returns probabilities, not features"):
        predictor.features([odd])


def test_python_yields_an_extraction_for_each_input(features_bundle: Bundle, odd: Path) -> None:
    with load(features_bundle.path, "openvino") as predictor:
        found = list(predictor.features([odd], batch_size=2))
        wanted = features_of(features_bundle, odd, "ace")
        assert [one.ok for one in found] == [True, False, True, False, True]
        assert [one.error for one in found][1::2] == ["empty", "not_an_image"]
        assert found[1].message
        rows = [one.features for one in found if one.features is not None]
        assert np.allclose(rows, wanted, rtol=0, atol=1e-5)
        # Each row is its caller's own, not a part of its batch.
        assert all(row.base is None for row in rows)
        assert predictor.run(np.zeros((2, 256, 256, 3), np.uint8)).shape == (2, 64)
        for refused in (lambda: predictor.classify(odd / "a.jpg"), lambda: list(predictor.predict([odd]))):
            with pytest.raises(UsageError, match="returns features of fc7, but a prediction of classes needs prob"):
                refused()
