"""The images that confidence is calibrated on: a folder of labelled images, or the training's validation images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.images.batches import Source, look_through
from alexnet_deploy.core.model.weights import Weights
from alexnet_deploy.core.process.say import Say, counted
from alexnet_deploy.pipeline.inputs.labelled import (
    holds_training_images,
    labelled_images,
    recorded_data,
    recorded_images,
)

ConfidenceSource: TypeAlias = Path | Literal["validation"]
"""A folder of labelled images, or the validation images that the weights record."""

FEWEST_IMAGES = 200
"""Smallest number of images that a temperature is found on. Measured with ten views on 40 random sets of photographs:
200 images gave temperatures of 1.22 to 2.10 where 600 give 1.64, but 100 gave 0.50 to 2.88."""

_OTHER_IMAGES = "pass --calibrate-confidence DIR to calibrate on other images"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceImages:
    """Labelled images that the network was not trained on, class by class."""

    sources: Sequence[Source]
    """All can be decoded."""
    truths: np.ndarray
    """Their classes, int64 (N,), indices into the labels, ascending."""
    sha256: str
    """Digest of the decoded images, in order."""
    is_validation: bool
    """Whether they are the validation images of the training."""


def confidence_images(source: ConfidenceSource, weights: Weights, say: Say) -> ConfidenceImages:
    """Return the images to calibrate confidence on.

    Raises UsageError for the images that the network was trained on, fewer than FEWEST_IMAGES, and validation images
    that the weights do not record or that have changed; DataError for images that cannot be read.
    """
    sources: list[Source]
    if source == "validation":
        say(f"calibrating confidence on the validation images in {recorded_data(weights, _OTHER_IMAGES)}")
        recorded = recorded_images(weights, _OTHER_IMAGES)
        examples = sorted(recorded.validation, key=lambda example: example.label)
        sources = list(examples)
        # By name: the weights may have the classes in another order.
        places = [weights.labels.index(recorded.class_names[example.label]) for example in examples]
        sha256 = look_through(sources, weights.preprocessing.image_policy).sha256
    else:
        folder, decoded = labelled_images(source, weights, "calibrate confidence", say)
        if holds_training_images(folder.root, weights):
            raise UsageError(
                f"{folder.root}: the network was trained on these images, so its confidence in them says nothing about "
                "others; pass --calibrate-confidence validation, or the folder of other labelled images"
            )
        sources, sha256 = list(decoded.sources), decoded.sha256
        places = [image.label for image in folder.images]
    if len(sources) < FEWEST_IMAGES:
        raise UsageError(
            f"{counted(len(sources), 'image')} to calibrate confidence on, but {FEWEST_IMAGES} or more are needed; "
            "pass --calibrate-confidence DIR with more labelled images"
        )
    return ConfidenceImages(
        sources=sources,
        truths=np.array(places, dtype=np.int64),
        sha256=sha256,
        is_validation=source == "validation",
    )
