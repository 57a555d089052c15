"""The whole workflow on drawn images: draw, train, export, check, predict, and one page that shows all of it."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import ParityError
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_folder
from alexnet_deploy.core.inputs.labelled import find_labelled
from alexnet_deploy.core.model.family import architecture_by_name, preprocessing_for
from alexnet_deploy.core.model.weights import LoadedWeights, load_weights
from alexnet_deploy.core.process.say import Say
from alexnet_deploy.inspection.describe import parity_table
from alexnet_deploy.pipeline.check import CheckResult, ComparisonSet, check
from alexnet_deploy.pipeline.export import export
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.predictor import load
from alexnet_deploy.report.bundle import render_report
from alexnet_deploy.report.page import Thumbnail
from alexnet_deploy.train.loop.record import Observer, Progress
from alexnet_deploy.train.recipe import recipe_by_name
from alexnet_deploy.train.run import image_policy_of, look_over, train

_SHOWN_PER_CLASS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The result of the demo."""

    report: Path
    """The page that shows every step."""
    bundle: Path
    images: Path
    """The validation images."""
    accuracy: float
    """Top-1 accuracy of the bundle's engine on the validation images, ten views, 0..1."""
    num_images: int
    seconds: float


def run_demo(
    directory: Path, *, say: Say, training_bar: Callable[[], AbstractContextManager[Callable[[Progress], None]]]
) -> DemoResult:
    """Run every step in a new `directory`; `training_bar` opens the progress display of the training.

    Raises ParityError where the check fails, OSError where the directory exists, and what each step raises.
    """
    started = time.perf_counter()
    directory.mkdir(parents=True)
    drawn = directory / "drawn"
    say(f"1/5  drawing images of {len(DRAWN_CLASSES)} classes into {drawn}/")
    draw_folder(drawn)
    say("2/5  training a quarter-width AlexNet on them")
    architecture, recipe = architecture_by_name("tiny"), recipe_by_name("drawn")
    with training_bar() as show:
        path = train(
            look_over(drawn, image_policy_of(preprocessing_for(architecture.name), recipe)),
            architecture,
            recipe,
            directory / "runs/demo",
            observer=Observer(say=say, on_progress=show),
        )
    loaded = load_weights(path)
    say("3/5  exporting the weights as a bundle and proving it before publication")
    bundle = export(loaded, directory / "bundles/demo-fp32.bundle")
    say("4/5  checking the bundle against the trained network on the validation images")
    validation = find_labelled(drawn, loaded.weights.labels)
    checked = check(bundle, weights=loaded, images=ComparisonSet.of(validation))
    for line in parity_table(checked.rows).split("\n"):
        say(line)
    if not checked.passed:
        raise ParityError(f"{bundle.path}: the check failed: {'; '.join(checked.problems)}")
    say("5/5  predicting the validation images, ten views each")

    with load(bundle.path) as predictor:
        predictions = list(predictor.predict([drawn / "val"]))
    right = [_truth(prediction) == prediction.top[0].label for prediction in predictions]
    report = directory / "report.html"
    write_atomically(report, _report(bundle, loaded, checked, predictions))
    return DemoResult(
        report=report,
        bundle=bundle.path,
        images=drawn / "val",
        accuracy=float(np.mean(right)),
        num_images=len(right),
        seconds=time.perf_counter() - started,
    )


def _truth(prediction: Prediction) -> str:
    return Path(prediction.path).parent.name


def _report(bundle: Bundle, loaded: LoadedWeights, checked: CheckResult, predictions: list[Prediction]) -> bytes:
    shown = []
    for thing in DRAWN_CLASSES:
        shown += [prediction for prediction in predictions if _truth(prediction) == thing][:_SHOWN_PER_CLASS]
    policy = bundle.manifest.preprocessing.image_policy
    images = [
        Thumbnail(
            caption="/".join(Path(prediction.path).parts[-2:]),
            image=read_image(Path(prediction.path), policy),
            predictions=tuple((guess.label, guess.probability) for guess in prediction.top[:3]),
            truth=_truth(prediction),
        )
        for prediction in shown
    ]
    return render_report(
        name="demo",
        manifest=msgspec.structs.replace(bundle.manifest, parity=checked.rows),
        labels=bundle.labels,
        training=loaded.weights.training,
        images=images,
    )
