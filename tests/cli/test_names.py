"""Names on the command line: what they resolve to, and the exit code if there is nothing of that name."""

import shutil
from pathlib import Path

import pytest
from commands import Run

import alexnet_deploy
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.weights import LoadedWeights

BUNDLE_NAMES = ("bundles/tiny", "bundles/latest", "bundles/tiny.bundle", "tiny.bundle", "tiny", "./bundles/latest")
WEIGHTS_NAMES = ("runs/latest", "runs/tiny", "tiny", "runs/tiny/weights.safetensors")


@pytest.mark.parametrize("name", BUNDLE_NAMES)
def test_every_name_of_a_bundle_resolves_to_it(name: str, run: Run, latest: Path, images: Path) -> None:
    assert run("predict", images / "a.jpg", "--bundle", name).err.startswith("bundles/tiny.bundle, ten views, on ")
    assert run("inspect", name).out.startswith("bundles/tiny.bundle: bundle, fp32, original")
    with alexnet_deploy.load(name) as predictor:
        assert predictor.bundle.path == Path("bundles/tiny.bundle")


@pytest.mark.parametrize("name", ["bundles/latest", "tiny"])
def test_other_commands_accept_the_same_names(name: str, run: Run, latest: Path) -> None:
    assert "bundles/tiny.bundle: passed\n" in run("check", "--backend", "onnxruntime", name).err
    # The bundle is found first, and then the request is refused.
    assert run("bench", name, "--data", "nothing").refused(2) == "nothing: there is no such file or folder"
    said = run("build", name, "--plan", "tensorrt-rtx", "--out", "bundles/tiny.bundle").refused(2)
    assert said.startswith("bundles/tiny.bundle: is the bundle itself")


@pytest.mark.parametrize("name", WEIGHTS_NAMES)
def test_every_name_of_a_run_resolves_to_its_weights(
    name: str, run: Run, run_directory: Path, loaded: LoadedWeights, latest: Path
) -> None:
    if name != "tiny":
        assert "torch" in run("check", "--weights", name, "--backend", "onnxruntime").out
    shutil.rmtree(latest.parent)
    outcome = run("export", name, "--out", "mine.bundle", "--views", "center", "--plan", "none")
    assert outcome.code == 0
    assert loaded.sha256 in run("inspect", "mine.bundle").out


def test_an_existing_file_comes_before_a_name(run: Run, latest: Path) -> None:
    Path("tiny").mkdir()
    assert run("check", "tiny").refused(3) == (
        "tiny: not a bundle: there is no manifest.json; pass a directory that `alexnet-deploy export` wrote, or copy "
        "the bundle again"
    )


def test_an_unknown_name_lists_the_existing_entries(run: Run, latest: Path, run_directory: Path) -> None:
    assert run("check", "tini").refused(2) == "tini: there is no such bundle; bundles/ holds tiny.bundle"
    assert run("export", "tini").refused(2) == "tini: there is no such weights file or run; runs/ holds tiny"
    for number in range(6):
        (latest.parent / f"b{number}.bundle").mkdir()
    said = run("check", "tini").refused(2)
    assert said.count(".bundle") == 5
    assert said.endswith(", and 2 more")
    with pytest.raises(UsageError, match="tini: there is no such bundle"):
        alexnet_deploy.load("tini")


def test_a_run_is_not_a_bundle_and_a_bundle_is_not_a_run(run: Run, latest: Path, run_directory: Path) -> None:
    assert run("check", "runs/tiny").refused(3) == (
        "runs/tiny: this is a run, not a bundle; `alexnet-deploy export runs/tiny` makes one from it"
    )
    assert (
        run("export", "bundles/latest").refused(3).startswith("bundles/tiny.bundle: this is a bundle, not a run; name")
    )
    Path("runs/tiny/weights.safetensors").rename("runs/tiny/checkpoint.safetensors")
    assert run("export", "runs/tiny").refused(3) == (
        "runs/tiny: this run has no weights yet; `alexnet-deploy train --resume --out runs/tiny` resumes it"
    )


def test_a_latest_file_that_names_a_missing_entry_is_refused(run: Run, latest: Path) -> None:
    shutil.rmtree(latest)
    for command in ("check", "check bundles/latest", "inspect bundles/latest"):
        said = run(*command.split()).refused(2)
        assert said.startswith("bundles/latest: names tiny.bundle, which does not exist in bundles; `alexnet-deploy")


