"""Resolve names from the command line to runs, weights and bundles; choose the default for an omitted name.

The default is the output of the previous command: `runs/latest` and `bundles/latest` are small text files that name the
newest entry of their folder. Such a file also works as a path. A bare name is a file or folder in the working
directory or, if there is none, an entry of runs/ or bundles/: commands that take weights or a run look in runs/ first.
"""

import os
import re
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

# Not imported from core/bundle/store.py, which imports NumPy: --help must stay fast.
_MANIFEST = "manifest.json"
_BUNDLE_ENDING = ".bundle"
_MOST_NAMED = 5


def new_bundle(architecture: str, precision: str) -> Path:
    """Return the default path of a new bundle: its architecture, precision and the current time."""
    return BUNDLES / f"{architecture}-{precision}-{time.strftime('%Y%m%d-%H%M%S')}{_BUNDLE_ENDING}"


def new_import(architecture: str) -> Path:
    """Return the default directory of newly imported weights: their architecture and the current time."""
    return RUNS / f"{architecture}-imported-{time.strftime('%Y%m%d-%H%M%S')}"


def check_new_place(out: Path | None) -> None:
    """Raise UsageError if a new run or bundle would be called `latest`: that file names the newest entry."""
    if out is not None and out.name == LATEST:
        raise UsageError(f"{out}: a file called {LATEST} names the newest entry of its folder; choose another --out")


def note_latest(entry: Path) -> None:
    """Make a run or bundle the default, if it lies in runs/ or bundles/; raises OSError."""
    if entry.parent.resolve() in (RUNS.resolve(), BUNDLES.resolve()):
        set_latest(entry)


def latest_weights() -> Path:
    """Return the newest run's best weights; raises UsageError if there is no run."""
    return get_latest(RUNS, made_by="alexnet-deploy train") / WEIGHTS


def latest_bundle() -> Path:
    """Return the newest bundle; raises UsageError if there is none."""
    return get_latest(BUNDLES, made_by="alexnet-deploy export")


def find_bundle(named: Path | None = None) -> Path:
    """Return the directory of the named bundle, or of the newest one.

    Raises UsageError if there is no such bundle, BundleError if the name stands for something else.
    """
    if named is None:
        return latest_bundle()
    found = find_entry(named)
    if found is None:
        raise UsageError(f"{named}: there is no such bundle{_entries(BUNDLES)}")
    if not found.is_dir():
        made = (
            f"`alexnet-deploy export {shlex.quote(str(found))}` makes one from weights"
            if found.suffix == ".safetensors"
            else ""
        )
        raise BundleError(
            f"{found}: this is a file, but a bundle is a directory; {made or 'pass the directory with manifest.json'}"
        )
    if is_run(found):
        raise BundleError(
            f"{found}: this is a run, not a bundle; `alexnet-deploy export {shlex.quote(str(found))}` makes one from it"
        )
    return found


def find_weights(named: Path | None = None) -> Path:
    """Return the named weights file, the weights of the named run, or those of the newest run.

    Raises UsageError if there is no such file or run, WeightsError if a named directory holds no weights.
    """
    if named is None:
        return latest_weights()
    found = find_entry(named, first=RUNS)
    if found is None:
        raise UsageError(f"{named}: there is no such weights file or run{_entries(RUNS)}")
    if (found / WEIGHTS).is_file():
        return found / WEIGHTS
    if (found / CHECKPOINT).is_file():
        raise WeightsError(
            f"{found}: this run has no weights yet; "
            f"`alexnet-deploy train --resume --out {shlex.quote(str(found))}` resumes it"
        )
    if (found / _MANIFEST).is_file():
        raise WeightsError(f"{found}: this is a bundle, not a run; name the run that it was exported from")
    if found.is_dir():
        raise WeightsError(f"{found}: this is not a run: the directory holds no {WEIGHTS}")
    return found


def find_entry(named: Path, *, first: Path = BUNDLES) -> Path | None:
    """Return the file or directory that a path, a `latest` file or a bare name stands for; None if there is none.

    The ending `.bundle` may be omitted. A bare name is searched in `first`, RUNS or BUNDLES, before the other one.

    Raises UsageError for a `latest` file that does not name an entry of its folder, or is a link.
    """
    if _is_latest(named):
        return get_latest(named.parent, made_by="alexnet-deploy")
    if os.path.lexists(named):
        return named
    is_bare = len(named.parts) == 1
    runs = (RUNS / named,) if is_bare else ()
    bundles = (BUNDLES / named, BUNDLES / f"{named}{_BUNDLE_ENDING}") if is_bare else ()
    beside = (named.with_name(named.name + _BUNDLE_ENDING),) if named.name else ()
    places = (*runs, *beside, *bundles) if first == RUNS else (*beside, *bundles, *runs)
    found = next((place for place in places if place.exists() or _is_latest(place)), None)
    if found is not None and _is_latest(found):
        return get_latest(found.parent, made_by="alexnet-deploy")
    return found


def _is_latest(path: Path) -> bool:
    """Return whether a path is a `latest` file, or a link in its place: in runs/ and bundles/ even one to a folder."""
    is_ours = path.parent in (RUNS, BUNDLES)
    return path.name == LATEST and (path.is_file() or (is_ours and path.is_symlink()))


