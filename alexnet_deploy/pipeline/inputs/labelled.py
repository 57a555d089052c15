"""A folder of labelled images that can all be decoded, and the data set that weights were trained on."""

from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.core.images.batches import ImageSet, look_through
from alexnet_deploy.core.inputs.labelled import LabelledFolder, find_labelled
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.core.process.say import Say

if TYPE_CHECKING:
    from alexnet_deploy.train.data.source import LabelledSource


def labelled_images(folder: Path, weights: Weights, purpose: str, say: Say) -> tuple[LabelledFolder, ImageSet]:
    """Return the labelled images of a folder, all of which can be decoded; report classes without images.

    Raises DataError, with the `purpose` in its words, for an image that cannot be decoded, and what find_labelled
    raises.
    """
    found = find_labelled(folder, weights.labels)
    decoded = look_through([image.path for image in found.images], weights.preprocessing.image_policy)
    for path, error in decoded.excluded:
        raise DataError(f"{path}: cannot be decoded to {purpose}: {error}")
    present = {image.label for image in found.images}
    if absent := [label for index, label in enumerate(weights.labels) if index not in present]:
        say(f"{found.root}: no images of {', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}")
    return found, decoded


def holds_training_images(root: Path, weights: Weights) -> bool:
    """Return whether the network was trained on images in the folder `root`, by the path that the weights record."""
    if weights.training is None:
        return False
    from alexnet_deploy.train.pack.format import packed_from

    learnt = packed_from(Path(weights.training.data)).resolve()
    # A training folder without val/ was split by file name: nine tenths of it were training images.
    return root.resolve() in (learnt, learnt / "train")


def recorded_data(weights: Weights, remedy: str) -> Path:
    """Return the path of the training data that the weights record; raises UsageError, with a `remedy`, without one."""
    if weights.training is None:
        raise UsageError(f"these weights record no training images; {remedy}")
    return Path(weights.training.data)


def recorded_images(weights: Weights, remedy: str) -> "LabelledSource":
    """Return the training and validation images that the weights record, without those that cannot be decoded.

    Raises UsageError, with a `remedy`, if there is no record, or the images cannot be read or have changed.
    """
    from alexnet_deploy.train.run import look_over

    data = recorded_data(weights, remedy)
    assert weights.training is not None
    try:
        found = look_over(data, weights.preprocessing.image_policy)
    except DataError as error:
        raise UsageError(f"the training images cannot be read: {error}; {remedy}") from error
    if found.sha256 != weights.training.data_sha256:
        raise UsageError(
            f"{data}: its training and validation images differ from those the weights were trained on (they changed, "
            f"or an earlier version of this program split them); {remedy}"
        )
    return found.folder
