import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from networks import republished, saved, with_tensor
from test_faults import NAMED_BY_THE_AUDIT, faulty_bundle

from alexnet_deploy import cli, doctor, ship
from alexnet_deploy.core.bundle import Bundle
from alexnet_deploy.core.drawing import draw_folder
from alexnet_deploy.core.errors import BundleError
from alexnet_deploy.core.labels import encode_labels
from alexnet_deploy.core.weights import LoadedWeights
from alexnet_deploy.train import run as training

HELP = Path(__file__).with_name("help.txt")

MAIN = "from alexnet_deploy.cli import main; main()"

# Every --help there is, in one process, which then shows that none of them has loaded anything large.
ALL_HELP = """
import contextlib, io, sys
import typer
from alexnet_deploy.cli import app, main
for command in ["", *typer.main.get_command(app).commands]:
    sys.argv = ["alexnet-deploy", *command.split(), "--help"]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main()
    print("$", *sys.argv)
    print(*(line.rstrip() for line in text.getvalue().splitlines()), sep="\\n")
large = {"numpy", "torch", "onnx", "onnxruntime", "openvino", "PIL", "msgspec", "matplotlib", "tensorrt"}
print(*sorted(large & sys.modules.keys()), file=sys.stderr, end="")
"""

RENEW_HELP = """cd tests && env -i PATH="$PATH" COLUMNS=100 TERM=dumb PYTHONUTF8=1 ../.venv/bin/python -c \\
    "$(../.venv/bin/python -c 'import test_cli; print(test_cli.ALL_HELP)')" >help.txt"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    code: int | str | None
    out: str
    err: str

    def refused(self, code: int) -> str:
        """The one sentence of an error: nothing on stdout, nothing but it and what was said before on stderr."""
        assert self.code == code, self
        assert self.out == ""
        assert "Traceback" not in self.err
        assert self.err.endswith("\n")
        said = self.err.splitlines()[-1]
        assert said.startswith("error: ")
        assert self.err.count("error: ") == 1
        return said.removeprefix("error: ")


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The program itself, in an empty directory, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["alexnet-deploy", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(code=left.value.code or 0, out=captured.out, err=captured.err)

    return run


def spawn(*arguments: str | Path | bytes, stdout: int = subprocess.PIPE, **environment: str) -> Outcome:
    """The program in a process of its own, as a shell starts it: its results are buffered until it ends."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=60,
        env={**inherited, **environment},
    )
    return Outcome(code=done.returncode, out=os.fsdecode(done.stdout or b""), err=os.fsdecode(done.stderr))


@pytest.fixture
def latest(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle, where `export` would have put it."""
    target = tmp_path / "bundles/tiny.bundle"
    shutil.copytree(bundle.path, target)
    target.with_name("latest").write_text("tiny.bundle\n")
    return target


@pytest.fixture
def run_directory(loaded: LoadedWeights, tmp_path: Path) -> Path:
    """The weights, where `train` would have put them."""
    target = tmp_path / "runs/tiny"
    target.mkdir(parents=True)
    shutil.copy(loaded.path, target / "weights.safetensors")
    target.with_name("latest").write_text("tiny\n")
    return target


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A labelled folder of twelve drawn pictures."""
    draw_folder(tmp_path / "data", num_train=2, num_validation=1)
    return tmp_path / "data"


# Errors


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        ("predict a.jpg", 2, "there is no bundles/latest yet; `alexnet-deploy export` makes one"),
        ("check", 2, "there is no bundles/latest yet; `alexnet-deploy export` makes one"),
        ("export", 2, "there is no runs/latest yet; `alexnet-deploy train` makes one"),
        ("predict a.jpg --bundle b.bundle", 3, "b.bundle: there is no such bundle"),
        ("check b.bundle", 3, "b.bundle: there is no such bundle"),
        ("export w.safetensors", 3, "w.safetensors: cannot be read: No such file or directory"),
        ("train data", 3, "data: there is no such folder"),
        ("inspect a.onnx", 2, "a.onnx: cannot be read as an ONNX graph: "),
        ("inspect a.safetensors", 3, "a.safetensors: cannot be read: No such file or directory"),
        ("inspect a.bundle", 2, "a.bundle: there is nothing there; a bundle's directory, "),
        ("inspect .", 2, ".: is none of these; a bundle's directory, "),
        ("train --arch alexnet", 2, "'alexnet' is no "),
        ("train --recipe cake", 2, "'cake' is no recipe; there are drawn, folder, paper"),
        ("train --lr -1", 2, "learning_rate of -1.0 trains nothing; it must be over 0"),
        ("demo --out .", 2, ".: exists already; choose another --out"),
    ],
)
def test_error_is_one_sentence_and_an_exit_code(command: str, code: int, sentence: str, run: Run) -> None:
    assert run(*command.split()).refused(code).startswith(sentence)
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("predict --frobnicate a.jpg", "--frobnicate"),
        ("predict", "images"),
        ("predict a.jpg --topk 0", "--topk"),
        ("predict a.jpg --batch-size 0", "--batch-size"),
        ("predict a.jpg --format xml", "--format"),
        ("predict a.jpg --backend cuda", "--backend"),
        ("export --precision fp7", "--precision"),
        ("train --epochs 0", "--epochs"),
        ("inspect", "path"),
        ("forecast", "forecast"),
    ],
)
def test_wrong_use_names_what_is_wrong(command: str, named: str, run: Run) -> None:
    outcome = run(*command.split())
    assert outcome.code == 2
    assert outcome.out == ""
    assert named.lower() in outcome.err.lower()
    assert "Traceback" not in outcome.err


