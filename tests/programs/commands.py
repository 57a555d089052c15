"""Runs the command line in this process or in a new one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HANGS_AFTER_S = 600
"""Timeout of a test that would wait forever: far longer than anything takes on a busy machine."""

HELP = Path(__file__).with_name("help.txt")


MAIN = "from alexnet_deploy.cli import main; main()"


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


RENEW_HELP = """cd tests/programs && env -i PATH="$PATH" COLUMNS=100 TERM=dumb PYTHONUTF8=1 ../../.venv/bin/python -c \\
    "$(../../.venv/bin/python -c 'import commands; print(commands.ALL_HELP)')" >help.txt"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    code: int | str | None
    out: str
    err: str

    def refused(self, code: int) -> str:
        """Return the error's sentence: it must be the last line of stderr, and stdout must be empty."""
        assert self.code == code, self
        assert self.out == ""
        assert "Traceback" not in self.err
        assert self.err.endswith("\n")
        said = self.err.splitlines()[-1]
        assert said.startswith("error: ")
        assert self.err.count("error: ") == 1
        return said.removeprefix("error: ")


Run = Callable[..., Outcome]


def wait_until(has_come: Callable[[], bool], process: subprocess.Popen[bytes] | subprocess.Popen[str]) -> None:
    """Wait for an event that a process causes; fail if the process ends without it, or hangs."""
    end = time.monotonic() + HANGS_AFTER_S
    while not has_come():
        assert process.poll() is None, "the process ended before the event"
        assert time.monotonic() < end, "the process hangs"
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.03)


def spawn(*arguments: str | Path | bytes, stdout: int = subprocess.PIPE, **environment: str) -> Outcome:
    """Run the program in a new process, as a shell does, and return its outcome when it has ended."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=HANGS_AFTER_S,
        env={**inherited, **environment},
    )
    return Outcome(code=done.returncode, out=os.fsdecode(done.stdout or b""), err=os.fsdecode(done.stderr))
