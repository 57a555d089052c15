"""The score of a finished run: its accuracy by each choice of views, and in each precision; RUN/score.json.

It is computed from the run's weights and holds no time, so it is the same after any number of interruptions.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import torch
from msgspec import Struct

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.errors import DataError, ParityError
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.fs.opening import MIB, read_file
from alexnet_deploy.core.fs.reading import from_json
from alexnet_deploy.core.model.tensor_file import digest_of
from alexnet_deploy.core.model.views import View
from alexnet_deploy.core.model.weights import LoadedWeights, Weights, load_weights
from alexnet_deploy.core.process.say import Say
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.pipeline.export import ExportRequest, export
from alexnet_deploy.pipeline.int8.calibration import Int8Request
from alexnet_deploy.pipeline.study.definition import BASE, StudyPrecision
from alexnet_deploy.pipeline.study.plan import Plan, RunPlan
from alexnet_deploy.pipeline.study.running.images import RunImages
from alexnet_deploy.pipeline.study.views import study_views
from alexnet_deploy.train.data.batches import Batches, in_batches
from alexnet_deploy.train.loop.evaluation import logits_by_view

SCORE = "score.json"

_BATCH_SIZE = 32


class CurvePoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One epoch of a run."""

    learning_rate: float
    train_loss: float
    """Mean loss over augmented crops, with dropout, in nats."""
    loss: float
    """Mean loss over the validation images, or with a target over the training images, centre view, in nats."""
    error: float
    """Top-1 error on the same images, 0..1."""


