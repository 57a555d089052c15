"""A C++ project around a bundle: the library's sources, the bundle, an example and a self-test.

The same bundle gives the same project, byte by byte: nothing of this machine is written into it.
"""

import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

from alexnet_deploy import engines
from alexnet_deploy.core.bundle.store import MANIFEST, Bundle
from alexnet_deploy.core.errors import OutputError, UsageError
from alexnet_deploy.core.fs.files import sync_directory, umask
from alexnet_deploy.core.fs.hidden import temporary_prefix

LIBRARY = "alexnet_deploy"
"""Folder of the library's sources in the project."""
MODEL = "model.bundle"
"""Folder of the bundle in the project."""

_SOURCES = Path(engines.__file__).parent / "cpp"
_APP = "app"
"""Folder of the sources with the files of the project itself."""


def embed(bundle: Bundle, out: Path) -> None:
    """Write a project that builds with CMake to the new directory `out`; a failure leaves nothing there.

    Raises UsageError if `out` exists or the bundle returns features, IntegrityError if a file of the bundle has changed
    since it was published, OutputError if the project cannot be written.
    """
    bundle.refuse_features("the C++ library")
    if os.path.lexists(out):
        raise UsageError(f"{out}: already exists; choose another directory")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=temporary_prefix(out), suffix=".partial", dir=out.parent))
    except OSError as error:
        raise OutputError(f"{out}: cannot be created: {error.strerror}") from error
    try:
        _write_sources(stage)
        _write_bundle(bundle, stage / MODEL)
        stage.chmod(0o777 & ~umask())
        stage.rename(out)
        sync_directory(out.parent)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def cmake_options() -> list[str]:
    """Return what CMake must be told to find this Python's OpenVINO: nothing if it asks this Python by itself."""
    spec = importlib.util.find_spec("openvino")
    asked = shutil.which("python3")
    if spec is None or spec.origin is None or (asked and Path(asked).parent == Path(sys.executable).parent):
        return []
    return [f"-DOpenVINO_DIR={Path(spec.origin).parent / 'cmake'}"]


def _write_sources(stage: Path) -> None:
    for path in sorted(path for path in _SOURCES.rglob("*") if path.is_file()):
        name = path.relative_to(_SOURCES)
        target = stage / name.relative_to(_APP) if name.parts[0] == _APP else stage / LIBRARY / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())


def _write_bundle(bundle: Bundle, place: Path) -> None:
    """Copy the files of the manifest, each after its verification."""
    place.mkdir()
    for name in sorted(bundle.manifest.files):
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bundle.read(name))
    # Last: without it the copy is no bundle.
    (place / MANIFEST).write_bytes(bundle.read_manifest())
