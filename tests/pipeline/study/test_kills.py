"""A study that is killed and resumed ends with the bytes of one undisturbed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import HANGS_AFTER_S
from studies import write_study

PROGRAMS = Path(__file__).parents[2] / "programs"


def kills(folder: Path, data: Path, number: int, seed: int) -> dict[str, int]:
    study = write_study(folder)
    done = subprocess.run(
        [sys.executable, PROGRAMS / "study_kills.py", folder, data, study, str(number), str(seed)],
        capture_output=True,
        check=False,
        timeout=HANGS_AFTER_S,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return counts


def test_two_kills_leave_no_trace(tmp_path: Path, painted: Path) -> None:
    counts = kills(tmp_path, painted, 2, 1)
    assert counts["kills"] == 2
    assert counts["steps"] > 100


@pytest.mark.slow
def test_ten_kills_leave_no_trace(tmp_path: Path, painted: Path) -> None:
    counts = kills(tmp_path, painted, 10, 7)
    assert counts["kills"] == 10
    assert 0 < counts["at steps"] < 10
