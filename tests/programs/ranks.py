"""Training in several processes: the program that torchrun runs in the tests of train/runtime/distributed.py.

    torchrun --nproc-per-node 2 tests/programs/ranks.py FOLDER

trains on FOLDER/data in batches of 4 and of 3, the second time with scaled crops, and writes FOLDER/rank-N.json; if
there is an image named FAIL.png, the second process fails on it.

    torchrun --nproc-per-node 2 tests/programs/ranks.py FOLDER stop

trains in batches of 4 until the second process gets SIGTERM at the fourth step, writes FOLDER/stopped-N.json, and

    torchrun --nproc-per-node 2 tests/programs/ranks.py FOLDER resume

resumes that run.
"""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from commands import HANGS_AFTER_S, wait_until
from networks import narrowed
from training import at_step

from alexnet_deploy.core.errors import DataError
from alexnet_deploy.core.model.architecture import Architecture, Dropout
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.train.data.folder import ImageFile
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.loop.record import NOBODY, Observer, Progress
from alexnet_deploy.train.loop.trainer import Pace
from alexnet_deploy.train.recipe import Recipe
from alexnet_deploy.train.run import Resume, look_over
from alexnet_deploy.train.run import train as train_run
from alexnet_deploy.train.runtime.distributed import Ranks, joined
from alexnet_deploy.train.runtime.placement import Placement

FIRST = Recipe(name="test", epochs=2, batch_size=4, learning_rate=0.01, patience=9)
SECOND = msgspec.structs.replace(FIRST, batch_size=3, min_scale=0.3, label_smoothing=0.1, class_weights="balanced")
RECIPES = (FIRST, SECOND)


class Seen(msgspec.Struct, kw_only=True):
    """Observations of one process in one run."""

    read: list[str]
    """Names of the images that were read, in order."""
    losses: list[float]
    """Loss of the epoch so far, after each step."""


class Told(msgspec.Struct, kw_only=True):
    """The report that one process writes at its end."""

    runs: list[Seen]
    """One entry per recipe."""
    threads: list[str]
    """Names of the process's threads after it has left the process group."""


def without_dropout() -> Architecture:
    """Return the paper's layers, narrow and without dropout: each process would drop different features."""
    table = narrowed(ARCHITECTURES["paper"])
    layers = (
        msgspec.structs.replace(layer, probability=0.0) if isinstance(layer, Dropout) else layer
        for layer in table.layers
    )
    return msgspec.structs.replace(table, layers=tuple(layers))


TABLE = without_dropout()
NEVER = Pace(share=0.0, least_seconds=math.inf)


def train(found: Survey, out: Path, recipe: Recipe, ranks: Ranks) -> Seen:
    """Train two epochs, and return the observations of this process."""
    seen = Seen(read=[], losses=[])
    read = ImageFile.read

    def noted(image: ImageFile) -> bytes:
        seen.read.append(image.name)
        if image.path.name == "FAIL.png" and ranks.rank == 1:
            raise DataError(f"{image.path.name} fails in the second process")
        return read(image)

    def note(now: Progress) -> None:
        seen.losses.append(now.loss)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "read", noted)
        train_run(
            found, TABLE, recipe, out, placement=Placement(ranks=ranks, threads=1), observer=Observer(on_progress=note)
        )
    return seen


def stop_or_resume(found: Survey, out: Path, ranks: Ranks, how: str) -> None:
    act = at_step(4, lambda: os.kill(os.getpid(), signal.SIGTERM))
    is_sent = how == "stop" and ranks.rank == 1
    train_run(
        found,
        TABLE,
        FIRST,
        out,
        placement=Placement(ranks=ranks, threads=1),
        resume=Resume.SAME_MACHINE if how == "resume" else Resume.NO,
        pace=NEVER,
        observer=Observer(on_progress=act) if is_sent else NOBODY,
    )


def torchrun(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run two processes, and wait until both have ended."""
    command, environment = _torchrun(*arguments)
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=HANGS_AFTER_S
    )


def terminated(*arguments: str | Path, cwd: Path, when: Callable[[], bool]) -> subprocess.CompletedProcess[str]:
    """Start two processes, send SIGTERM to torchrun once `when` is true, as a scheduler does, and wait for the end."""
    command, environment = _torchrun(*arguments)
    with subprocess.Popen(command, cwd=cwd, env=environment, stdout=-1, stderr=-1, text=True) as process:
        wait_until(when, process)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=HANGS_AFTER_S)
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def _torchrun(*arguments: str | Path) -> tuple[list[str | Path], dict[str, str]]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return command, {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def threads() -> list[str]:
    """Return the names of this process's threads."""
    return [(thread / "comm").read_text().strip() for thread in Path("/proc/self/task").iterdir()]


def main() -> None:
    folder = Path(sys.argv[1])
    try:
        with joined("cpu") as (ranks, _):
            found = ranks.broadcast(lambda: look_over(folder / "data", SHORTER_SIDE))
            if sys.argv[2:]:
                stop_or_resume(found, folder / "stopped", ranks, sys.argv[2])
                return
            runs = [train(found, folder / f"two-{recipe.batch_size}", recipe, ranks) for recipe in RECIPES]
    except SystemExit:
        (folder / f"stopped-{ranks.rank}.json").write_bytes(msgspec.json.encode(Told(runs=[], threads=threads())))
        raise
    (folder / f"rank-{ranks.rank}.json").write_bytes(msgspec.json.encode(Told(runs=runs, threads=threads())))


if __name__ == "__main__":
    main()
