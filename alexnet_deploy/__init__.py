"""AlexNet, from images to a verified engine.

import alexnet_deploy

weights = alexnet_deploy.train_network("data/", "runs/mine")
alexnet_deploy.export_bundle(weights, "bundles/my.bundle", precision="fp16")
assert alexnet_deploy.check_bundle("bundles/my.bundle", weights=weights).passed

with alexnet_deploy.load("bundles/my.bundle") as predictor:
    for prediction in predictor.predict(["images/"]):
        print(prediction.path, prediction.top)
    print(predictor.classify(image_bytes).top[0].label)
    probabilities = predictor.run(images)  # uint8 (N, 256, 256, 3) -> float32 (N, K)
"""

import os
import sys
from typing import TYPE_CHECKING

from alexnet_deploy.core.process.telemetry import disable_telemetry

if sys.platform == "win32":
    raise ImportError(
        "alexnet-deploy runs on Linux and macOS; on Windows use it in WSL, the Windows Subsystem for Linux"
    )

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
        WrongAnswerError,
    )
    from alexnet_deploy.core.images.decode import DecodeLimits
    from alexnet_deploy.core.process.versions import __version__
    from alexnet_deploy.engines.engine import EngineInfo
    from alexnet_deploy.pipeline.api import Pretrained, check_bundle, evaluate_bundles, export_bundle, train_network
    from alexnet_deploy.pipeline.check import CheckResult
    from alexnet_deploy.pipeline.evaluation.evaluate import Evaluation
    from alexnet_deploy.predict.features.extraction import Extraction
    from alexnet_deploy.predict.prediction import Guess, Prediction
    from alexnet_deploy.predict.predictor import Predictor, load

__all__ = [
    "AlexNetDeployError",
    "BackendError",
    "BundleError",
    "CheckResult",
    "DataError",
    "DecodeLimits",
    "EngineInfo",
    "Evaluation",
    "ExportError",
    "Extraction",
    "Guess",
    "ImageError",
    "ImageErrorCode",
    "IntegrityError",
    "OutputError",
    "ParityError",
    "Prediction",
    "Predictor",
    "Pretrained",
    "TrainingError",
    "UsageError",
    "WeightsError",
    "WrongAnswerError",
    "__version__",
    "check_bundle",
    "evaluate_bundles",
    "export_bundle",
    "load",
    "train_network",
]

disable_telemetry()

# os.path, as pathlib takes 10 ms to import.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
_BESIDE = os.path.dirname(_HERE)  # noqa: PTH120
_IN_CHECKOUT = ("pyproject.toml", "train/__init__.py", "export/__init__.py", "engines/__init__.py")

# In a checkout train/, export/ and engines/ are next to this package, not in it. An installed copy contains them, and a
# train/ next to it belongs to another project.
if not os.path.isdir(f"{_HERE}/train") and all(os.path.isfile(f"{_BESIDE}/{name}") for name in _IN_CHECKOUT):  # noqa: PTH112, PTH113
    __path__.append(_BESIDE)

_HOMES = {
    **dict.fromkeys(("Guess", "Prediction"), "predict.prediction"),
    **dict.fromkeys(("Predictor", "load"), "predict.predictor"),
    **dict.fromkeys(
        ("Pretrained", "check_bundle", "evaluate_bundles", "export_bundle", "train_network"), "pipeline.api"
    ),
    "CheckResult": "pipeline.check",
    "DecodeLimits": "core.images.decode",
    "EngineInfo": "engines.engine",
    "Extraction": "predict.features.extraction",
    "Evaluation": "pipeline.evaluation.evaluate",
    "__version__": "core.process.versions",
}


def __getattr__(name: str) -> object:
    """Import a public name at its first use, so that `--help` and the errors do not import NumPy."""
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'core.errors')}"), name)


def __dir__() -> list[str]:
    """Return the public names, imported or not."""
    return list(__all__)
