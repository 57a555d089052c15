import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from networks import republished

from alexnet_deploy.core.bundle.stages import is_stage, new_stage, remove_left_stages
from alexnet_deploy.core.bundle.store import Bundle, publishing
from alexnet_deploy.core.errors import BundleError


def stages(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if is_stage(path.name)]


def test_what_a_killed_export_left_is_said_and_removed_by_the_next(bundle: Bundle, tmp_path: Path) -> None:
    program = f"""
        import os, signal
        from pathlib import Path
        from alexnet_deploy.core.bundle.store import open_bundle, publishing
        bundle = open_bundle(Path({str(bundle.path)!r}))
        with publishing(Path({str(tmp_path / "killed.bundle")!r})) as stage:
            for name in bundle.manifest.files:
                stage.write(name, bundle.read(name))
            stage.candidate(bundle.manifest)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    (left,) = stages(tmp_path)
    said: list[str] = []
    with publishing(tmp_path / "other.bundle", say=said.append) as stage:
        assert said == [f"removed {left}, left behind by a stopped export"]
        assert stages(tmp_path) == [stage.path]
        for name in bundle.manifest.files:
            stage.write(name, bundle.read(name))
        stage.seal(bundle.manifest)
    assert [path.name for path in tmp_path.iterdir()] == ["other.bundle"]


def test_an_export_that_is_running_keeps_its_stage(bundle: Bundle, tmp_path: Path) -> None:
    said: list[str] = []
    with publishing(tmp_path / "a.bundle") as stage:
        for name in bundle.manifest.files:
            stage.write(name, bundle.read(name))
        republished(bundle, tmp_path / "b.bundle", {})
        remove_left_stages(tmp_path, said.append)
        stage.seal(bundle.manifest)
    assert said == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bundle", "b.bundle"]


@pytest.mark.parametrize("entry", ["journal.jsonl", "photo.jpg"])
def test_a_folder_that_holds_anything_else_is_left_alone(entry: str, tmp_path: Path) -> None:
    folder = tmp_path / ".pack.datasets.partial"
    folder.mkdir()
    (folder / "manifest.json").touch()
    (folder / entry).touch()
    assert is_stage(folder.name)
    remove_left_stages(tmp_path, pytest.fail)
    assert (folder / entry).exists()


def test_a_link_to_a_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine" / "golden").mkdir(parents=True)
    (tmp_path / ".a.bundle.abcdefgh.partial").symlink_to("mine")
    remove_left_stages(tmp_path, pytest.fail)
    assert (tmp_path / "mine" / "golden").is_dir()


def test_without_locks_stages_are_named_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, descriptor = new_stage(tmp_path / "a.bundle")
    os.close(descriptor)

    def fail(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", fail)
    said: list[str] = []
    remove_left_stages(tmp_path, said.append)
    assert said == [f"{left}: created by an export that is running or was stopped; remove it if no export is running"]
    # A bundle does not need locks either.
    _, descriptor = new_stage(tmp_path / "b.bundle")
    os.close(descriptor)


def test_a_lock_that_fails_leaves_no_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(BundleError, match="cannot be created: Input/output error"), publishing(tmp_path / "a.bundle"):
        pytest.fail("nothing may be made")
    assert list(tmp_path.iterdir()) == []
