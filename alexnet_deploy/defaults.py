"""What a command takes when it is told nothing: what the one before it made, in the working directory."""

import time
from contextlib import suppress
from pathlib import Path

from alexnet_deploy.core.errors import UsageError, WeightsError
from alexnet_deploy.core.files import sha256_of_file
from alexnet_deploy.core.latest import get_latest, set_latest

RUNS = Path("runs")
BUNDLES = Path("bundles")
DRAWN = Path("drawn")

_WEIGHTS = "weights.safetensors"
_CHECKPOINT = "checkpoint.safetensors"


def new_bundle(architecture: str, precision: str) -> Path:
    """Return the place of a bundle that is made now and that nobody named."""
    return BUNDLES / f"{architecture}-{precision}-{time.strftime('%Y%m%d-%H%M%S')}.bundle"


def note_latest(entry: Path) -> None:
    """Make a run or bundle the one taken by default, if it lies where defaults are looked for; raises OSError."""
    if entry.parent.resolve() in (RUNS.resolve(), BUNDLES.resolve()):
        set_latest(entry)


def latest_weights() -> Path:
    """Return the newest run's best weights; raises UsageError where there is no run."""
    return get_latest(RUNS, made_by="alexnet-deploy train") / _WEIGHTS


def latest_bundle() -> Path:
    """Return the newest bundle; raises UsageError where there is none."""
    return get_latest(BUNDLES, made_by="alexnet-deploy export")


def resume_words(run: Path) -> str:
    """Return how the run in a directory goes on, or that it cannot for want of a checkpoint."""
    if not (run / _CHECKPOINT).is_file():
        return f"no {_CHECKPOINT} beside them, so training cannot continue"
    return f"`alexnet-deploy train --resume --out {run}` continues it"


def latest_checkpoint() -> Path:
    """Return the run below runs/ whose checkpoint is the newest; raises UsageError where there is none."""
    # `latest` names a run only once it has weights to export.
    checkpoints = [path for path in RUNS.glob(f"*/{_CHECKPOINT}") if path.is_file()]
    if not checkpoints:
        raise UsageError(f"there is no {RUNS}/*/{_CHECKPOINT} yet; `alexnet-deploy train` makes one")
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns).parent


def weights_with(sha256: str) -> Path | None:
    """Return the weights below runs/ with this digest, the newest file first; None where no run has them.

    Raises WeightsError where a candidate cannot be read.
    """
    found = []
    for path in RUNS.glob(f"*/{_WEIGHTS}"):
        # A run may be moved or deleted while its neighbours are read.
        with suppress(FileNotFoundError):
            found.append((path.stat().st_mtime_ns, path))
    for _, path in sorted(found, reverse=True):
        try:
            if sha256_of_file(path) == sha256:
                return path
        except FileNotFoundError:
            continue
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    return None
