"""Signals sent to the program in a separate process, at moments that its output or files announce."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from commands import HANGS_AFTER_S, wait_until

from alexnet_deploy.core.bundle.store import Bundle

SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]

# A module of the program that imports so slowly that the signal arrives during the import.
DURING_IMPORT = """
import os, signal, sys
class Sender:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.{signal})
sys.meta_path.insert(0, Sender())
sys.argv = ["alexnet-deploy", *sys.argv[1:]]
from alexnet_deploy.__main__ import main
main()
"""

# The graph of a bundle is being written into the hidden directory that becomes the bundle.
DURING_WRITE = """
import os, signal, sys
def send(event, arguments):
    if event == "open" and str(arguments[0]).endswith(".partial/model.onnx"):
        os.kill(os.getpid(), signal.{signal})
sys.addaudithook(send)
sys.argv = ["alexnet-deploy", *sys.argv[1:]]
from alexnet_deploy.__main__ import main
main()
"""

# A decoder that cannot be stopped: its own thread, in C or waiting as here.
ENDLESS_DECODER = """
import sys, threading
from alexnet_deploy.predict import stream
decode = stream.read_image
def read_image(path, *rest):
    if path.name == "endless.jpg":
        threading.Event().wait(600)
    return decode(path, *rest)
stream.read_image = read_image
sys.argv = ["alexnet-deploy", *sys.argv[1:]]
from alexnet_deploy.__main__ import main
main()
"""


def run(program: str, *arguments: object, ignored: signal.Signals | None = None) -> subprocess.CompletedProcess[str]:
    def ignore() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        check=False,
        timeout=HANGS_AFTER_S,
        text=True,
        preexec_fn=ignore,
    )


@pytest.mark.parametrize(("number", "code"), SIGNALS)
@pytest.mark.parametrize("module", ["typer", "alexnet_deploy.cli.commands.train", "numpy", "openvino"])
def test_signal_during_an_import_ends_in_one_short_line(
    module: str, number: signal.Signals, code: int, bundle: Bundle, images: Path
) -> None:
    program = DURING_IMPORT.format(module=module, signal=number.name)
    done = run(program, "predict", images / "a.jpg", "--bundle", bundle.path)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr == f"interrupted by {number.name}\n"


def test_signal_that_was_ignored_from_the_start_stays_ignored(bundle: Bundle, images: Path) -> None:
    program = DURING_IMPORT.format(module="openvino", signal="SIGHUP")
    done = run(program, "predict", images / "a.jpg", "--bundle", bundle.path, ignored=signal.SIGHUP)
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("1 predicted\n")


@pytest.fixture
def endless(images: Path, tmp_path: Path) -> list[Path]:
    """Twelve images that give predictions, and three whose decoder never returns."""
    stuck = [tmp_path / str(number) / "endless.jpg" for number in range(3)]
    for path in stuck:
        path.parent.mkdir()
        path.write_bytes((images / "a.jpg").read_bytes())
    return [*sorted(images.iterdir()), *stuck]


def lines_of(stream: IO[bytes] | None) -> Iterator[bytes]:
    assert stream is not None
    yield from stream


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signal_during_an_endless_decode_ends_predict_with_its_rows(
    number: signal.Signals, code: int, bundle: Bundle, endless: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "rows.jsonl"
    arguments = ["predict", *endless, "--bundle", bundle.path, "--output", output, "--batch-size", 1]
    with subprocess.Popen(
        [sys.executable, "-u", "-c", ENDLESS_DECODER, *map(str, arguments)], stderr=subprocess.PIPE
    ) as process:
        # The rows before the first stuck image, minus those that are decoded ahead without a prediction yet.
        wait_until(lambda: any(path.read_bytes() for path in tmp_path.glob(".rows.jsonl.*.partial")), process)
        process.send_signal(number)
        said = list(lines_of(process.stderr))
    assert process.returncode == code
    (partial,) = tmp_path.glob(".rows.jsonl.*.partial")
    rows = partial.read_bytes()
    assert rows.endswith(b"\n")
    paths = [json.loads(line)["path"] for line in rows.splitlines()]
    assert paths == [str(path) for path in endless[: len(paths)]]
    assert said[-2:] == [
        f"the rows so far are in {partial}; repeat the command with --resume to continue\n".encode(),
        f"interrupted by {number.name}\n".encode(),
    ]


@pytest.mark.parametrize(("number", "code"), SIGNALS)
def test_signal_while_a_bundle_is_made_leaves_nothing_half_made(
    number: signal.Signals, code: int, loaded_path: Path, tmp_path: Path
) -> None:
    program = DURING_WRITE.format(signal=number.name)
    out = tmp_path / "bundles/new.bundle"
    done = run(program, "export", loaded_path, "--views", "center", "--out", out)
    assert done.returncode == code
    assert done.stdout == ""
    assert done.stderr.endswith(f"interrupted by {number.name}\n")
    assert "Traceback" not in done.stderr
    # The directory was created, and the new bundle in it was not.
    assert list(out.parent.iterdir()) == []


@pytest.fixture
def loaded_path(bundle: Bundle, request: pytest.FixtureRequest) -> Path:
    """The weights file of the bundle."""
    path: Path = request.getfixturevalue("loaded").path
    return path


def test_second_signal_ends_at_once(bundle: Bundle, images: Path) -> None:
    program = """
import os, signal
from alexnet_deploy.core.process import interruption
interruption.install()
with interruption.unwinding():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("this is not reached")
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted by SIGINT\n")


def test_signal_that_a_destructor_swallows_ends_the_program_all_the_same() -> None:
    program = """
import os, signal
from alexnet_deploy.core.process import interruption
interruption.install()
class Swallows:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
with interruption.unwinding():
    Swallows()
    print("this is not reached")
"""
    done = run(program)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "interrupted by SIGTERM\n")


def test_the_program_begins_with_next_to_nothing_imported() -> None:
    program = "import sys; before = set(sys.modules); import alexnet_deploy.__main__; print(*set(sys.modules) - before)"
    loaded = {name.partition(".")[0] for name in run(program).stdout.split()}
    assert loaded <= {"alexnet_deploy", "signal", "_signal", "enum", "typing", "contextlib", "re", "collections"} | {
        "_collections", "_collections_abc", "functools", "_functools", "operator", "_operator", "types", "copyreg",
        "keyword", "_sre", "reprlib", "itertools", "warnings", "_weakref", "weakref", "_typing", "os",
        # Not imported; its import is blocked.
        "openvino_telemetry",
    }  # fmt: skip
