"""A C++ project around a bundle: the library's sources, the bundle, an example and a self-test.

The same bundle gives the same project, byte by byte: nothing of this machine is written into it.
"""

import importlib.util
import shutil
import sys
from pathlib import Path

from alexnet_deploy import engines
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.fs.files import new_directory, refuse_existing

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
    refuse_existing(out)
    with new_directory(out) as stage:
        _write_sources(stage)
        _write_bundle(bundle, stage / MODEL)


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
    for name, data in bundle.contents():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
