"""Output of inspect, doctor and the program's own options, as text and as JSON."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import safetensors.numpy
from commands import HANGS_AFTER_S, Run
from networks import narrowed

import alexnet_deploy
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION, RESIZE_FILTER
from alexnet_deploy.core.model.table_text import architecture_as_toml, architecture_from_toml
from alexnet_deploy.core.model.weights import CHECKPOINT_KEY, LoadedWeights, load_weights
from alexnet_deploy.inspection import doctor

MAIN = "from alexnet_deploy.__main__ import main; main()"


def test_version_is_one_line(run: Run) -> None:
    outcome = run("--version")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"alexnet-deploy {alexnet_deploy.__version__}\n"


def completed(line: str, home: Path) -> list[str]:
    """Return bash's completions of a line, with the files that --install-completion wrote to a home directory."""
    bin_folder = home / "bin"
    bin_folder.mkdir(exist_ok=True)
    program = bin_folder / "alexnet-deploy"
    program.write_text(f"#!{sys.executable}\n{MAIN}\n")
    program.chmod(0o755)
    script = f"""
        [ -e ~/.bash_completions ] || alexnet-deploy --install-completion >&2
        . ~/.bashrc
        COMP_WORDS=({line}) COMP_CWORD={len(line.split()) - 1}
        _alexnet_deploy_completion alexnet-deploy
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "-c", script],
        env={"HOME": str(home), "PATH": f"{bin_folder}:{os.environ['PATH']}", "TERM": "dumb"},
        capture_output=True,
        check=True,
        timeout=HANGS_AFTER_S,
        text=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash on this machine")
def test_bash_completes_commands_and_options_after_install_completion(tmp_path: Path) -> None:
    assert completed("alexnet-deploy pre", tmp_path) == ["predict"]
    assert completed("alexnet-deploy predict --bat", tmp_path) == ["--batch-size"]


def test_inspect_prints_a_json_record_of_each_kind(
    run: Run, bundle: Bundle, loaded: LoadedWeights, drawn: Path
) -> None:
    weights = json.loads(run("inspect", loaded.path, "--json").out)
    assert weights["kind"] == "weights"
    assert weights["sha256"] == loaded.sha256
    assert weights["labels"] == list(loaded.weights.labels)
    of_bundle = json.loads(run("inspect", bundle.path, "--json").out)
    assert (of_bundle["kind"], of_bundle["path"]) == ("bundle", str(bundle.path))
    assert of_bundle["manifest"]["files"].keys() == bundle.manifest.files.keys()
    assert (
        f"\ndecoding      version {DECODING_VERSION}, resize_filter {RESIZE_FILTER}\n"
        in run("inspect", bundle.path).out
    )
    graph = json.loads(run("inspect", bundle.path / "model.onnx", "--json").out)
    assert graph["kind"] == "graph"
    assert graph["nodes"]["LRN"] == 2
    assert graph["bytes"] == (bundle.path / "model.onnx").stat().st_size
    run("pack", drawn, "one.pack")
    packed = json.loads(run("inspect", "one.pack", "--json").out)
    assert (packed["kind"], packed["header"]["num_train"], packed["header"]["num_validation"]) == ("pack", 16, 8)
    assert packed["bytes"] == 24 * 256 * 256 * 3


def test_inspect_shows_a_run_and_its_next_command(run: Run, data: Path) -> None:
    assert run("train", data, "--arch", "tiny", "--epochs", 1, "--batch-size", 4, "--out", "runs/one").code == 0
    shown = run("inspect", "one").out
    facts = json.loads(run("inspect", "runs/latest", "--json").out)
    assert facts["kind"] == "run"
    assert (facts["architecture"], facts["num_classes"]) == ("tiny", 4)
    assert (facts["epochs_done"], facts["epochs"], facts["best_epoch"]) == (1, 1, 1)
    assert facts["recipe"]["batch_size"] == 4
    assert facts["next"] == "alexnet-deploy export runs/one"
    for line in (
        "runs/one: run of tiny, 4 classes, finished",
        "epochs        1 of 1 done",
        f"best epoch    1: top-1 {facts['best_top1']:.2%}, centre view",
        f"trained on    {facts['data']}",
        "recipe        folder, with epochs 1, batch_size 4",
        "weights       runs/one/weights.safetensors",
        "checkpoint    runs/one/checkpoint.safetensors",
        "metrics       runs/one/metrics.jsonl",
        "report        runs/one/report.html",
        "next          alexnet-deploy export runs/one",
    ):
        assert f"{line}\n" in shown
    # Without a checkpoint the record comes from the weights.
    Path("runs/one/checkpoint.safetensors").unlink()
    Path("runs/one/report.html").unlink()
    again = json.loads(run("inspect", "one", "--json").out)
    assert again == {**facts, "checkpoint": None, "report": None}


def test_inspect_needs_no_torch_for_a_run(run: Run, run_directory: Path) -> None:
    assert run("inspect", "runs/tiny").refused(3) == (
        "runs/tiny/weights.safetensors: has no training record; pass the weights file itself to inspect it"
    )
    Path("runs/tiny/checkpoint.safetensors").write_bytes(b"\xff" * 100)
    said = run("inspect", "runs/tiny").refused(3)
    assert said.startswith("runs/tiny/checkpoint.safetensors: is not a checkpoint, or is damaged: ")
    newer = {CHECKPOINT_KEY: '{"format_version": 99, "position": "unknown"}'}
    Path("runs/tiny/checkpoint.safetensors").write_bytes(safetensors.numpy.save({}, metadata=newer))
    assert run("inspect", "runs/tiny").refused(3) == (
        "runs/tiny/checkpoint.safetensors: checkpoint version 99 is newer than supported; this program reads "
        "checkpoint version 2, 3, 4 and 5"
    )


def test_path_that_is_not_utf_8_is_valid_json(run: Run, loaded: LoadedWeights) -> None:
    path = Path(os.fsdecode(b"caf\xe9.safetensors"))
    shutil.copy(loaded.path, path)
    assert json.loads(run("inspect", path, "--json").out)["path"] == "caf\\xe9.safetensors"


def test_doctor_prints_a_json_record(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"subject", "state", "version", "detail", "problem", "remedy", "note"}
    outcome = run("doctor", "--json")
    examination = json.loads(outcome.out)
    assert (outcome.code, outcome.err, examination["passed"]) == (0, "", True)
    assert all(finding.keys() == keys for finding in examination["findings"])
    found = {finding["subject"]: finding for finding in examination["findings"]}
    assert found["torch"]["state"] == "ok"
    assert found["torch"]["version"][0].isdigit()
    monkeypatch.setattr(doctor, "installed_version", lambda package: "1.2.3")
    monkeypatch.setattr(doctor.importlib, "import_module", lambda name: None)
    outcome = run("doctor", "--json")
    assert (outcome.code, json.loads(outcome.out)["passed"]) == (1, False)


def test_doctor_says_how_to_install_torch_without_cuda(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "installed_version", lambda package: None)
    found = {finding["subject"]: finding for finding in json.loads(run("doctor", "--json").out)["findings"]}
    assert found["torch"]["remedy"].startswith("pip install ")
    assert found["torch"]["remedy"].endswith(("[train]'", "[train]"))
    assert ("--index-url https://download.pytorch.org/whl/cpu" in (found["torch"]["note"] or "")) is (
        sys.platform == "linux"
    )


def test_inspect_toml_prints_the_table_of_a_member_a_weights_file_a_run_and_a_bundle(
    run: Run, bundle: Bundle, loaded: LoadedWeights, run_directory: Path
) -> None:
    printed = run("inspect", "caffenet", "--toml")
    assert (printed.code, printed.err) == (0, "")
    assert architecture_from_toml(printed.out, "a.toml") == ARCHITECTURES["caffenet"]
    own = architecture_as_toml(loaded.weights.architecture)
    for path in (loaded.path, bundle.path, run_directory):
        assert run("inspect", path, "--toml").out == own


def test_inspect_describes_a_table_with_its_shapes_and_costs(run: Run) -> None:
    shown = run("inspect", "paper")
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[1].split() == ["conv1", "conv", "96", "x", "55", "x", "55", "34,944", "105,415,200"]
    assert shown.out.splitlines()[-1].split() == ["paper", "total", "60,965,224", "724,406,816"]
    Path("own.toml").write_text(run("inspect", "paper", "--toml").out.replace('"paper"', '"own"'))
    assert run("inspect", "own.toml").out.splitlines()[:-1] == shown.out.splitlines()[:-1]
    assert run("inspect", "own.toml", "--toml").out == Path("own.toml").read_text()
    facts = json.loads(run("inspect", "own.toml", "--json").out)
    assert (facts["name"], facts["layers"][0]["out_channels"]) == ("own", 96)
    Path("own.toml").write_text("name = 1\n")
    assert run("inspect", "own.toml").refused(2) == "own.toml: input_size is missing"


def test_inspect_toml_of_what_has_no_table_is_refused(run: Run, bundle: Bundle) -> None:
    graph = bundle.path / "model.onnx"
    assert run("inspect", graph, "--toml").refused(3) == (
        f"{graph}: has no table of layers; pass a run, a weights file, a bundle or a name"
    )
    assert run("inspect", "paper", "--toml", "--json").refused(2).startswith("--toml and --json exclude each other")
    assert run("inspect", "lenet", "--toml").refused(2).startswith("lenet: there is no such file or directory")


def test_a_table_of_one_s_own_is_trained_and_resumed(run: Run, data: Path) -> None:
    table = msgspec.structs.replace(narrowed(ARCHITECTURES["tiny"], divisor=4), name="own")
    Path("own.toml").write_text(architecture_as_toml(table))
    options = ("--arch", "own.toml", "--batch-size", 4, "--epochs", 1, "--out", "runs/one")
    assert run("train", data, *options).code == 0
    weights = load_weights(Path("runs/one/weights.safetensors")).weights
    assert weights.architecture == table
    # A run that has ended is looked at again: its table is compared with the file's.
    assert run("train", data, *options, "--resume").code == 0
    Path("own.toml").write_text(architecture_as_toml(msgspec.structs.replace(table, name="other")))
    assert run("train", data, *options, "--resume").code == 2
    Path("own.toml").write_text("name = 1")
    assert run("train", data, "--arch", "own.toml").refused(2).startswith("own.toml: input_size is missing")
