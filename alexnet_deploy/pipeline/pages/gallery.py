"""The gallery of `predict --gallery`: the sampled inputs are decoded again and shown with their guesses."""

from pathlib import Path

import numpy as np

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import ImageError, ImageErrorCode
from alexnet_deploy.core.images.decode import DecodeLimits, decode_image, read_image
from alexnet_deploy.core.inputs.archives import is_archive
from alexnet_deploy.core.inputs.paths import exists
from alexnet_deploy.core.inputs.remote.reading import RemoteFile
from alexnet_deploy.core.inputs.remote.urls import is_url
from alexnet_deploy.core.model.preprocessing import ImagePolicy
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.sample import EvenSample
from alexnet_deploy.report.page import NUM_PREDICTIONS, Thumbnail, save_page
from alexnet_deploy.report.pages.gallery import Unread, render_gallery


def write_gallery(path: Path, sample: EvenSample, bundle: Bundle, limits: DecodeLimits) -> None:
    """Write the page of a sample of predictions made with a bundle; raises OutputError where it cannot be written.

    An image that cannot be read again, such as one that was removed meanwhile, is shown by its prediction alone.
    """
    images: list[Thumbnail] = []
    unread: list[Unread] = []
    for prediction in sample.kept:
        if prediction.error is not None:
            unread.append(Unread(caption=prediction.path, code=prediction.error.value, message=prediction.message))
            continue
        try:
            image = _read_again(prediction.path, bundle.manifest.preprocessing.image_policy, limits)
        except ImageError as error:
            unread.append(Unread(caption=prediction.path, code="not shown", message=_not_shown(prediction, error)))
            continue
        guesses = tuple((guess.label, guess.probability) for guess in prediction.top[:NUM_PREDICTIONS])
        images.append(Thumbnail(caption=prediction.path, image=image, predictions=guesses, truth=None))
    page = render_gallery(
        title=bundle.path.name,
        images=images,
        unread=unread,
        num_inputs=sample.num_seen,
        tools=tool_versions("onnxruntime", "openvino"),
    )
    save_page(path, page)


def _read_again(name: str, policy: ImagePolicy, limits: DecodeLimits) -> np.ndarray:
    if exists(name):
        return read_image(Path(name), policy, limits)
    if any(is_archive(part) for part in name.split("/")[:-1]):
        raise ImageError(ImageErrorCode.UNREADABLE, "it is in an archive, which is read in one pass only")
    if is_url(name):
        return decode_image(RemoteFile(url=name).read(limits), policy, limits)
    return read_image(Path(name), policy, limits)


def _not_shown(prediction: Prediction, error: ImageError) -> str:
    best = prediction.top[0]
    return f"{best.probability:.2%} {best.label}; the image could not be read again: {error}"
