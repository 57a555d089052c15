"""Imports inside a checkout, with a non-editable installation."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import HANGS_AFTER_S

ROOT = Path(__file__).parents[2]
ROOMS = ("train", "export", "engines")
IMPORT = "import alexnet_deploy.train, alexnet_deploy.export, alexnet_deploy.engines as last; print(last.__file__)"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder like site-packages: the package with its sub-packages, and this installation's metadata."""
    site = tmp_path / "site-packages"
    shutil.copytree(ROOT / "alexnet_deploy", site / "alexnet_deploy")
    for room in ROOMS:
        shutil.copytree(ROOT / room, site / "alexnet_deploy" / room)
    return site


def in_python(program: str, cwd: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Run a program without this environment's site-packages, whose editable finder maps the folders."""
    return subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=cwd,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        check=False,
        timeout=HANGS_AFTER_S,
        text=True,
    )


def test_rooms_of_a_checkout_are_found_beside_the_package(installed: Path) -> None:
    done = in_python(IMPORT, ROOT, installed)
    assert done.stderr == ""
    assert done.stdout == f"{ROOT}/engines/__init__.py\n"


def test_rooms_of_an_installation_are_found_in_the_package(installed: Path, tmp_path: Path) -> None:
    done = in_python(IMPORT, tmp_path, installed)
    assert done.stderr == ""
    assert done.stdout == f"{installed}/alexnet_deploy/engines/__init__.py\n"


def test_a_stray_room_beside_an_installation_is_not_ours(installed: Path, tmp_path: Path) -> None:
    for room in (*ROOMS, "strange"):
        (installed / room).mkdir()
        (installed / room / "__init__.py").write_text("raise AssertionError('a stray room was imported')\n")
    (installed / "pyproject.toml").touch()
    done = in_python(IMPORT, tmp_path, installed)
    assert done.stdout == f"{installed}/alexnet_deploy/engines/__init__.py\n", done.stderr
    assert "ModuleNotFoundError" in in_python("import alexnet_deploy.strange", tmp_path, installed).stderr


def test_stray_rooms_beside_a_part_of_the_package_are_not_ours(installed: Path, tmp_path: Path) -> None:
    for room in ROOMS:
        shutil.rmtree(installed / "alexnet_deploy" / room)
    (installed / "train").mkdir()
    (installed / "train" / "__init__.py").touch()
    assert "ModuleNotFoundError" in in_python("import alexnet_deploy.train", tmp_path, installed).stderr


def pins_of(file: Path) -> dict[str, str]:
    """The versions that a file of requirements names, by the name that pip compares, without local builds (+cpu)."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s+]+)", file.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def test_the_lock_holds_a_digest_for_every_pinned_package() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    blocks = [block for block in re.split(r"^(?=[A-Za-z0-9._-]+==)", lock, flags=re.MULTILINE) if "==" in block]
    assert pins_of(ROOT / "requirements.lock") == pins_of(ROOT / "constraints.txt"), "run scripts/lock"
    assert [block for block in blocks if not re.search(r"--hash=sha256:[0-9a-f]{64}", block)] == []