def find_anything(named: Path) -> Path:
    """Return the path that a name stands for, whatever lies there; raises UsageError if there is none."""
    found = find_entry(named)
    if found is None:
        raise UsageError(f"{named}: there is no such file or directory{_entries(BUNDLES)}{_entries(RUNS)}")
    return found


def check_exists(path: Path, what: str) -> None:
    """Raise UsageError if a path from the command line does not exist; `what` describes it in the error."""
    if not os.path.lexists(path):
        raise UsageError(f"{path}: there is no such {what}")


def check_is_foreign(path: Path) -> None:
    """Raise WeightsError if a path of another program's weights is a run or a bundle: these need no import."""
    place = shlex.quote(str(path))
    if is_run(path) or (path.parent == RUNS and _is_latest(path)):
        raise WeightsError(f"{path}: this is a run, which needs no import; `alexnet-deploy export {place}` exports it")
    if (path / _MANIFEST).is_file():
        raise WeightsError(
            f"{path}: this is a bundle, which is ready to run and cannot be imported; `alexnet-deploy inspect {place}` "
            "names the weights that it was exported from"
        )


def check_data_exists(data: Path) -> None:
    """Raise UsageError if the training data of the command line does not exist, or is the name of a run."""
    if os.path.lexists(data):
        return
    run = find_entry(data, first=RUNS)
    if run is not None and is_run(run):
        raise UsageError(f"{data}: DATA is a folder of images; to resume this run, pass --out {shlex.quote(str(run))}")
    check_exists(data, "file or folder")


def model_name(bundle: Path) -> str:
    """Return the name that a bundle is served under: that of its directory, with what URLs cannot hold replaced."""
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", bundle.resolve().name.removesuffix(".bundle")).lstrip("_.-")
    return name[:64] or "model"


def next_prediction(bundle: Path, trained_on: str | None, *, has_features: bool = False) -> str | None:
    """Return a command that runs this bundle on existing images; None if no images are known.

    The images are those in images/, the drawn ones, or those of `trained_on`, the training folder of the weights.
    """
    folders = [Path("images"), DRAWN / "val"]
    if trained_on is not None:
        folders += [Path(trained_on, "val"), *([Path(trained_on)] if _holds_classes(Path(trained_on)) else [])]
    images = next((folder for folder in folders if folder.is_dir() and any(folder.glob("[!.]*"))), None)
    return None if images is None else prediction_of(images, bundle, has_features=has_features)


def prediction_of(images: Path, bundle: Path, *, has_features: bool = False) -> str:
    """Return the command that classifies a folder with a bundle, or extracts features, from the working directory."""
    # Not resolved: a link keeps the name that the user gave it.
    place = Path(os.path.abspath(images))  # noqa: PTH100
    shown = place.relative_to(Path.cwd()) if place.is_relative_to(Path.cwd()) else place
    try:
        is_default = bundle.resolve() == latest_bundle().resolve()
    except UsageError:
        is_default = False
    option = "" if is_default else f" --bundle {shlex.quote(str(bundle))}"
    extracts = " --features features.npy --output features.jsonl" if has_features else ""
    return f"alexnet-deploy predict {shlex.quote(f'{shown}/')}{option}{extracts}"


def _holds_classes(folder: Path) -> bool:
    # A packed set or a folder of archives holds no image that predict can read.
    return folder.is_dir() and any(entry.is_dir() for entry in folder.glob("[!.]*"))


def is_run(path: Path) -> bool:
    """Return whether a directory is a training run."""
    return (path / WEIGHTS).is_file() or (path / CHECKPOINT).is_file()


def _entries(folder: Path) -> str:
    """Return the names in runs/ or bundles/, newest first, as the end of an error message."""
    paths = [path for path in folder.glob("[!.]*") if path.is_dir()]
    if not paths:
        return ""
    names = [path.name for path in sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)]
    more = f", and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"; {folder}/ holds {', '.join(names[:_MOST_NAMED])}{more}"


def find_run(named: Path | None = None) -> Path:
    """Return the directory of the named run, or of the run below runs/ with the newest checkpoint.

    Raises UsageError if there is no such run.
    """
    if named is None:
        return latest_checkpoint()
    found = find_entry(named, first=RUNS)
    if found is None:
        raise UsageError(f"{named}: there is no such run{_entries(RUNS)}")
    return found


def resume_words(run: Path) -> str:
    """Return the command that resumes a run, or a sentence saying that it has no checkpoint."""
    if not (run / CHECKPOINT).is_file():
        return f"training cannot be resumed: there is no {CHECKPOINT} beside the weights"
    return f"`alexnet-deploy train --resume --out {shlex.quote(str(run))}` resumes it"


def latest_checkpoint() -> Path:
    """Return the run below runs/ whose checkpoint is the newest; raises UsageError if there is none."""
    # Not `latest`, which names a run only once it has weights to export.
    checkpoints = [path for path in RUNS.glob(f"*/{CHECKPOINT}") if path.is_file()]
    if not checkpoints:
        raise UsageError(f"there is no {RUNS}/*/{CHECKPOINT} yet; `alexnet-deploy train` makes one")
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns).parent


def weights_with(sha256: str) -> Path | None:
    """Return the newest weights file below runs/ with this digest; None if no run has them.

    Raises WeightsError if a candidate cannot be read.
    """
    found = []
    for path in RUNS.glob(f"*/{WEIGHTS}"):
        # A run may be moved or deleted during the search.
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
