"""Test networks: narrow ones with every structure of the family, and weights that are sensitive to every fault."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import torch

from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.bundle.store import Bundle, publishing
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.images.drawing import golden_images
from alexnet_deploy.core.model.architecture import Architecture, Conv, Linear
from alexnet_deploy.core.model.family import preprocessing_for
from alexnet_deploy.core.model.network import Network, cut, network_from, preprocess, tensors_of
from alexnet_deploy.core.model.views import views_by_name
from alexnet_deploy.core.model.weights import LoadedWeights, TrainingRecord, Weights, load_weights
from alexnet_deploy.pipeline.export import ExportRequest, export
from alexnet_deploy.train.run import look_over

LABELS = ("container ship", "hot-air balloon", "mountain bike", "umbrella")

# Target standard deviation of each layer's output. The first two match the authors' own networks on pixels of 0..255:
# there LRN's sum of squares is as large as k, so its alpha matters. The last keeps softmax away from 0 and 1.
_DEVIATIONS = {"conv1": 100.0, "conv2": 100.0, "fc8": 1.5}


def narrowed(architecture: Architecture, divisor: int = 8, num_classes: int = len(LABELS)) -> Architecture:
    """Return the same layers with `divisor` times fewer channels: the same code at a hundredth of the cost."""
    layers = []
    for layer in architecture.layers:
        if isinstance(layer, Conv):
            layer = msgspec.structs.replace(layer, out_channels=layer.out_channels // divisor)
        elif isinstance(layer, Linear) and layer is not architecture.layers[-1]:
            layer = msgspec.structs.replace(layer, out_features=layer.out_features // divisor // 8)
        layers.append(layer)
    return msgspec.structs.replace(architecture, layers=tuple(layers)).with_num_classes(num_classes)


def renamed(architecture: Architecture) -> Architecture:
    """Return the same layers under other names: conv1x, relu1x, ..."""
    layers = tuple(msgspec.structs.replace(layer, name=f"{layer.name}x") for layer in architecture.layers)
    return msgspec.structs.replace(architecture, layers=layers)


def separating_weights(architecture: Architecture, seed: int = 0) -> Weights:
    """Return random weights that are sensitive to every fault: layer outputs are scaled on the golden images."""
    torch.manual_seed(seed)
    preprocessing = preprocessing_for(architecture.name)
    network = Network(architecture).eval()
    size = architecture.input_size
    (center,) = views_by_name("center", size)
    with torch.inference_mode():
        x = cut(preprocess(torch.from_numpy(golden_images()), preprocessing), center, size)
        for name, module in network.named_children():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                torch.nn.init.kaiming_normal_(module.weight)
                torch.nn.init.zeros_(module.bias)
                wanted = _DEVIATIONS.get(name, 1.0)
                module.weight *= wanted / module(x).std()
                torch.nn.init.normal_(module.bias, 0.0, 0.1 * wanted)
            x = module(x)
    return Weights(
        architecture=architecture,
        tensors=tensors_of(network),
        preprocessing=preprocessing,
        labels=LABELS
        if architecture.num_classes == len(LABELS)
        else tuple(f"class {n}" for n in range(architecture.num_classes)),
        training=None,
        tools={},
    )


def saved(weights: Weights, path: Path) -> LoadedWeights:
    weights.save(path)
    return load_weights(path)


def shipped(weights: Weights, folder: Path, **options: object) -> tuple[LoadedWeights, Bundle]:
    loaded = saved(weights, folder / "weights.safetensors")
    return loaded, export(loaded, folder / "a.bundle", ExportRequest(**options))  # type: ignore[arg-type]


def republished(
    bundle: Bundle, out: Path, files: dict[str, bytes], manifest: Manifest | None = None, *, leave_out: str = ""
) -> Bundle:
    """Publish a bundle again with some files replaced: its digests are valid, but its content is wrong."""
    with publishing(out) as stage:
        for name in bundle.manifest.files.keys() - {leave_out}:
            stage.write(name, files.get(name, bundle.read(name)))
        sealed = stage.seal(manifest or bundle.manifest)
    return Bundle(path=out, manifest=sealed.manifest, sha256=sealed.sha256)


def with_tensor(weights: Weights, name: str, values: np.ndarray) -> Weights:
    return replace(weights, tensors={**weights.tensors, name: values})


def fitted(architecture: Architecture, folder: Path) -> Weights:
    """Return weights that classify a folder's images: random layers, and a last layer fitted to their features.

    The training record names the folder and its current digest.
    """
    survey = look_over(folder, preprocessing_for(architecture.name).image_policy)
    weights = separating_weights(architecture)
    network = network_from(weights.architecture, weights.tensors)
    size = architecture.input_size
    features = []
    with torch.inference_mode():
        for example in survey.folder.train:
            image = torch.from_numpy(read_image(example.path, weights.preprocessing.image_policy))[None]
            pixels = preprocess(image, weights.preprocessing)
            x = torch.cat([cut(pixels, view, size) for view in views_by_name("ten", size)])
            for module in list(network.children())[:-1]:
                x = module(x)
            features.append(x.double().numpy())
    inputs = np.concatenate(features)
    labels = np.repeat([example.label for example in survey.folder.train], len(features[0]))
    wanted = 2.0 * (2.0 * np.eye(len(LABELS))[labels] - 1.0)
    # Ridge regression, regularised so weakly that every training image is classified correctly.
    middle = inputs.mean(axis=0)
    centered = inputs - middle
    regularised = centered.T @ centered + 5e-2 * len(inputs) * centered.var() * np.eye(inputs.shape[1])
    solution = np.linalg.solve(regularised, centered.T @ (wanted - wanted.mean(axis=0)))
    record = TrainingRecord(
        recipe={"name": "fitted"},
        data=str(folder),
        data_sha256=survey.sha256,
        num_train=len(survey.folder.train),
        num_validation=len(survey.folder.validation),
        excluded={},
        epochs=(),
        best_epoch=0,
        confusion=(),
        interrupted=False,
        seconds=1.0,
        device="cpu",
    )
    last = {
        "fc8.weight": solution.T.astype(np.float32),
        "fc8.bias": (wanted.mean(axis=0) - middle @ solution).astype(np.float32),
    }
    return replace(weights, tensors={**weights.tensors, **last}, training=record)