def test_bare_call_shows_the_help(run: Run) -> None:
    outcome = run()
    assert outcome.code == 2
    assert "Usage: alexnet-deploy [OPTIONS] COMMAND [ARGS]..." in outcome.out + outcome.err


def test_unforeseen_error_is_one_line_and_names_debug(run: Run, latest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by nothing\nat all")

    monkeypatch.setattr(ship, "check", fail)
    said = run("check").refused(3)
    assert said == "ZeroDivisionError: by nothing at all; --debug shows where it arose"


@pytest.mark.parametrize("arguments", [["--debug", "check", "b.bundle"], ["check", "b.bundle", "--debug"]])
def test_debug_lets_the_traceback_through_wherever_it_stands(
    arguments: list[str], run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", "b.bundle").refused(3) == "b.bundle: there is no such bundle"
    monkeypatch.setattr(sys, "argv", ["alexnet-deploy", *arguments])
    with pytest.raises(BundleError, match=r"b\.bundle: there is no such bundle"):
        cli.main()
    assert "error:" not in capsys.readouterr().err


def test_interrupt_leaves_with_130_and_without_a_traceback(
    run: Run, latest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ship, "check", interrupt)
    outcome = run("check")
    assert outcome.code == 130
    assert outcome.out == ""
    assert "Traceback" not in outcome.err


def test_interrupted_training_says_where_its_weights_are(run: Run, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_on", interrupt)
    outcome = run("train", data, "--arch", "tiny", "--out", "there")
    assert outcome.code == 130
    assert outcome.out == ""
    assert "interrupted; the weights of this moment are in there/last.safetensors\n" in outcome.err
    assert "Traceback" not in outcome.err


# predict


def test_rows_go_to_stdout_and_words_to_stderr(run: Run, latest: Path, pictures: Path) -> None:
    outcome = run("predict", pictures, "--format", "jsonl")
    assert outcome.code == 0
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["path"] for row in rows] == sorted(map(str, pictures.iterdir()))
    assert all(row["ok"] for row in rows)
    begun, done = outcome.err.splitlines()
    assert begun.startswith("bundles/tiny.bundle, ten views, on openvino ")
    assert begun.endswith(", float32")
    assert done == "12 predicted"


def test_inputs_that_fail_are_counted_and_give_exit_1(run: Run, latest: Path, pictures: Path) -> None:
    Path("empty.jpg").touch()
    outcome = run("predict", "nothing.jpg", pictures / "a.jpg", "empty.jpg", "nothing.jpg")
    assert outcome.code == 1
    first, second, third, fourth = outcome.out.splitlines()
    assert first == fourth == f"{'nothing.jpg':<40}      -- missing: there is no such file"
    assert second.startswith(f"{pictures}/a.jpg")
    assert second.count("%") == 4
    assert third == f"{'empty.jpg':<40}      -- empty: the file has no bytes"
    assert outcome.err.splitlines()[1:] == ["1 predicted", "3 could not be read: missing 2, empty 1"]


def test_no_input_gives_no_row_and_no_failure(run: Run, latest: Path) -> None:
    Path("images").mkdir()
    outcome = run("predict", "images")
    assert (outcome.code, outcome.out) == (0, "")
    assert outcome.err.endswith("\n0 predicted\n")


def test_names_come_from_stdin_where_the_dash_stands(run: Run, latest: Path, pictures: Path) -> None:
    listed = f"{pictures}/b.jpg\nnothing.jpg\n".encode()
    outcome = run("predict", pictures / "a.jpg", "-", pictures / "c.jpg", "--format", "jsonl", stdin=listed)
    paths = [json.loads(line)["path"] for line in outcome.out.splitlines()]
    assert paths == [f"{pictures}/a.jpg", f"{pictures}/b.jpg", "nothing.jpg", f"{pictures}/c.jpg"]
    assert outcome.code == 1


@pytest.mark.parametrize("row_format", ["table", "jsonl", "csv"])
def test_output_holds_the_rows_that_stdout_would(row_format: str, run: Run, latest: Path, pictures: Path) -> None:
    inputs = [pictures / "a.jpg", "nothing.jpg", pictures / "b.jpg"]
    shown = run("predict", *inputs, "--format", row_format)
    kept = run("predict", *inputs, "--format", row_format, "--output", "rows")
    assert kept.out == ""
    assert kept.code == shown.code == 1
    assert kept.err == shown.err
    assert Path("rows").read_bytes().decode() == shown.out
    assert shown.out.count("\n") == 3 + (row_format == "csv")


def test_output_that_cannot_be_written_is_refused(run: Run, latest: Path, pictures: Path) -> None:
    said = run("predict", pictures, "--output", "nowhere/rows").refused(2)
    assert said == "nowhere/rows: cannot be written: No such file or directory"


def test_topk_and_max_pixels_are_obeyed(run: Run, latest: Path, pictures: Path) -> None:
    outcome = run("predict", pictures / "a.jpg", "--topk", 2, "--format", "csv")
    header, row = csv.reader(io.StringIO(outcome.out))
    assert len(header) == len(row) == 4 + 2 * 3
    many = run("predict", pictures / "a.jpg", "--topk", 1000, "--format", "csv")
    assert len(next(csv.reader(io.StringIO(many.out)))) == 4 + 4 * 3
    small = run("predict", pictures / "a.jpg", "--max-pixels", 100, "--format", "jsonl")
    assert json.loads(small.out)["error"]["code"] == "too_large"
    assert run("predict", "a.jpg", "--max-pixels", 10**12).refused(2).startswith("a limit of 1,000,000,000,000 pixels")


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_backend_is_obeyed(backend: str, run: Run, latest: Path, pictures: Path) -> None:
    outcome = run("predict", pictures / "a.jpg", "--backend", backend, "--threads", 1, "--device", "cpu")
    assert outcome.code == 0
    assert f", on {backend} " in outcome.err


def test_other_views_than_the_graph_s_are_refused(run: Run, run_directory: Path, latest: Path, pictures: Path) -> None:
    said = run("predict", pictures, "--views", "center").refused(2)
    assert said == (
        "bundles/tiny.bundle: its graph holds the views 'ten'; `alexnet-deploy export --views center` makes another"
    )
    made = run("export", "--views", "center", "--out", "bundles/center.bundle")
    assert made.code == 0
    assert made.out == "bundles/center.bundle\n"
    assert made.err.startswith("no WEIGHTS given: taking runs/tiny/weights.safetensors\n")
    assert made.err.endswith("next: alexnet-deploy predict images/\n")
    outcome = run("predict", pictures / "a.jpg", "--views", "center")
    assert outcome.code == 0
    assert outcome.err.startswith("bundles/center.bundle, center views, on ")
    assert run("export", "--out", "bundles/center.bundle").refused(3) == (
        "bundles/center.bundle: exists already; choose another --out, or --force to move it aside"
    )


@pytest.mark.parametrize("command", ["predict a.jpg", "check"])
def test_damaged_bundle_is_refused_in_one_sentence(command: str, run: Run, latest: Path) -> None:
    data = bytearray((latest / "model.onnx").read_bytes())
    data[1000] ^= 1
    (latest / "model.onnx").write_bytes(data)
    said = run(*command.split()).refused(3)
    assert said.startswith("bundles/tiny.bundle/model.onnx: SHA-256 ")
    assert said.endswith("... was published")


# predict, in a process of its own


def test_reader_that_has_gone_is_not_an_error(bundle: Bundle, pictures: Path) -> None:
    for images in ([pictures / "a.jpg"], [*map(str, range(3000))]):
        reading, writing = os.pipe()
        os.close(reading)
        outcome = spawn("predict", *images, "--bundle", bundle.path, "--format", "jsonl", stdout=writing)
        os.close(writing)
        assert outcome.code == 141, "as a shell reports a program that a broken pipe ended"
        for word in ("Traceback", "Exception", "Error", "error:"):
            assert word not in outcome.err


def test_rows_that_do_not_fit_on_the_disk_are_an_error(bundle: Bundle, pictures: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        outcome = spawn("predict", pictures / "a.jpg", "--bundle", bundle.path, stdout=full.fileno())
    assert "No space left on device" in outcome.refused(3)


def test_neither_stdin_nor_a_utf_8_terminal_is_needed(bundle: Bundle, pictures: Path, tmp_path: Path) -> None:
    names = [tmp_path / "é.jpg", tmp_path / os.fsdecode(b"caf\xe9.jpg")]
    for path in names:
        path.write_bytes((pictures / "a.jpg").read_bytes())
    # What starts a program without a terminal may close its stdin.
    closed = ["sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-c", MAIN]
    done = subprocess.run(
        [*closed, "predict", "--bundle", bundle.path, *names, "--format", "jsonl"],
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0, done.stderr
    paths = [json.loads(line)["path"] for line in done.stdout.splitlines()]
    assert paths == [str(names[0]), f"{tmp_path}/caf\\udce9.jpg"]


def test_path_that_is_not_utf_8_is_printed_as_it_is(loaded: LoadedWeights, tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    shutil.copy(loaded.path, path)
    outcome = spawn("inspect", path, PYTHONIOENCODING="utf-8:strict")
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith(f"{path}: trained weights of original")


# check


def test_sound_bundle_passes(run: Run, latest: Path) -> None:
    outcome = run("check")
    assert outcome.code == 0
    header, *rows = outcome.out.splitlines()
    assert header.startswith("engine ")
    assert [row.split()[0] for row in rows] == ["openvino", "onnxruntime"]
    assert all(row.endswith("passed") for row in rows)
    assert outcome.err.endswith(
        "not done: the trained network was not asked; --weights FILE does that\nbundles/tiny.bundle: passed\n"
    )


def test_latest_weights_join_where_they_are_the_bundle_s(
    run: Run, latest: Path, run_directory: Path, loaded: LoadedWeights
) -> None:
    outcome = run("check")
    assert [row.split()[0] for row in outcome.out.splitlines()] == ["engine", "torch", "openvino", "onnxruntime"]
    assert "not done" not in outcome.err
    other = with_tensor(loaded.weights, "fc8.bias", loaded.weights.tensors["fc8.bias"] + 1)
    other.save(run_directory / "weights.safetensors")
    outcome = run("check")
    assert outcome.code == 0
    assert [row.split()[0] for row in outcome.out.splitlines()] == ["engine", "openvino", "onnxruntime"]


def test_planted_fault_is_named_on_stdout(run: Run, bundle: Bundle, loaded: LoadedWeights) -> None:
    name = "red and blue swapped"
    faulty = faulty_bundle(bundle, loaded, name, Path("faulty.bundle").absolute())
    outcome = run("check", faulty.path, "--backend", "onnxruntime")
    assert outcome.code == 1
    _, row, *problems = outcome.out.splitlines()
    assert row.startswith("onnxruntime ")
    assert "FAILED: a probability is off by" in row
    assert any(problem.startswith(f"FAILED: {NAMED_BY_THE_AUDIT[name]}") for problem in problems)
    assert outcome.err.endswith(f"{faulty.path}: FAILED\n")


def test_json_is_for_programs(run: Run, latest: Path, bundle: Bundle) -> None:
    outcome = run("check", "--json", "--backend", "onnxruntime")
    assert outcome.code == 0
    answer = json.loads(outcome.out)
    assert answer.keys() == {"passed", "rows", "problems"}
    assert answer["passed"] is True
    assert answer["problems"] == []
    (row,) = answer["rows"]
    assert row["backend"] == "onnxruntime"
    assert row["failures"] == []
    shuffled = {"labels.txt": encode_labels(bundle.labels[::-1])}
    faulty = republished(bundle, Path("faulty.bundle").absolute(), shuffled)
    outcome = run("check", faulty.path, "--json", "--backend", "onnxruntime")
    assert outcome.code == 1
    answer = json.loads(outcome.out)
    assert answer["passed"] is False
    assert answer["problems"] == ["labels: the graph's metadata and the bundle disagree"]


def test_weights_of_another_network_are_refused(run: Run, latest: Path, loaded: LoadedWeights) -> None:
    changed = with_tensor(loaded.weights, "fc8.bias", loaded.weights.tensors["fc8.bias"] + 1)
    other = saved(changed, Path("other.safetensors"))
    said = run("check", "--weights", other.path).refused(2)
    assert said.startswith(f"other.safetensors: SHA-256 {other.sha256[:12]}...")
    assert loaded.sha256[:12] in said


def test_given_pictures_are_compared_too(run: Run, latest: Path, run_directory: Path, pictures: Path) -> None:
    outcome = run("check", "--data", pictures, "--backend", "openvino")
    assert outcome.code == 0
    rows = outcome.out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == ["torch", "openvino", "openvino"]
    assert "12 given" in rows[-1]


def test_data_without_a_picture_proves_nothing_and_is_refused(run: Run, latest: Path, run_directory: Path) -> None:
    Path("images").mkdir()
    assert run("check", "--data", "images").refused(2).startswith("images: holds no pictures")


# inspect, doctor


def test_inspect_tells_weights_bundle_and_graph(run: Run, bundle: Bundle, loaded: LoadedWeights) -> None:
    of_weights = run("inspect", loaded.path)
    assert of_weights.code == 0
    assert of_weights.err == ""
    assert f"{loaded.path}: trained weights of original, 4 classes\n" in of_weights.out
    assert loaded.sha256 in of_weights.out
    assert "container ship, hot-air balloon, mountain bike, umbrella" in of_weights.out
    assert f"{loaded.weights.architecture.num_parameters:,}" in of_weights.out
    of_bundle = run("inspect", bundle.path)
    assert of_bundle.code == 0
    assert f"{bundle.path}: bundle, fp32, original, views ten\n" in of_bundle.out
    assert loaded.sha256 in of_bundle.out
    assert bundle.sha256 in of_bundle.out
    for text in (*bundle.manifest.files, *bundle.manifest.golden.separation, "openvino", "onnxruntime"):
        assert text in of_bundle.out
    of_graph = run("inspect", bundle.path / "model.onnx")
    assert of_graph.code == 0
    assert ": ONNX graph " in of_graph.out
    assert " 1 LRN" in of_graph.out or " 2 LRN" in of_graph.out
    Path("some.onnx").write_bytes(b"\xff" * 100)
    assert run("inspect", "some.onnx").refused(2).startswith("some.onnx: cannot be read as an ONNX graph")
    Path("some.safetensors").write_bytes(b"\xff" * 100)
    assert run("inspect", "some.safetensors").refused(3).startswith("some.safetensors: is no safetensors file")


def test_doctor_has_a_line_for_every_part(run: Run) -> None:
    outcome = run("doctor")
    assert outcome.code == 0
    assert outcome.err == ""
    lines = {line[4:18].strip(): (line[:2], line[19:]) for line in outcome.out.splitlines()}
    parts = ["python", "processor", "gpu", "openvino", "onnxruntime", "torch", "onnx", "tensorrt-rtx", "tensorrt"]
    assert list(lines) == parts
    for part in ("openvino", "onnxruntime", "torch", "onnx"):
        mark, words = lines[part]
        assert mark == "ok"
        assert words[0].isdigit()


def test_doctor_says_how_to_get_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda package: None)
    outcome = run("doctor")
    assert outcome.code == 0
    missing = [line for line in outcome.out.splitlines() if line.startswith("--") and "pip install" in line]
    assert len(missing) == 6


def test_doctor_finds_what_is_installed_and_broken(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        if name == "torch":
            raise OSError("libtorch.so: file too short")

    monkeypatch.setattr(doctor, "installed_version", lambda package: "1.2.3")
    monkeypatch.setattr(doctor.importlib, "import_module", load)
    outcome = run("doctor")
    assert outcome.code == 1
    broken = [line for line in outcome.out.splitlines() if line.startswith("!!")]
    both = "both onnxruntime and onnxruntime-gpu are installed, and overwrite each other: uninstall both, install one"
    assert broken == [
        "!!  torch          1.2.3 is installed and does not load: libtorch.so: file too short",
        "!!  onnxruntime    " + both,
    ]


# --help


def test_help_is_as_frozen_and_loads_nothing_large() -> None:
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "100", "TERM": "dumb", "PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", ALL_HELP], capture_output=True, check=True, timeout=60, env=environment, encoding="utf-8"
    )
    assert done.stderr == "", "what --help has loaded"
    assert done.stdout == HELP.read_text(encoding="utf-8"), f"where this is meant: {RENEW_HELP}"
