"""Places on the command line that no rows can be written to, and files that are no stored data."""

import json
import shutil
from pathlib import Path

import pytest
from commands import Run

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.predict import predictor


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("/dev/null", "is a device, not a regular file; choose another --output"),
        ("folder", "is a directory, not a regular file; choose another --output"),
        ("file", "already exists; choose another --output"),
        ("file/rows.jsonl", "file is a file, not a folder; choose another --output"),
        ("file/below/rows.jsonl", "file is a file, not a folder; choose another --output"),
        ("nowhere/rows.jsonl", "there is no folder nowhere; create it first"),
        pytest.param(
            "/proc/rows.jsonl",
            "no file can be created in /proc: ",
            marks=pytest.mark.skipif(not Path("/proc/self").exists(), reason="this system has no /proc"),
        ),
    ],
)
@pytest.mark.parametrize("options", [[], ["--resume", "--format", "jsonl"]])
def test_an_impossible_output_is_refused_before_an_engine_opens(
    place: str, sentence: str, options: list[str], run: Run, latest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "open_engine", None)
    Path("folder").mkdir()
    Path("file").write_text("precious")
    said = run("predict", "a.jpg", "--output", place, *options).refused(2)
    if (place, bool(options)) == ("file", True):
        # A complete file of rows may be resumed, so its rows are looked at.
        sentence = "exists, but from byte 0 on it holds no rows of this format; choose another --output"
    assert said.startswith(f"{place}: {sentence}")
    assert Path("file").read_text() == "precious"
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["bundles", "file", "folder"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="this system has no /proc of Linux")
def test_files_of_the_kernel_are_unreadable_inputs(run: Run, latest: Path) -> None:
    names = ["/proc/self/maps", "/proc/self/mem", "/proc/self/status"]
    Path("empty.jpg").touch()
    outcome = run("predict", *names, "empty.jpg", "--format", "jsonl")
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [(row["path"], row["error"]["code"]) for row in rows] == [
        *((name, "unreadable") for name in names),
        ("empty.jpg", "empty"),
    ]
    assert all(row["error"]["message"].endswith("it is not a stored file") for row in rows[:3])
    assert outcome.code == 1


@pytest.mark.parametrize(
    ("command", "name", "hint"),
    [
        ("predict a.jpg", "gpu", "; did you mean cuda?"),
        ("check", "cuda:one", ""),
        ("bench", "tpu", ""),
    ],
)
def test_a_wrong_device_names_its_option(command: str, name: str, hint: str, run: Run, latest: Path) -> None:
    said = run(*command.split(), "--device", name).refused(2)
    assert said == f"--device: must be auto, cpu, cuda or cuda:N, got {name}{hint}"


def test_a_damaged_file_or_bundle_says_what_to_do(run: Run, bundle: Bundle, latest: Path) -> None:
    Path("empty.safetensors").touch()
    for command in ("export", "inspect"):
        assert run(command, "empty.safetensors").refused(3) == "empty.safetensors: is empty; copy the file again"
    (latest / "model.onnx").unlink()
    (latest / "model.onnx").symlink_to(bundle.path / "model.onnx")
    assert run("check").refused(3) == (
        "bundles/tiny.bundle/model.onnx: this is a link, but all files of a bundle must be inside it; copy the bundle "
        "with `cp -rL`, which copies files in place of links"
    )
    (latest / "manifest.json").unlink()
    assert run("check").refused(3) == (
        "bundles/tiny.bundle: not a bundle: there is no manifest.json; pass a directory that `alexnet-deploy export` "
        "wrote, or copy the bundle again"
    )


def test_inspect_of_a_folder_of_images_names_the_commands_for_it(run: Run, drawn: Path) -> None:
    shutil.copytree(drawn, "my images")
    assert (
        run("inspect", "my images")
        .refused(3)
        .endswith("; for a folder of images use `alexnet-deploy predict 'my images'` or `train 'my images'`")
    )


def test_export_with_force_says_where_the_old_bundle_is(run: Run, latest: Path, run_directory: Path) -> None:
    (latest / "mark").write_text("old")
    outcome = run("export", "--out", latest.relative_to(Path.cwd()), "--force", "--plan", "none")
    assert outcome.code == 0
    (aside,) = Path("bundles").glob("tiny.bundle.old-*")
    assert (aside / "mark").read_text() == "old"
    assert f"  moved the old bundle to {aside}\n" in outcome.err
