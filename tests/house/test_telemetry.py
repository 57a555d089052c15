"""No command uses the network, in a user's environment rather than CI's."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import HANGS_AFTER_S, MAIN

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.model.weights import LoadedWeights

# Internet sockets and the resolver daemon's sockets, as native libraries open them.
REACHING_OUT = re.compile(r"socket\(AF_INET|connect\(|sendto\(.*AF_INET")

ASKING = "import socket, sys; sys.exit(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect_ex(('127.0.0.1', 9)))"


@pytest.fixture
def bundle(center_bundle: Bundle) -> Bundle:
    return center_bundle


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home directory."""
    home = tmp_path / "home"
    home.mkdir()
    return home


def as_person(home: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "ORT_DISABLE_TELEMETRY")}
    environment = {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache")}
    return subprocess.run(
        command, env=environment, cwd=home, capture_output=True, text=True, check=False, timeout=HANGS_AFTER_S
    )


def arguments_of(command: str, bundle: Bundle, loaded: LoadedWeights, images: Path, out: Path) -> list[str | Path]:
    return {
        "doctor": ["doctor"],
        "inspect": ["inspect", bundle.path / "model.onnx"],
        "predict": ["predict", images, "--bundle", bundle.path, "--backend", "onnxruntime"],
        "check": ["check", bundle.path, "--weights", loaded.path],
        "bench": ["bench", bundle.path, "--seconds", "0"],
        "export": ["export", loaded.path, "--views", "center", "--out", out],
    }[command]


@pytest.mark.parametrize("command", ["doctor", "inspect", "predict", "check", "bench", "export"])
def test_no_command_reaches_the_network(
    command: str, bundle: Bundle, loaded: LoadedWeights, images: Path, home: Path, tmp_path: Path
) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: native sockets cannot be seen")
    log = tmp_path / "calls"
    done = as_person(
        home,
        *(strace, "-f", "--seccomp-bpf", "-qq", "-e", "trace=network", "-o", log),
        *(sys.executable, "-c", MAIN),
        *arguments_of(command, bundle, loaded, images, tmp_path / "new.bundle"),
    )
    assert done.returncode == 0, done.stderr
    assert not REACHING_OUT.search(log.read_text())


def test_onnxruntime_keeps_no_id_of_this_machine(bundle: Bundle, images: Path, home: Path) -> None:
    arguments = ["predict", images, "--bundle", bundle.path, "--backend", "onnxruntime"]
    done = as_person(home, sys.executable, "-c", MAIN, *arguments)
    assert done.returncode == 0, done.stderr
    assert [path for path in home.rglob("*") if path.is_file()] == []


def test_by_itself_onnxruntime_would_keep_one(home: Path) -> None:
    """The library does create the files that the test above looks for."""
    done = as_person(home, sys.executable, "-c", "import onnxruntime; onnxruntime.InferenceSession")
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("deviceid"))


def test_a_socket_is_seen(home: Path, tmp_path: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: native sockets cannot be seen")
    log = tmp_path / "calls"
    watch = (strace, "-f", "--seccomp-bpf", "-qq", "-e", "trace=network", "-o", log)
    as_person(home, *watch, sys.executable, "-c", ASKING)
    assert REACHING_OUT.search(log.read_text())


def test_a_choice_that_was_made_is_kept() -> None:
    program = "import os; import alexnet_deploy; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.stdout == "0\n"
