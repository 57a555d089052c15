"""AlexNet, from pictures to a verified engine.

import alexnet_deploy

with alexnet_deploy.load("bundles/my.bundle") as predictor:
    for prediction in predictor.predict(["images/"]):
        print(prediction.path, prediction.top)
"""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alexnet_deploy.core.errors import (
        AlexNetDeployError,
        BackendError,
        BundleError,
        DataError,
        ExportError,
        ImageError,
        ImageErrorCode,
        IntegrityError,
        OutputError,
        ParityError,
        TrainingError,
        UsageError,
        WeightsError,
    )
    from alexnet_deploy.core.versions import __version__
    from alexnet_deploy.predict import Guess, Prediction, Predictor, load

__all__ = [
    "AlexNetDeployError",
    "BackendError",
    "BundleError",
    "DataError",
    "ExportError",
    "Guess",
    "ImageError",
    "ImageErrorCode",
    "IntegrityError",
    "OutputError",
    "ParityError",
    "Prediction",
    "Predictor",
    "TrainingError",
    "UsageError",
    "WeightsError",
    "__version__",
    "load",
]

# os.path, as pathlib takes 10 ms to import.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
_BESIDE = os.path.dirname(_HERE)  # noqa: PTH120
_IN_CHECKOUT = ("pyproject.toml", "train/__init__.py", "export/__init__.py", "engines/__init__.py")

# Python that is started in a checkout takes this package from there, where the rooms lie beside it, not in it. An
# installed copy holds its rooms, and a train/ that lies beside it is somebody else's.
if not os.path.isdir(f"{_HERE}/train") and all(os.path.isfile(f"{_BESIDE}/{name}") for name in _IN_CHECKOUT):  # noqa: PTH112, PTH113
    __path__.append(_BESIDE)

_PREDICT = ("Guess", "Prediction", "Predictor", "load")


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `--help` and the errors cost no NumPy."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "predict" if name in _PREDICT else "core.versions" if name == "__version__" else "core.errors"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
