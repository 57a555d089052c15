"""Run another program as a decoder: paths on its stdin, pixels from its stdout."""

import os
import selectors
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.core.process.say import counted

IMAGE_BYTES = IMAGE_SIZE * IMAGE_SIZE * 3

TIMEOUT_S = 120
"""Seconds that a program may take for all files: it may load a large library first."""

_PIECE_BYTES = 1 << 16
_WORDS_BYTES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ended:
    """What a program did."""

    output: bytes
    """Its stdout, at most one byte more than was asked for."""
    words: str
    """The last line of its stderr."""
    code: int | None
    """Its exit status, negative for a signal; None if it was stopped."""
    is_late: bool
    """Whether it was stopped because its time was over."""


def pixels_of(command: str, files: Mapping[str, bytes], timeout_s: float = TIMEOUT_S) -> list[np.ndarray] | str:
    """Return what a program makes of image files, each uint8 (256, 256, 3); as text, what is wrong with its output.

    `command` is split as a shell would split it, and run without a shell. The program reads the paths of copies of the
    `files`, one a line, and writes the pixels of each in order. Raises UsageError if it cannot be started.
    """
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"--pixels {command}: cannot be split into words: {error}") from error
    if not arguments:
        raise UsageError("--pixels needs a command that decodes images; got an empty text")
    num_bytes = len(files) * IMAGE_BYTES
    # Copies, so that the program gets the verified bytes, and paths without line breaks.
    with tempfile.TemporaryDirectory(prefix="alexnet-deploy-") as name:
        folder = Path(name)
        for file, data in files.items():
            (folder / file).write_bytes(data)
        # No golden file has such a name.
        paths = folder / ".paths"
        paths.write_text("".join(f"{folder / file}\n" for file in files))
        ended = _run(arguments, paths, num_bytes, timeout_s)
    if problem := _problem(ended, len(files), timeout_s):
        return f"{problem}: {ended.words}" if ended.words else problem
    return list(np.frombuffer(ended.output, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 3))


def _run(arguments: list[str], paths: Path, num_bytes: int, timeout_s: float) -> _Ended:
    end = time.monotonic() + timeout_s
    try:
        with paths.open("rb") as stdin:
            # A session of its own, so that the programs that it starts are stopped with it.
            process = subprocess.Popen(
                arguments, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
            )
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise UsageError(f"--pixels {shlex.join(arguments)}: cannot be started: {reason}") from error
    try:
        output, words, is_complete = _collect(process, num_bytes, end)
        code = None
        with suppress(subprocess.TimeoutExpired):
            code = process.wait(max(0.0, end - time.monotonic())) if is_complete else None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        # Not __exit__, which would wait for the end of pipes that another process may hold open.
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.wait()
    is_late = code is None and len(output) <= num_bytes
    lines = [line.strip() for line in words.decode(errors="backslashreplace").splitlines() if line.strip()]
    return _Ended(output=output, words=lines[-1] if lines else "", code=code, is_late=is_late)


def _collect(process: subprocess.Popen[bytes], num_bytes: int, end: float) -> tuple[bytes, bytes, bool]:
    """Return stdout, the end of stderr, and whether both ended in time and within `num_bytes`."""
    output, words = bytearray(), b""
    with selectors.DefaultSelector() as selector:
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            selector.register(pipe, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                return bytes(output), words, False
            for key, _ in ready:
                piece = os.read(key.fd, _PIECE_BYTES)
                if not piece:
                    selector.unregister(key.fileobj)
                elif key.fileobj is process.stdout:
                    output += piece
                else:
                    words = (words + piece)[-_WORDS_BYTES:]
            if len(output) > num_bytes:
                return bytes(output), words, False
    return bytes(output), words, True


def _problem(ended: _Ended, num_files: int, timeout_s: float) -> str:
    """Return why the output cannot be compared; empty if it can."""
    found, wanted = len(ended.output), num_files * IMAGE_BYTES
    each = f"{IMAGE_SIZE} x {IMAGE_SIZE} x 3 for each of {num_files} files"
    if ended.is_late:
        return f"did not end within {timeout_s:g} s, after {counted(found, 'byte')} of {wanted:,}; stopped"
    if found > wanted:
        return f"wrote more than {wanted:,} bytes, {each}; stopped: it must write uint8 RGB and nothing else"
    if ended.code:
        how = (
            f"exit status {ended.code}" if ended.code > 0 else f"signal {-ended.code}, {signal.strsignal(-ended.code)}"
        )
        return f"ended with {how}, after {counted(found, 'byte')} of {wanted:,}"
    if not found:
        return f"wrote nothing, {wanted:,} bytes are needed, {each}"
    if found < wanted:
        return f"wrote {counted(found, 'byte')}, {wanted:,} are needed{_hint(found, num_files)}"
    return ""


def _hint(found: int, num_files: int) -> str:
    if found == num_files * IMAGE_SIZE * IMAGE_SIZE:
        return "; this is one channel, not RGB"
    if found % IMAGE_BYTES == 0:
        return f"; these are {found // IMAGE_BYTES} of {num_files} images"
    side = round((found / num_files / 3) ** 0.5)
    if found == num_files * side * side * 3:
        return f"; these are images of {side} x {side}, not {IMAGE_SIZE} x {IMAGE_SIZE}"
    return ""
