"""Find the tensors of a state dict anywhere in a checkpoint, without the prefixes of wrappers."""

from collections.abc import Iterable, Mapping

import torch

from alexnet_deploy.core.errors import WeightsError

# DataParallel, DistributedDataParallel and torch.compile each add a prefix to the names, at any depth.
_WRAPPERS = frozenset(("module", "_orig_mod"))

# Keys of the model in checkpoints of training programs: pytorch/examples and Lightning, then others.
_USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")


def find_state_dict(loaded: object, subject: str) -> dict[str, torch.Tensor]:
    """Return the float tensors of a checkpoint's state dict, bare or one level down, by name without wrappers.

    Raises WeightsError, which begins with `subject`, if there is no state dict, or several and none under a usual key.
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
