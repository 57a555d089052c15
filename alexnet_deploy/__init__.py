"""AlexNet, from pictures to a verified engine.

import alexnet_deploy

with alexnet_deploy.load("bundles/my.bundle") as predictor:
    for prediction in predictor.predict(["images/"]):
        print(prediction.path, prediction.top)
"""

from typing import TYPE_CHECKING

from alexnet_deploy.core.telemetry import disable_telemetry

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

disable_telemetry()

_PREDICT = ("Guess", "Prediction", "Predictor", "load")


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for: `--help` and the errors cost no NumPy."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "predict" if name in _PREDICT else "core.versions" if name == "__version__" else "core.errors"
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