TAKES_A_PATH = (
    "predict a.jpg --bundle {}",
    "check {}",
    "check --data {}",
    "check --weights {}",
    "bench {}",
    "bench --data {}",
    "build --plan tensorrt-rtx {}",
    "inspect {}",
    "export {}",
    "export --precision int8 --calibrate {}",
    "export --precision int8 --data {}",
    "train {}",
    "train --resume --out {}",
    "train --recipe {}.toml",
    "pack {} out.pack",
    "pack --verify {}",
)


@pytest.mark.parametrize("command", TAKES_A_PATH)
def test_a_missing_path_is_wrong_use_in_every_command(
    command: str, run: Run, latest: Path, run_directory: Path
) -> None:
    said = run(*command.format("nothing").split()).refused(2)
    assert said.startswith("nothing")


@pytest.mark.parametrize("command", [command for command in TAKES_A_PATH if not command.endswith(".toml")])
def test_an_unusable_file_is_a_failure_in_every_command(
    command: str, run: Run, latest: Path, run_directory: Path
) -> None:
    Path("text").write_text("this is neither a bundle nor weights nor an image\n")
    outcome = run(*command.format("text").split())
    assert outcome.code == 3
    assert outcome.err.splitlines()[-1].startswith("error: text")


@pytest.mark.parametrize(
    "command", ["export --out there", "build --plan tensorrt-rtx --out there", "pack drawn there", "demo --out there"]
)
def test_an_existing_output_is_wrong_use_in_every_command(
    command: str, run: Run, latest: Path, run_directory: Path, drawn: Path
) -> None:
    Path("there").mkdir()
    Path("drawn").symlink_to(drawn)
    assert "there: already exists; choose another " in run(*command.split()).refused(2)


@pytest.mark.parametrize("command", [("export",), ("train",), ("build", "--plan", "tensorrt-rtx")])
def test_no_output_may_be_named_latest(command: tuple[str, ...], run: Run, latest: Path, run_directory: Path) -> None:
    for place in ("bundles/latest", "runs/latest", "elsewhere/latest"):
        said = run(*command, "--out", place).refused(2)
        assert said == f"{place}: a file called latest names the newest entry of its folder; choose another --out"


def test_the_bare_name_latest_is_the_newest_entry(run: Run, latest: Path) -> None:
    assert run("inspect", "latest").out.startswith(f"{latest.relative_to(Path.cwd())}: bundle, ")


def test_a_command_for_weights_looks_in_runs_first(run: Run, latest: Path, run_directory: Path) -> None:
    latest.rename("bundles/tiny")
    latest.with_name("latest").write_text("tiny\n")
    for name in ("latest", "tiny"):
        outcome = run("export", name, "--out", f"of-{name}.bundle", "--views", "center", "--plan", "none")
        assert outcome.code == 0, outcome
    assert "bundles/tiny: passed\n" in run("check", "tiny", "--backend", "onnxruntime").err
    assert run("inspect", "latest").out.startswith("bundles/tiny: bundle, ")


@pytest.mark.parametrize("points_to", ["tiny.bundle", "elsewhere", "nowhere"])
def test_a_link_in_the_place_of_latest_is_refused(points_to: str, run: Run, latest: Path, run_directory: Path) -> None:
    for folder in ("bundles", "runs"):
        Path(folder, "latest").unlink()
        Path(folder, "elsewhere").write_text("tiny\n")
        Path(folder, "latest").symlink_to(points_to)
    for command in ("check", "check latest", "check bundles/latest", "inspect latest"):
        said = run(*command.split()).refused(2)
        assert said.startswith("bundles/latest: is a link, but must be a file with the name of an entry of bundles; ")
    for command in ("export", "export latest", "export runs/latest"):
        assert run(*command.split()).refused(2).startswith("runs/latest: is a link, but must be a file with the name ")


def test_a_command_to_copy_quotes_a_path_with_spaces(run: Run, run_directory: Path) -> None:
    run_directory.rename("runs/my run")
    said = run("check", "runs/my run").refused(3)
    assert said.endswith("; `alexnet-deploy export 'runs/my run'` makes one from it")
    Path("runs/my run/weights.safetensors").rename("runs/my run/checkpoint.safetensors")
    assert "`alexnet-deploy train --resume --out 'runs/my run'` resumes it" in run("export", "my run").refused(3)


def test_import_of_ones_own_run_or_bundle_names_the_command_for_it(run: Run, latest: Path, run_directory: Path) -> None:
    assert run("import", "runs/tiny").refused(3) == (
        "runs/tiny: this is a run, which needs no import; `alexnet-deploy export runs/tiny` exports it"
    )
    assert (
        run("import", "bundles/tiny.bundle")
        .refused(3)
        .startswith("bundles/tiny.bundle: this is a bundle, which is ready to run and cannot be imported; ")
    )
