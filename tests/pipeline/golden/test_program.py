"""A program that decodes nothing, too little, too much, too slowly, or not at all is said to do so."""

import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.pipeline.golden.program import IMAGE_BYTES, pixels_of

FILES = {"a.jpg": b"one", "b.png": b"another"}
WRITE = "import sys; sys.stdout.buffer.write("

TOO_MUCH = "; stopped: it must write uint8 RGB and nothing else"


def python(code: str) -> str:
    return shlex.join([sys.executable, "-c", code])


def test_it_reads_the_files_in_order_and_its_pixels_come_back() -> None:
    code = (
        "import sys, pathlib\n"
        "for line in sys.stdin:\n"
        "    data = pathlib.Path(line[:-1]).read_bytes()\n"
        f"    sys.stdout.buffer.write(bytes([len(data)]) * {IMAGE_BYTES})\n"
    )
    found = pixels_of(python(code), FILES)
    assert not isinstance(found, str)
    assert [(image.shape, image.dtype, set(image.ravel().tolist())) for image in found] == [
        ((256, 256, 3), np.uint8, {3}),
        ((256, 256, 3), np.uint8, {7}),
    ]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("pass", "wrote nothing, 393,216 bytes are needed, 256 x 256 x 3 for each of 2 files"),
        (f"{WRITE}bytes({IMAGE_BYTES}))", "wrote 196,608 bytes, 393,216 are needed; these are 1 of 2 images"),
        (f"{WRITE}bytes(7))", "wrote 7 bytes, 393,216 are needed"),
        (f"{WRITE}bytes(2 * 256 * 256))", "wrote 131,072 bytes, 393,216 are needed; this is one channel, not RGB"),
        (
            f"{WRITE}bytes(2 * 227 * 227 * 3))",
            "wrote 309,174 bytes, 393,216 are needed; these are images of 227 x 227, not 256 x 256",
        ),
        (
            f"{WRITE}bytes({2 * IMAGE_BYTES + 1}))",
            f"wrote more than 393,216 bytes, 256 x 256 x 3 for each of 2 files{TOO_MUCH}",
        ),
        (
            f"{WRITE}bytes({2 * IMAGE_BYTES})); sys.exit('out of memory')",
            "ended with exit status 1, after 393,216 bytes of 393,216: out of memory",
        ),
        ("import os; os.kill(os.getpid(), 11)", "ended with signal 11, Segmentation fault, after 0 bytes of 393,216"),
    ],
)
def test_an_output_that_cannot_be_compared_is_explained(code: str, said: str) -> None:
    assert pixels_of(python(code), FILES) == said


@pytest.mark.parametrize(
    "code",
    [
        "import time; time.sleep(600)",
        "import os, time; os.close(1); os.close(2); time.sleep(600)",
        # What it started holds the pipe open.
        "import subprocess; subprocess.Popen(['sleep', '600'])",
        "import sys\nwhile True: print('busy', file=sys.stderr)",
    ],
)
def test_one_that_does_not_end_is_stopped(code: str) -> None:
    found = pixels_of(python(code), FILES, timeout_s=0.5)
    assert isinstance(found, str)
    assert found.startswith("did not end within 0.5 s, after 0 bytes of 393,216; stopped")


def test_an_endless_output_is_stopped() -> None:
    found = pixels_of(python("import sys\nwhile True: sys.stdout.buffer.write(bytes(9999))"), FILES)
    assert isinstance(found, str)
    assert found.startswith("wrote more than 393,216 bytes")


def test_what_it_started_is_stopped_with_it(tmp_path: Path) -> None:
    beat = tmp_path / "beat"
    child = f"import time, pathlib\nwhile True: pathlib.Path({str(beat)!r}).touch(); time.sleep(0.01)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(600)"
    pixels_of(python(code), FILES, timeout_s=1.5)
    assert beat.exists()
    beat.unlink()
    time.sleep(0.2)
    assert not beat.exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("./no-such-program -x", "--pixels ./no-such-program -x: cannot be started: No such file or directory"),
        ("/", "--pixels /: cannot be started: Permission denied"),
        ("  ", "--pixels needs a command that decodes images; got an empty text"),
        ("decode 'x", "--pixels decode 'x: cannot be split into words: No closing quotation"),
    ],
)
def test_one_that_cannot_be_started_is_wrong_use(command: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        pixels_of(command, FILES)
    assert str(refused.value) == said


def test_no_shell_reads_the_command() -> None:
    code = f"{WRITE}sys.argv[1].encode() * {2 * IMAGE_BYTES // 4})"
    found = pixels_of(f"{python(code)} '$(x)'", FILES)
    assert not isinstance(found, str)
    assert found[0].tobytes()[:8] == b"$(x)$(x)"
