"""`gather` is killed at any moment and run again: the same pictures, the same table, and nothing else."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import gather_kills
import pytest
from commands import HANGS_AFTER_S
from gathering import put_all, write_list
from web import serving


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[Path]:
    with serving() as site:
        yield write_list(tmp_path / "urls.csv", put_all(site, 12))


def kill(urls: Path, num_kills: int, seed: int) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, gather_kills.__file__, urls.parent, urls, str(num_kills), str(seed)],
        capture_output=True,
        check=False,
        timeout=HANGS_AFTER_S,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = json.loads(done.stdout)
    return counts


def test_three_kills_change_nothing(urls: Path) -> None:
    assert kill(urls, 3, 1)["kills"] == 3


@pytest.mark.slow
def test_forty_kills_change_nothing(urls: Path) -> None:
    counts = kill(urls, 40, 2)
    assert counts["kills"] == 40
    assert counts["rounds"] > 5
    assert 10 < counts["at steps"] < 35
