"""The tensors of a state dict, wherever in a checkpoint it is and whatever wrapped the model."""

from collections.abc import Iterable, Mapping

import torch

from alexnet_deploy.core.errors import WeightsError

# DataParallel, DistributedDataParallel and torch.compile each put themselves into the names, at any depth.
_WRAPPERS = frozenset(("module", "_orig_mod"))

# Where training programs keep the model: pytorch/examples and Lightning, then others.
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")


def find_state_dict(loaded: object, subject: str) -> dict[str, torch.Tensor]:
    """Return the tensors of floats, by name without wrappers, of what a checkpoint holds, bare or one level down.

    Raises WeightsError, which begins with `subject`, where there is none, or several of which none has a usual name.
    """
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{subject}: holds a {type(loaded).__name__}, expected a state dict")
    if is_bare(loaded):
        return _unwrapped(loaded, subject)
    nested = {key: value for key, value in loaded.items() if is_bare(value)}
    usual = next((key for key in _USUAL if key in nested), None)
    if usual is None and len(nested) != 1:
        found = f"{len(nested)} state dicts" if nested else "no state dict"
        raise WeightsError(f"{subject}: holds {found}, expected one, bare or under `state_dict`")
    return _unwrapped(nested[usual] if usual is not None else next(iter(nested.values())), subject)


def is_bare(value: object) -> bool:
    """Return whether this is a state dict: a mapping of names to tensors, with nothing else in it."""
    return (
        isinstance(value, Mapping)
        and len(value) > 0
        and all(isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in value.items())
    )


def _unwrapped(state: Mapping[str, torch.Tensor], subject: str) -> dict[str, torch.Tensor]:
    # Counters, such as a batch norm's num_batches_tracked, are whole numbers and no part of the function.
    floats = [name for name, tensor in state.items() if tensor.is_floating_point()]
    return {short: state[name] for name, short in short_names(floats, subject).items()}


def short_names(names: Iterable[str], subject: str) -> dict[str, str]:
    """Return the name of each tensor without what wraps the model, by its name in the file.

    Raises WeightsError, which begins with `subject`, where there are none, or two come to have one name.
    """
    parts = {name: [part for part in name.split(".") if part not in _WRAPPERS] for name in names}
    while parts and all(len(each) > 2 for each in parts.values()) and len({each[0] for each in parts.values()}) == 1:
        # Lightning's `model.`, and whatever else all of them begin with.
        parts = {name: each[1:] for name, each in parts.items()}
    short = {name: ".".join(each) for name, each in parts.items()}
    if not short:
        raise WeightsError(f"{subject}: holds no tensor of floats")
    if len(set(short.values())) != len(short):
        raise WeightsError(f"{subject}: two tensors have one name once `module.` is left out")
    return short
