"""The six mistakes that imports are known to make: each planted in a network that was recognised, each named."""

from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from foreign_torch import JIECAOYU, state_dict
from networks import narrowed, separating_weights

from alexnet_deploy.core.errors import ParityError
from alexnet_deploy.core.model.architecture import LocalNorm
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import View, views_by_name
from alexnet_deploy.export.importing.assume import Overrides, complete
from alexnet_deploy.export.importing.proof import proof_images, prove, source_inputs
from alexnet_deploy.export.importing.recognise import Recognised, recognise
from alexnet_deploy.export.importing.registry import Referee, find_format
from alexnet_deploy.export.importing.source import MeanImage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recognised, Referee]:
    path = tmp_path_factory.mktemp("proof") / "alexnet.pth.tar"
    torch.save(state_dict(separating_weights(narrowed(ARCHITECTURES["caffe"])), JIECAOYU), path)
    found = find_format(path)
    return recognise(complete(found.reader.read(path), Overrides()), Overrides()), found.referee


Plant = Callable[[Recognised], Recognised]


def _alpha(factor: float) -> Plant:
    def plant(right: Recognised) -> Recognised:
        layers = tuple(
            msgspec.structs.replace(layer, alpha=layer.alpha * factor) if isinstance(layer, LocalNorm) else layer
            for layer in right.architecture.layers
        )
        return replace(right, architecture=msgspec.structs.replace(right.architecture, layers=layers))

    return plant


def _rgb(right: Recognised) -> Recognised:
    return replace(right, preprocessing=msgspec.structs.replace(right.preprocessing, channel_order="RGB"))


def _height_width_channels(right: Recognised) -> Recognised:
    weight = right.tensors["fc6.weight"]
    wrong = weight.reshape(len(weight), -1, 6, 6).transpose(0, 2, 3, 1).reshape(weight.shape)
    return replace(right, tensors={**right.tensors, "fc6.weight": np.ascontiguousarray(wrong)})


def _caffenet(right: Recognised) -> Recognised:
    return replace(right, architecture=narrowed(ARCHITECTURES["caffenet"]))


PLANTED: dict[str, tuple[Plant, str]] = {
    "alpha times 5": (_alpha(5), "LRN's alpha divided by its window"),
    "alpha divided by 5": (_alpha(1 / 5), "LRN's alpha multiplied by its window"),
    "RGB for BGR": (_rgb, "channels in BGR order"),
    "fc6 in H, W, C order": (_height_width_channels, "fc6.weight read in H, W, C order"),
    "CaffeNet's order of layers": (_caffenet, "normalisation and pooling in the other order"),
}


def test_what_was_recognised_agrees(whole: tuple[Recognised, Referee]) -> None:
    agreement = prove(*whole)
    assert (agreement.num_images, agreement.holds) == (16, True)
    assert len(np.unique(proof_images().reshape(16, -1), axis=0)) == 16


@pytest.mark.parametrize("planted", PLANTED)
def test_planted_error_fails_by_name(planted: str, whole: tuple[Recognised, Referee]) -> None:
    plant, name = PLANTED[planted]
    recognised, referee = whole
    with pytest.raises(ParityError) as caught:
        prove(plant(recognised), referee)
    said = str(caught.value)
    assert said.startswith(f"{recognised.source.path}: the imported network disagrees with the file: on 16 images")
    assert said.endswith(f"; they agree with {name}")


def test_crop_off_by_one_fails_by_name(whole: tuple[Recognised, Referee]) -> None:
    (center,) = views_by_name("center", 227)
    assert (center.top, center.left) == (14, 14)
    with pytest.raises(ParityError, match=r"; they agree with a crop at 14 for 15$"):
        prove(*whole, view=View(top=15, left=15, mirrored=False))


def test_a_disagreement_that_nothing_explains_is_one_all_the_same(whole: tuple[Recognised, Referee]) -> None:
    recognised, referee = whole
    wrong = recognised.tensors["conv3.weight"] * np.float32(1.01)
    with pytest.raises(ParityError, match=r"allowed\)$"):
        prove(replace(recognised, tensors={**recognised.tensors, "conv3.weight": wrong}), referee)


def test_nan_is_no_agreement(whole: tuple[Recognised, Referee]) -> None:
    recognised, referee = whole
    wrong = np.full_like(recognised.tensors["fc8.bias"], np.nan)
    with pytest.raises(ParityError, match="probabilities differ by up to nan"):
        prove(replace(recognised, tensors={**recognised.tensors, "fc8.bias": wrong}), referee)


def test_what_the_source_is_fed_is_cropped_ordered_and_scaled_as_it_says(
    whole: tuple[Recognised, Referee],
) -> None:
    fed = whole[0].source.preprocessing
    images = proof_images()[:1]
    inputs = source_inputs(images, replace(fed, scale=(2.0, 3.0, 4.0)))
    assert (inputs.shape, inputs.dtype) == ((1, 3, 227, 227), np.float32)
    # Blue first, of the pixel at row 14 + 5 and column 14 + 7.
    red, green, blue = (images[0, 19, 21].astype(np.float32) - np.float32([123, 117, 104])) * np.float32([2, 3, 4])
    assert inputs[0, :, 5, 7].tolist() == [blue, green, red]
    picture = np.zeros((3, 256, 256), np.float32)
    # Blue first, as the network's input.
    picture[:, 19, 21] = (1, 2, 3)
    exact = source_inputs(images, replace(fed, mean=None, mean_image=MeanImage(name="mean", pixels=picture)))
    assert exact[0, :, 5, 7].tolist() == (images[0, 19, 21].astype(np.float32)[::-1] - np.float32([1, 2, 3])).tolist()
