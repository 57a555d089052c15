"""What a name on the command line stands for; and what a command takes when it is told nothing.

Nothing is what the command before it made: `runs/latest` and `bundles/latest`, small text files that name the newest
entry of their folder. Such a file works as a path, too. A bare name is a file or folder of the working directory or,
where there is none, an entry of runs/ or bundles/.
"""

import os
import shlex
import time
from contextlib import suppress
from pathlib import Path

from alexnet_deploy.core.errors import BundleError, UsageError, WeightsError
from alexnet_deploy.core.fs.files import sha256_of_file
from alexnet_deploy.core.fs.latest import LATEST, get_latest, set_latest
from alexnet_deploy.core.fs.run_files import CHECKPOINT, WEIGHTS

RUNS = Path("runs")
BUNDLES = Path("bundles")
DRAWN = Path("drawn")

# Its module needs NumPy, which --help does not.
_MANIFEST = "manifest.json"
_BUNDLE_ENDING = ".bundle"
_MOST_NAMED = 5


def new_bundle(architecture: str, precision: str) -> Path:
    """Return the place of a bundle that is made now and that nobody named."""
    return BUNDLES / f"{architecture}-{precision}-{time.strftime('%Y%m%d-%H%M%S')}{_BUNDLE_ENDING}"


def new_import(architecture: str) -> Path:
    """Return the directory of weights that are imported now and that nobody named."""
    return RUNS / f"{architecture}-imported-{time.strftime('%Y%m%d-%H%M%S')}"


def check_new_place(out: Path | None) -> None:
    """Raise UsageError for a place that a new run or bundle cannot have: `latest` is a file that names the newest."""
    if out is not None and out.name == LATEST:
        raise UsageError(f"{out}: a file called {LATEST} names the newest entry of its folder; choose another --out")


def note_latest(entry: Path) -> None:
    """Make a run or bundle the one taken by default, if it lies where defaults are looked for; raises OSError."""
    if entry.parent.resolve() in (RUNS.resolve(), BUNDLES.resolve()):
        set_latest(entry)


def latest_weights() -> Path:
    """Return the newest run's best weights; raises UsageError where there is no run."""
    return get_latest(RUNS, made_by="alexnet-deploy train") / WEIGHTS


def latest_bundle() -> Path:
    """Return the newest bundle; raises UsageError where there is none."""
    return get_latest(BUNDLES, made_by="alexnet-deploy export")


def find_bundle(named: Path | None = None) -> Path:
    """Return the directory of the bundle that is named, or of the newest.

    Raises UsageError where there is no such bundle, BundleError where something else is there.
    """
    if named is None:
        return latest_bundle()
    found = find_entry(named)
    if found is None:
        raise UsageError(f"{named}: there is no such bundle{_entries(BUNDLES)}")
    if is_run(found):
        raise BundleError(f"{found}: is a run, not a bundle; `alexnet-deploy export {found}` makes one of it")
    return found


def find_weights(named: Path | None = None) -> Path:
    """Return the weights file that is named, itself or by its run, or that of the newest run.

    Raises UsageError where there is no such file or run, WeightsError where a directory is named that holds none.
    """
    if named is None:
        return latest_weights()
    found = find_entry(named)
    if found is None:
        raise UsageError(f"{named}: there is no such weights file or run{_entries(RUNS)}")
    if (found / WEIGHTS).is_file():
        return found / WEIGHTS
    if (found / CHECKPOINT).is_file():
        raise WeightsError(
            f"{found}: this run has no weights yet; `alexnet-deploy train --resume --out {found}` continues it"
        )
    if (found / _MANIFEST).is_file():
        raise WeightsError(f"{found}: is a bundle, not a run; its weights are in the run that it was exported from")
    if found.is_dir():
        raise WeightsError(f"{found}: holds no {WEIGHTS}, so it is not a run")
    return found


