"""python ray_kills.py FOLDER BUNDLE NAMES KILLS SEED: kill workers and drivers of `predict --ray local`, and resume.

A worker is killed only once its shard has grown since the last kill there, so the job can end. Prints counts as JSON.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

COMMAND = [sys.executable, "-m", "alexnet_deploy", "predict", "-"]


def descendants(process: int) -> Iterator[int]:
    """Process ids of all descendants."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            below.setdefault(parent, []).append(int(entry.name))
    left = below.get(process, [])
    while left:
        yield (found := left.pop())
        left += below.get(found, [])


def partial_of(process: int) -> Path | None:
    """The unfinished shard that a process writes; None if it writes none."""
    try:
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            target = descriptor.readlink()
            if ".ray" in target.parent.name and target.name.endswith(".partial"):
                return target
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    return None


def size(path: Path) -> int:
    """Bytes of a file; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def kill_one(
    driver: "subprocess.Popen[bytes]", seen: dict[Path, int], draws: random.Random, *, kills_driver: bool
) -> str | None:
    """Kill the driver, or the worker, of a shard that has grown; None if the driver has ended before."""
    while driver.poll() is None:
        for worker in descendants(driver.pid):
            shard = partial_of(worker)
            if shard is not None and (now := size(shard)) > seen.get(shard, 0):
                seen[shard] = now
                time.sleep(draws.uniform(0, 0.1))
                os.kill(driver.pid if kills_driver else worker, signal.SIGKILL)
                return "drivers" if kills_driver else "workers"
        time.sleep(0.01)
    return None


def main() -> None:
    folder, bundle, names, kills, seed = sys.argv[1:]
    draws = random.Random(int(seed))
    common = [*COMMAND, "--bundle", bundle, "--threads", "1"]
    with Path(names).open("rb") as listed:
        subprocess.run(
            [*common, "--output", f"{folder}/one.jsonl"], stdin=listed, check=False, stderr=subprocess.DEVNULL
        )
    counts = {"jobs": 0, "drivers": 0, "workers": 0}
    while counts["drivers"] + counts["workers"] < int(kills):
        output = Path(folder) / f"job-{counts['jobs']}.jsonl"
        counts["jobs"] += 1
        seen: dict[Path, int] = {}
        while not output.exists():
            with Path(names).open("rb") as listed, Path(folder, "log").open("ab") as log:
                driver = subprocess.Popen(
                    [*common, "--ray", "local", "--resume", "--output", output], stdin=listed, stdout=log, stderr=log
                )
            while (num_kills := counts["drivers"] + counts["workers"]) < int(kills):
                # Every fourth kill is the driver's.
                kind = kill_one(driver, seen, draws, kills_driver=num_kills % 4 == 3)
                if kind is None:
                    break
                counts[kind] += 1
                if kind == "drivers":
                    break
            code = driver.wait()
            assert code in (0, 1, -signal.SIGKILL), (code, Path(folder, "log").read_text())
        assert output.read_bytes() == Path(folder, "one.jsonl").read_bytes()
        assert not output.with_name(f".{output.name}.ray").exists()
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
