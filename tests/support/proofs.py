"""How much an export proves, and bundles that are exported once for all test processes."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from alexnet_deploy.core.golden.files import GoldenFile, golden_files
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.preprocessing import ImagePolicy

SHORT_IMAGES = [0, 3]
"""Two drawings: a range from other drawings holds them in int8, but not the patterns alone."""
SHORT_FILES = ("baseline.jpg", "cmyk.jpg", "alpha.png")

_MODULES = ("alexnet_deploy.pipeline.golden.vectors", "alexnet_deploy.pipeline.int8.gate")
_RANGES = "alexnet_deploy.pipeline.int8.calibration"


@cache
def _whole_images() -> np.ndarray:
    return golden_images()


@cache
def _whole_files(policy: ImagePolicy) -> tuple[GoldenFile, ...]:
    return golden_files(policy)


def _short_files(policy: ImagePolicy) -> tuple[GoldenFile, ...]:
    return tuple(file for file in _whole_files(policy) if file.name in SHORT_FILES)


@contextmanager
def short_proofs() -> Iterator[None]:
    """Exports prove 2 golden images of 8 and 3 golden files of 19: half of the time, or a quarter."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (*_MODULES, _RANGES):
            patch.setattr(f"{module}.golden_images", lambda: _whole_images()[SHORT_IMAGES].copy())
        patch.setattr(f"{_MODULES[0]}.golden_files", _short_files)
        yield


@contextmanager
def whole_proofs() -> Iterator[None]:
    """Exports prove everything, inside short_proofs too."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (*_MODULES, _RANGES):
            patch.setattr(f"{module}.golden_images", golden_images)
        patch.setattr(f"{_MODULES[0]}.golden_files", golden_files)
        yield


def made_once(
    factory: pytest.TempPathFactory,
    name: str,
    make: Callable[[Path], object],
    proofs: Callable[[], AbstractContextManager[None]] = whole_proofs,
) -> Path:
    """Return a folder that `make` filled under whole or short proofs; the processes of pytest-xdist share it.

    Tests must not change it.
    """
    base = factory.getbasetemp()
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder, partial = root / "shared" / name, root / "shared" / f"{name}.partial"
    folder.parent.mkdir(exist_ok=True)
    with folder.with_name(f"{name}.lock").open("w") as lock, proofs():
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            # What a process left that was killed here.
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder
