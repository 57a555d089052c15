"""Fine-tuning: a run starts from trained weights, and some layers may stay as they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from msgspec import Struct

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.architecture import Architecture
from alexnet_deploy.core.model.network import Network
from alexnet_deploy.core.model.preprocessing import Preprocessing
from alexnet_deploy.core.model.weights import LoadedWeights, StartRecord


class Basis(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a checkpoint stores about the start of its run, besides the tensors."""

    preprocessing: Preprocessing
    """That of the file; the run keeps it."""
    record: StartRecord
    """The file, and what became of its layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A network to train, with the tensors that it starts from."""

    architecture: Architecture
    """The file's table, with the number of classes of the images."""
    basis: Basis
    """The file's preprocessing, and the record of the start."""
    tensors: Mapping[str, np.ndarray]
    """float32, by name, of all layers that are not new; empty in a resumed run, whose tensors are in its checkpoint."""

    def fill(self, network: Network) -> None:
        """Copy the tensors into a network of this architecture."""
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name in self.tensors:
                    parameter.copy_(torch.tensor(self.tensors[name]))


def start_from(loaded: LoadedWeights, class_names: Sequence[str], frozen: Sequence[str]) -> Start:
    """Return the start of a run on these classes; `frozen` are names of layers, see layers_in.

    The last layer is kept if the classes are the same, in the order of `class_names`; otherwise it is new. Raises
    UsageError if a new layer is frozen, or all layers are, or the weights have a mean image.
    """
    weights, labels = loaded.weights, loaded.weights.labels
    if weights.mean_image is not None:
        # Training preprocesses crops, which have lost their place in the image.
        raise UsageError(
            f"{loaded.path}: these weights have a mean image, but training subtracts one mean per channel; import the "
            "file again with --mean-image channels"
        )
    last = weights.architecture.layers[-1].name
    tensors = dict(weights.tensors)
    names = (f"{last}.weight", f"{last}.bias")
    is_kept = sorted(labels) == sorted(class_names)
    for name in names:
        if is_kept:
            tensors[name] = tensors[name][[labels.index(label) for label in class_names]]
        else:
            del tensors[name]
    if last in frozen and not is_kept:
        raise UsageError(
            f"{last} cannot be frozen: it is new, because the classes of the images are not those of {loaded.path}; "
            f"remove {last} from --freeze"
        )
    if set(frozen) == set(_layers_with_parameters(weights.architecture)):
        raise UsageError("--freeze names all layers, so no layer is left to train; remove one")
    record = StartRecord(
        file=loaded.path.name,
        sha256=loaded.sha256,
        frozen=tuple(frozen),
        new_layers=() if is_kept else (last,),
        imported=weights.origin,
        start=None if weights.training is None else weights.training.start,
    )
    return Start(
        architecture=weights.architecture.with_num_classes(len(class_names)),
        basis=Basis(preprocessing=weights.preprocessing, record=record),
        tensors=tensors,
    )


def layers_in(text: str, architecture: Architecture) -> tuple[str, ...]:
    """Return the layers that `--freeze` names, in the order of the table.

    `text` holds names and ranges, `conv1..conv5`, separated by commas. Raises UsageError for a name that is not a layer
    with parameters, and for a range that runs backwards.
    """
    known = _layers_with_parameters(architecture)
    chosen: set[str] = set()
    for word in (part.strip() for part in text.split(",")):
        first, dots, last = (word, "", word) if word in known else word.partition("..")
        for name in (first, last) if dots else (first,):
            if name not in known:
                raise UsageError(
                    f"--freeze {text}: {name!r} is not a layer with parameters of {architecture.name}; its layers are "
                    f"{', '.join(known)}"
                )
        begin, end = known.index(first), known.index(last if dots else first)
        if begin > end:
            raise UsageError(f"--freeze {text}: {first} comes after {last}; write {last}..{first}")
        chosen |= set(known[begin : end + 1])
    return tuple(name for name in known if name in chosen)


def layer_of(parameter: str) -> str:
    """Return the layer of a parameter: `conv1` for `conv1.weight`, and for `columns.0.conv1.weight`."""
    return parameter.split(".")[-2]


def _layers_with_parameters(architecture: Architecture) -> list[str]:
    return [cost.layer.name for cost in architecture.costs() if cost.weight_shape is not None]