def find_entry(named: Path) -> Path | None:
    """Return the file or directory that a path, a `latest` file or a bare name stands for; None where there is none.

    The ending `.bundle` may be left out.

    Raises UsageError for a `latest` file that names no entry of its folder.
    """
    if named.name == LATEST and named.is_file():
        return get_latest(named.parent, made_by="alexnet-deploy")
    if os.path.lexists(named):
        return named
    if named.name and os.path.lexists(whole := named.with_name(named.name + _BUNDLE_ENDING)):
        return whole
    if len(named.parts) != 1:
        return None
    places = (BUNDLES / named, BUNDLES / f"{named}{_BUNDLE_ENDING}", RUNS / named)
    found = next((place for place in places if place.exists()), None)
    if found is not None and found.name == LATEST and found.is_file():
        return get_latest(found.parent, made_by="alexnet-deploy")
    return found


def find_anything(named: Path) -> Path:
    """Return what a path or a name stands for, whatever it is; raises UsageError where there is nothing."""
    found = find_entry(named)
    if found is None:
        raise UsageError(f"{named}: there is nothing there{_entries(BUNDLES)}{_entries(RUNS)}")
    return found


def check_exists(path: Path, what: str) -> None:
    """Raise UsageError where a path that was named on the command line does not exist; `what` says what it was for."""
    if not os.path.lexists(path):
        raise UsageError(f"{path}: there is no such {what}")


def next_prediction(bundle: Path, trained_on: str | None) -> str | None:
    """Return a command that predicts images that are there, with this bundle; None where no images are known.

    They are those in images/, the drawn ones, or those of `trained_on`, the folder that the weights name.
    """
    folders = [Path("images"), DRAWN / "val"]
    if trained_on is not None:
        folders += [Path(trained_on, "val"), *([Path(trained_on)] if _holds_classes(Path(trained_on)) else [])]
    images = next((folder for folder in folders if folder.is_dir() and any(folder.glob("[!.]*"))), None)
    return None if images is None else prediction_of(images, bundle)


def prediction_of(images: Path, bundle: Path) -> str:
    """Return the command that predicts a folder with a bundle, for the working directory."""
    # A link stays the name that a person gave it.
    place = Path(os.path.abspath(images))  # noqa: PTH100
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    try:
        is_default = bundle.resolve() == latest_bundle().resolve()
    except UsageError:
        is_default = False
    option = "" if is_default else f" --bundle {shlex.quote(str(bundle))}"
    return f"alexnet-deploy predict {shlex.quote(f'{shown}/')}{option}"


def _holds_classes(folder: Path) -> bool:
    # A packed set or a folder of archives holds no image that predict could read.
    return folder.is_dir() and any(entry.is_dir() for entry in folder.glob("[!.]*"))


def is_run(path: Path) -> bool:
    """Return whether a directory is that of a training run."""
    return (path / WEIGHTS).is_file() or (path / CHECKPOINT).is_file()


def _entries(folder: Path) -> str:
    """Return the names in runs/ or bundles/ as the end of an error, newest first."""
    paths = [path for path in folder.glob("[!.]*") if path.is_dir()]
    if not paths:
        return ""
    names = [path.name for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)]
    more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"; {folder}/ holds {', '.join(names[:_MOST_NAMED])}{more}"


def find_run(named: Path | None = None) -> Path:
    """Return the directory of the run that is named, or of that below runs/ with the newest checkpoint.

    Raises UsageError where there is no such run.
    """
    if named is None:
        return latest_checkpoint()
    found = find_entry(named)
    if found is None:
        raise UsageError(f"{named}: there is no such run{_entries(RUNS)}")
    return found


def resume_words(run: Path) -> str:
    """Return how the run in a directory goes on, or that it cannot for want of a checkpoint."""
    if not (run / CHECKPOINT).is_file():
        return f"no {CHECKPOINT} beside them, so training cannot continue"
    return f"`alexnet-deploy train --resume --out {run}` continues it"


def latest_checkpoint() -> Path:
    """Return the run below runs/ whose checkpoint is the newest; raises UsageError where there is none."""
    # `latest` names a run only once it has weights to export.
    checkpoints = [path for path in RUNS.glob(f"*/{CHECKPOINT}") if path.is_file()]
    if not checkpoints:
        raise UsageError(f"there is no {RUNS}/*/{CHECKPOINT} yet; `alexnet-deploy train` makes one")
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns).parent


def weights_with(sha256: str) -> Path | None:
    """Return the weights below runs/ with this digest, the newest file first; None where no run has them.

    Raises WeightsError where a candidate cannot be read.
    """
    found = []
    for path in RUNS.glob(f"*/{WEIGHTS}"):
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
