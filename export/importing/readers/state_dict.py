"""Find the tensors of a state dict anywhere in a checkpoint, without the prefixes of wrappers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from alexnet_deploy.core.errors import WeightsError

# DataParallel, DistributedDataParallel and torch.compile each add a prefix to the names, at any depth.
_WRAPPERS = frozenset(("module", "_orig_mod"))

# Keys of the model in checkpoints of training programs: pytorch/examples and Lightning, then others.
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")

# Keys of the class names beside a state dict: a list in order, or torchvision's dict of name to number.
_CLASS_LISTS = ("classes", "class_names")
_CLASS_NUMBERS = "class_to_idx"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateDict:
    """A checkpoint's state dict, bare or one level down."""

    tensors: dict[str, torch.Tensor]
    """Of floats, by name without wrappers."""
    key: str | None
    """Where it is in the checkpoint; None if it is bare."""
    others: tuple[str, ...]
    """Keys of other state dicts."""
    labels: tuple[str, ...] | None
    """Class names beside it, in order; None if there are none."""


def find_state_dict(loaded: object, subject: str) -> StateDict:
    """Return the state dict of a checkpoint.

    Raises WeightsError, which begins with `subject`, if there is no state dict, or several and none under a usual key.
    """
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{subject}: holds a {type(loaded).__name__}, expected a state dict")
    if is_bare(loaded):
        return StateDict(tensors=_unwrapped(loaded, subject), key=None, others=(), labels=None)
    nested = {key: value for key, value in loaded.items() if is_bare(value)}
    usual = next((key for key in _USUAL if key in nested), None)
    if usual is None and len(nested) != 1:
        found = f"{len(nested)} state dicts" if nested else "no state dict"
        raise WeightsError(f"{subject}: holds {found}, expected one, bare or under `state_dict`")
    key = usual if usual is not None else next(iter(nested))
    others = tuple(str(name) for name in nested if name != key)
    return StateDict(tensors=_unwrapped(nested[key], subject), key=str(key), others=others, labels=_class_names(loaded))


def _class_names(loaded: Mapping[object, object]) -> tuple[str, ...] | None:
    numbers = loaded.get(_CLASS_NUMBERS)
    listed = next((loaded[key] for key in _CLASS_LISTS if key in loaded), None)
    if listed is None and isinstance(numbers, Mapping):
        names = {number: name for name, number in numbers.items() if isinstance(number, int)}
        listed = [names.get(place) for place in range(len(numbers))]
    if isinstance(listed, list | tuple) and listed and all(isinstance(name, str) for name in listed):
        return tuple(listed)
    return None


def is_bare(value: object) -> bool:
    """Return whether this is a state dict: a mapping of names to tensors, with nothing else in it."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _unwrapped(state: Mapping[str, torch.Tensor], subject: str) -> dict[str, torch.Tensor]:
    # Counters, such as a batch norm's num_batches_tracked, are integers and not used in inference.
    floats = [name for name, tensor in state.items() if tensor.is_floating_point()]
    return {short: state[name] for name, short in short_names(floats, subject).items()}


def short_names(names: Iterable[str], subject: str) -> dict[str, str]:
    """Return the name of each tensor without the wrappers' prefixes, by its name in the file.

    Raises WeightsError, which begins with `subject`, if there are none, or two get the same name.
    """
    parts = {name: [part for part in name.split(".") if part not in _WRAPPERS] for name in names}
    while parts and all(len(each) > 2 for each in parts.values()) and len({each[0] for each in parts.values()}) == 1:
        # Lightning's `model.`, or any other common prefix.
        parts = {name: each[1:] for name, each in parts.items()}
    short = {name: ".".join(each) for name, each in parts.items()}
    if not short:
        raise WeightsError(f"{subject}: holds no tensor of floats")
    if len(set(short.values())) != len(short):
        raise WeightsError(f"{subject}: two tensors have one name once `module.` is left out")
    return short