class Miss(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A wrong prediction."""

    number: int
    """Number of the image in the packed set."""
    truth: int
    predictions: tuple[int, ...]
    """Most probable first, up to three."""
    probabilities: tuple[float, ...]


class PrecisionScore(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The result of a graph in one precision."""

    num_right: int | None
    """None if its proof failed."""
    words: str
    """The engine and its arithmetic, or why the proof failed."""


class RunScore(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The results of one run."""

    weights_sha256: str
    """Digest of the tensors."""
    best_epoch: int
    curve: tuple[CurvePoint, ...]
    num_images: int
    """Number of images that the results are measured on."""
    num_right: dict[str, int]
    """Correct top-1 predictions by choice of views; `center` and `ten` are always there."""
    precisions: dict[str, PrecisionScore]
    confusion: tuple[tuple[int, ...], ...]
    """Images by true class (row) and top-1 prediction (column), by the views of the study."""
    misses: tuple[Miss, ...]
    """Wrong predictions by the views of the study, highest confidence first, at most 24."""

    @property
    def num_epochs(self) -> int:
        """Number of epochs that were trained."""
        return len(self.curve)

    @property
    def last_loss(self) -> float:
        """Loss of the last epoch; infinite if the run diverged."""
        return self.curve[-1].loss if self.curve else float("inf")


def diverged(num_classes: int) -> RunScore:
    """Return the score of a run of a search whose loss became infinite or NaN: it has no curve."""
    return RunScore(
        weights_sha256="",
        best_epoch=0,
        curve=(),
        num_images=0,
        num_right={},
        precisions={},
        confusion=((0,) * num_classes,) * num_classes,
        misses=(),
    )


def save_score(out: Path, run: RunPlan, score: RunScore) -> RunScore:
    """Write the score of a run, and return it; raises OSError."""
    # A run that diverged in its first epoch has left nothing, not even its directory.
    (out / run.folder).mkdir(parents=True, exist_ok=True)
    write_atomically(out / run.folder / SCORE, msgspec.json.encode(score) + b"\n")
    return score


def load_score(out: Path, run: RunPlan) -> RunScore | None:
    """Return the score of a run; None if it has none yet. Raises DataError for a damaged one."""
    path = out / run.folder / SCORE
    try:
        return from_json(read_file(path, 64 * MIB), RunScore)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; remove it, and run the study again") from error


def score_run(out: Path, plan: Plan, run: RunPlan, images: RunImages, *, device: str, say: Say) -> RunScore:
    """Evaluate the weights of a finished run, and write its score beside them."""
    loaded = load_weights(out / run.folder / "weights.safetensors")
    weights, record = loaded.weights, loaded.weights.training
    assert record is not None
    names = {"center", "ten", plan.study.views} | {one.views for one in plan.study.variants if one.views}
    sets = {name: study_views(name, weights.architecture.input_size) for name in sorted(names)}
    found, truths = probabilities_by_views(weights, images.tested, sets, device)
    judged = found[plan.study.views]
    predictions = np.argsort(-judged, axis=1, kind="stable")
    confusion = np.zeros((len(weights.labels),) * 2, dtype=np.int64)
    np.add.at(confusion, (truths, top1(judged)), 1)
    wanted = () if run.variant != BASE else tuple(one.precision for one in plan.study.variants if one.precision)
    score = RunScore(
        weights_sha256=digest_of(weights.tensors),
        best_epoch=record.best_epoch,
        curve=tuple(
            CurvePoint(
                learning_rate=epoch.learning_rate,
                train_loss=epoch.train_loss,
                loss=epoch.validation_loss,
                error=1 - epoch.validation_top1,
            )
            for epoch in record.epochs
        ),
        num_images=len(truths),
        num_right={name: int((top1(each) == truths).sum()) for name, each in found.items()},
        precisions={name: _in_precision(loaded, name, out, run, images, say) for name in wanted},
        confusion=tuple(map(tuple, confusion.tolist())),
        misses=_misses(judged, predictions, truths, images.tested_numbers),
    )
    return save_score(out, run, score)


def top1(probabilities: np.ndarray) -> np.ndarray:
    """Return the most probable class of each image, int64 (N,), from (N, K); the first one of a tie."""
    found: np.ndarray = probabilities.argmax(axis=1)
    return found


def probabilities_by_views(
    weights: Weights, batches: Batches, sets: Mapping[str, tuple[View, ...]], device: str
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the mean softmax over each set of views, float32 (N, K), and the true classes, int64 (N,).

    A view that is in several sets is computed once.
    """
    views = tuple(dict.fromkeys(view for each in sets.values() for view in each))
    places = {name: [views.index(view) for view in each] for name, each in sets.items()}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in sets}
    truths: list[np.ndarray] = []
    for logits_VNK, targets in logits_by_view(weights, batches, np.arange(len(batches)), views, device):
        by_view = logits_VNK.softmax(2)
        for name, chosen in places.items():
            parts[name].append(by_view[chosen].mean(0).cpu().numpy())
        truths.append(targets.cpu().numpy())
    return {name: np.concatenate(each) for name, each in parts.items()}, np.concatenate(truths)


def _misses(
    probabilities: np.ndarray, predictions: np.ndarray, truths: np.ndarray, numbers: np.ndarray
) -> tuple[Miss, ...]:
    wrong = np.flatnonzero(top1(probabilities) != truths)
    order = wrong[np.argsort(-probabilities[wrong].max(axis=1), kind="stable")][:24]
    return tuple(
        Miss(
            number=int(numbers[place]),
            truth=int(truths[place]),
            predictions=tuple(predictions[place, :3].tolist()),
            probabilities=tuple(probabilities[place, predictions[place, :3]].tolist()),
        )
        for place in order
    )


def _in_precision(
    loaded: LoadedWeights, precision: StudyPrecision, out: Path, run: RunPlan, images: RunImages, say: Say
) -> PrecisionScore:
    """Export the weights in one precision, with its proof, and run the graph over the tested images."""
    place = out / run.folder / f"{precision}.bundle"
    calibrate = Int8Request(calibrate=images.training.root) if precision == "int8" else None
    request = ExportRequest(precision=precision, views="ten", int8=calibrate)
    try:
        if place.exists():
            # Published before the study was killed.
            bundle = open_bundle(place)
        else:
            say(f"{run.folder}: exporting in {precision}")
            bundle = export(loaded, place, request)
    except ParityError as error:
        return PrecisionScore(num_right=None, words=f"not exported: {error}")
    num_right = 0
    with open_engine(bundle, "auto", "cpu", None, "throughput") as engine:
        for pixels, targets in images.tested.batches(in_batches(torch.arange(len(images.tested)), _BATCH_SIZE)):
            num_right += int((top1(engine.run(pixels.cpu().numpy())) == targets.cpu().numpy()).sum())
        words = f"{engine.info.backend} {engine.info.version}, {engine.info.arithmetic}"
    return PrecisionScore(num_right=num_right, words=words)
