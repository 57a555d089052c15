"""The commands as Python functions: together with `load`, the public API of `alexnet_deploy`.

They are not called `train` and `export`, because importing the package of that name would hide the function.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.family import preprocessing_for
from alexnet_deploy.core.model.table_text import architecture_by_name_or_file
from alexnet_deploy.core.model.views import ViewsName
from alexnet_deploy.core.model.weights import LoadedWeights, load_weights
from alexnet_deploy.core.names import find_bundle, find_weights
from alexnet_deploy.core.process.say import Say, say_nothing
from alexnet_deploy.engines.engine import Device
from alexnet_deploy.engines.registry import Backend
from alexnet_deploy.pipeline.check import CheckResult, check, images_in
from alexnet_deploy.pipeline.confidence.images import ConfidenceSource
from alexnet_deploy.pipeline.evaluation.evaluate import Evaluation, EvaluationRequest, evaluate


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretrained:
    """Trained weights that a run starts from, as `train --from FILE --freeze LAYERS`."""

    file: str | Path
    """A run, a weights file, or a file that `alexnet-deploy import` reads."""
    freeze: str = ""
    """Layers that training does not change: names and ranges such as "conv1..conv5", with commas; none if empty."""


def train_network(
    data: str | Path,
    out: str | Path,
    *,
    arch: str | Architecture | Pretrained = "paper",
    recipe: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    resume: bool = False,
    say: Say = say_nothing,
) -> Path:
    """Train on labelled images and return the file of the best weights, in the new run directory `out`.

    `data` is what `alexnet-deploy train` takes: a folder of class folders, ILSVRC-2012's archives, CIFAR-10's batches
    or a packed set. `arch` is a member of the family, a table, or Pretrained weights to fine-tune, whose architecture
    and preprocessing the run keeps. `recipe` is the name of a shipped recipe or a TOML file (default: folder, or
    fine-tune for Pretrained weights), `settings` changes fields of it. With `resume` the run in `out` continues from
    its checkpoint, bit-exact on the same machine.

    Raises UsageError for names and settings that do not exist, DataError for data that cannot be trained on,
    WeightsError and ParityError for weights that cannot be imported, BackendError where the device is missing, and
    TrainingError where `out` already exists or cannot be written.
    """
    from alexnet_deploy.train.loop.record import Observer
    from alexnet_deploy.train.recipe import recipe_by_name, with_settings
    from alexnet_deploy.train.run import Resume, check_place, choose_device, image_policy_of, look_over, train
    from alexnet_deploy.train.runtime.placement import placed
    from alexnet_deploy.train.start import layers_in, start_from

    loaded: LoadedWeights | None = None
    frozen: tuple[str, ...] = ()
    if isinstance(arch, Pretrained):
        from alexnet_deploy.pipeline.pretrained.fine_tuning import load_start

        loaded = load_start(Path(arch.file), say=say)
        architecture = loaded.weights.architecture
        frozen = layers_in(arch.freeze, architecture) if arch.freeze else ()
    else:
        architecture = architecture_by_name_or_file(arch) if isinstance(arch, str) else arch
    usual = "folder" if loaded is None else "fine-tune"
    chosen = with_settings(recipe_by_name(str(recipe or usual)), dict(settings or {}))
    place = placed(choose_device(device))
    run = Path(out)

    def check_first(num_classes: int) -> None:
        if not resume:
            check_place(run, architecture.with_num_classes(num_classes), chosen)

    used = preprocessing_for(architecture.name) if loaded is None else loaded.weights.preprocessing
    found = look_over(Path(data), image_policy_of(used, chosen), on_found=check_first)
    return train(
        found,
        architecture if loaded is None else start_from(loaded, found.folder.class_names, frozen),
        chosen,
        run,
        placement=place,
        resume=Resume.SAME_MACHINE if resume else Resume.NO,
        observer=Observer(say=say),
    )


def export_bundle(
    weights: str | Path,
    out: str | Path,
    *,
    precision: Precision = "fp32",
    views: ViewsName = "ten",
    output_layer: str | None = None,
    calibrate: str | Path | None = None,
    data: str | Path | None = None,
    confidence: str | Path | None = None,
    force: bool = False,
    say: Say = say_nothing,
) -> Path:
    """Export a weights file, a run directory or the name of a run in ./runs as a bundle at `out`; return `out`.

    The bundle is proved on every installed backend before it is published. `calibrate` and `data` apply to int8 only:
    calibration images (default: the training images), and labelled images to measure accuracy on. With an
    `output_layer` the bundle returns features of that layer instead of probabilities. `confidence` is a folder of
    labelled images that training did not use, to calibrate confidence on, or "validation" for the training's own.
    `force` moves an existing bundle at `out` aside.

    Raises ParityError where an engine disagrees with the trained network, WeightsError for a file that is not weights,
    UsageError, DataError, BackendError, ExportError and BundleError as `alexnet-deploy export` does.
    """
    from alexnet_deploy.engines.tensorrt.build import BuildObserver
    from alexnet_deploy.pipeline.export import ExportRequest, export
    from alexnet_deploy.pipeline.int8.calibration import Int8Request

    request = ExportRequest(
        precision=precision,
        views=views,
        output_layer=output_layer,
        int8=None if calibrate is None else Int8Request(calibrate=Path(calibrate)),
        data=None if data is None else Path(data),
        confidence=_confidence(confidence),
    )
    loaded = load_weights(find_weights(Path(weights)))
    return export(loaded, Path(out), request, force=force, observer=BuildObserver(say=say)).path


def _confidence(images: str | Path | None) -> ConfidenceSource | None:
    if images is None or images == "validation":
        return None if images is None else "validation"
    return Path(images)


def check_bundle(
    bundle: str | Path,
    *,
    weights: str | Path | None = None,
    data: str | Path | None = None,
    backend: Backend | Literal["auto"] = "auto",
    device: Device | Literal["auto"] = "auto",
    layers: bool = False,
    say: Say = say_nothing,
) -> CheckResult:
    """Prove a bundle again on this machine: its bytes, its graph, its golden vectors on every installed backend.

    With the `weights` it was exported from, the trained network is run too. `data` adds images to compare on, and
    their accuracy if its folders are named after the labels. `layers` also compares each layer of the engines that run
    the graph. CheckResult.passed is True if every check passed.

    Raises UsageError for a bundle that does not exist, weights of another bundle, or data without weights;
    IntegrityError for bytes that changed since publication; DataError for an image that cannot be read; BackendError
    where no engine is installed.
    """
    opened = open_bundle(find_bundle(Path(bundle)))
    return check(
        opened,
        backends=None if backend == "auto" else [backend],
        device=device,
        weights=None if weights is None else load_weights(find_weights(Path(weights))),
        images=None if data is None else images_in(Path(data), opened.labels),
        with_layers=layers,
        say=say,
    )


def evaluate_bundles(
    bundles: Sequence[str | Path],
    data: str | Path,
    *,
    backends: Sequence[Backend] | None = None,
    device: Device | Literal["auto"] = "auto",
    subset: Sequence[str] | None = None,
    say: Say = say_nothing,
) -> Evaluation:
    """Compare bundles on labelled images: accuracy with intervals, calibration, speed and size of every engine.

    `data` is what `alexnet-deploy evaluate --data` takes. The default `backends` are all installed ones that support
    the device. With `subset`, only these labels are predicted and evaluated. An engine that cannot run a bundle gives a
    row that says why.

    Raises UsageError for no bundles, a bundle that does not exist, or a subset without images; DataError for data
    without labelled images or with a class that a bundle does not have.
    """
    if not bundles:
        raise UsageError("there are no bundles to evaluate")
    request = EvaluationRequest(
        backends=None if backends is None else tuple(backends),
        device=device,
        subset=None if subset is None else tuple(subset),
    )
    return evaluate([open_bundle(find_bundle(Path(bundle))) for bundle in bundles], Path(data), request, say=say)
