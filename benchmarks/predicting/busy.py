"""The commands `train` and `predict` beside busy processes, and where a cgroup allows one processor.

    python -m benchmarks.predicting.busy IMAGES --bundle BUNDLE --data DATA --out RESULT.json

IMAGES are classified with the bundle; the network `--arch` is trained for one epoch on the labelled images DATA. Times
are of whole commands, from start to exit; the settings alternate, `--rounds` times, and the medians are reported. "now"
is what the commands do: OpenMP's threads wait without spinning, and each library starts as many threads as the quota
allows. "before" is what the libraries do by themselves: GNU's OpenMP spins 300,000 times, and there is a thread for
each processor. Beside N busy processes, two threads on two processors are due 2 / (N + 2) of their speed alone. The
quota needs a cgroup of version 1 that this user may make; without one its rows are left out.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.process.machine import num_processors, processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.record import record

LOOPS = (0, 2, 6, 12)
CGROUPS = Path("/sys/fs/cgroup/cpu")
MAIN = """
import os, sys
from alexnet_deploy.core.process import machine
group, knows_quota = sys.argv.pop(1), sys.argv.pop(1) == "now"
if group:
    open(f"{group}/cgroup.procs", "w").write(str(os.getpid()))
if not knows_quota:
    machine._quota_of = lambda folder: None
from alexnet_deploy.cli import main
main()
"""
# libgomp's own number where no policy is set.
SETTINGS: dict[str, dict[str, str]] = {"now": {}, "before": {"GOMP_SPINCOUNT": "300000"}}

Command = Callable[[Path], list[str]]
"""Arguments of a command that writes into the folder."""


@contextmanager
def busy(number: int) -> Iterator[None]:
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


@contextmanager
def one_processor() -> Iterator[Path]:
    """Yield a cgroup whose processes may use one processor's time."""
    group = CGROUPS / f"busy-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("100000")
        yield group
    finally:
        group.rmdir()


def seconds(command: Command, setting: str, group: Path | None) -> float:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with tempfile.TemporaryDirectory() as folder:
        arguments = [sys.executable, "-c", MAIN, str(group or ""), setting, *command(Path(folder))]
        started = time.perf_counter()
        subprocess.run(arguments, env=environment | SETTINGS[setting], capture_output=True, check=True)
        return time.perf_counter() - started


def measure(commands: dict[str, Command], loops: Sequence[int], rounds: int) -> dict[tuple[str, str, str], list[float]]:
    """Return the times by command, what ran beside it, and setting."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(rounds):
        for name, command in commands.items():
            for number in loops:
                with busy(number):
                    for setting in SETTINGS:
                        times = found.setdefault((name, f"{number} busy processes", setting), [])
                        times.append(seconds(command, setting, None))
            with suppress(PermissionError, FileNotFoundError), one_processor() as group:
                for setting in SETTINGS:
                    times = found.setdefault((name, "a quota of one processor", setting), [])
                    times.append(seconds(command, setting, group))
        for key, times in found.items():
            print(*key, [round(time, 1) for time in times], file=sys.stderr)
    return found


def rows(found: dict[tuple[str, str, str], list[float]], num_images: dict[str, int]) -> Iterator[dict[str, object]]:
    processors = num_processors()
    for (name, beside, setting), times in found.items():
        number, _, what = beside.partition(" ")
        due = processors / (int(number) + processors) if what == "busy processes" else 1 / processors
        share = statistics.median(found[name, "0 busy processes", "now"]) / statistics.median(times)
        yield {
            "command": name,
            "beside": beside,
            "setting": setting,
            "seconds": times,
            "images_per_second": num_images[name] / statistics.median(times),
            "share_of_alone": share,
            "share_due": due,
            "of_share_due": share / due,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arch", default="tiny")
    parser.add_argument("--loops", type=int, nargs="+", default=LOOPS)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    train = ["train", options.data, "--arch", options.arch, "--recipe", "folder", "--epochs", 1, "--batch-size", 32]
    predict = ["predict", options.images, "--bundle", options.bundle, "--format", "jsonl"]
    commands: dict[str, Command] = {
        "train": lambda folder: [*map(str, train), "--out", f"{folder}/run"],
        "predict": lambda folder: [*map(str, predict), "--output", f"{folder}/rows.jsonl"],
    }
    bundle = open_bundle(options.bundle).manifest
    num_images = {
        "train": sum(1 for path in options.data.glob("train/*/*")),
        "predict": sum(1 for path in options.images.rglob("*.*")),
    }
    result: dict[str, object] = {
        "trained": options.arch,
        "classified_with": f"{bundle.architecture.name}, {bundle.precision}, {len(bundle.views.crops)} views",
        "images": num_images,
        "machine": processor(),
        "tools": tool_versions("torch", "openvino"),
        "rounds": options.rounds,
        "rows": list(rows(measure(commands, options.loops, options.rounds), num_images)),
    }
    record(options.out, result)


if __name__ == "__main__":
    main()
