import json
import subprocess
import sys
from pathlib import Path

import pytest
import shard_kills
from commands import HANGS_AFTER_S

from alexnet_deploy.core.bundle.store import Bundle


@pytest.mark.parametrize(("num_kills", "num_names"), [(6, 40), pytest.param(50, 804, marks=pytest.mark.slow)])
def test_shards_that_were_killed_and_resumed_merge_to_the_bytes_of_one_run(
    num_kills: int, num_names: int, bundle: Bundle, images: Path, tmp_path: Path
) -> None:
    listed = [f"{images}/{'abcdefghijkl'[number % 12]}.jpg" for number in range(num_names)]
    for number in (0, 7, num_names - 2):
        listed[number] = "nowhere.jpg"
    names = tmp_path / "names"
    names.write_text("".join(f"{name}\n" for name in listed))
    done = subprocess.run(
        [sys.executable, shard_kills.__file__, tmp_path, bundle.path, names, str(num_kills), "6"],
        capture_output=True,
        check=False,
        text=True,
        timeout=HANGS_AFTER_S,
    )
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert counts["kills"] == num_kills
    assert counts["steps"] == shard_kills.LAST_STEPS
    # The record has its name from its rename, the second step, on.
    assert counts["steps with record"] == shard_kills.LAST_STEPS - 2
    if num_kills > 20:
        # Where a few kills at random moments find a process is chance.
        assert counts["with rows"] > 0
        assert counts["with record"] > 0
