"""The report of a finished run: its weights are evaluated again, and one page shows the results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from alexnet_deploy.core.inputs.paths import Input
from alexnet_deploy.core.model.weights import LoadedWeights, load_weights
from alexnet_deploy.report.page import Thumbnail, save_page
from alexnet_deploy.report.run import Score, most_wrong, render_run_report, score, wrong_image
from alexnet_deploy.train.data.batches import Batches
from alexnet_deploy.train.data.loader import batches_of
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.loop.evaluation import Evaluation, evaluate, spread_numbers

REPORT = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """The results of the evaluation, and the page that shows them."""

    path: Path
    """The page."""
    loaded: LoadedWeights
    """The evaluated weights."""
    num_images: int
    """Number of validation images evaluated."""
    center: Score
    """With the centre view."""
    ten: Score
    """With ten views."""


def report_run(
    weights: Path,
    found: Survey,
    *,
    device: str = "cpu",
    threads: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> RunReport:
    """Evaluate a run's weights on up to 2,000 of its validation images, and write the page next to the weights.

    Raises OutputError where the page cannot be written, DataError where an image cannot be read, and WeightsError as
    load_weights does.
    """
    loaded = load_weights(weights)
    examples, policy = found.folder.validation, loaded.weights.preprocessing.image_policy
    # Kept on the CPU, from where the evaluated images are copied: a packed set would be loaded to the GPU as a whole.
    images = batches_of(examples, policy, torch.device("cpu"), threads=threads)
    numbers = spread_numbers(len(examples))
    evaluation = evaluate(loaded.weights, images, numbers, device=device, on_progress=on_progress)
    wrong = _gallery(evaluation, found, images, loaded.weights.labels)
    page = render_run_report(name=weights.parent.name, loaded=loaded, evaluation=evaluation, wrong=wrong)
    path = weights.with_name(REPORT)
    save_page(path, page)
    return RunReport(
        path=path,
        loaded=loaded,
        num_images=len(numbers),
        center=score(evaluation, evaluation.center),
        ten=score(evaluation, evaluation.ten),
    )


def _gallery(evaluation: Evaluation, found: Survey, batches: Batches, labels: Sequence[str]) -> list[Thumbnail]:
    """Return the highest-confidence errors, with their images read again."""
    places = most_wrong(evaluation)
    if not len(places):
        return []
    numbers = evaluation.numbers[places]
    ((images, _),) = batches.batches([torch.from_numpy(numbers)])
    names = (Input(name=found.folder.validation[number].name).text for number in numbers)
    return [
        wrong_image(evaluation, place, name, image, labels)
        for place, name, image in zip(places, names, images.numpy(), strict=True)
    ]
