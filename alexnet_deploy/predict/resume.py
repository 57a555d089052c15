"""Inputs that already have a row: they are passed over, or predicted again."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.inputs.paths import Input


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """An earlier prediction whose input is to be predicted again."""

    path: str


def pass_over(done: Iterable[str | Again], inputs: Iterator[Input | None]) -> Iterator[Input | None]:
    """Yield the inputs of `done` that are marked Again, and then all inputs after `done`.

    `done` are paths, in order. A None among the inputs means that no more are available yet; it is yielded only if an
    input before it was. Raises UsageError if `done` does not match the first inputs.
    """
    is_awaited = False
    for number, mark in enumerate(done, start=1):
        path = mark.path if isinstance(mark, Again) else mark
        for found in inputs:
            if found is not None:
                break
            if is_awaited:
                yield None
                is_awaited = False
        else:
            raise _mismatch(number, path, "there are no more inputs")
        if found.text != path:
            raise _mismatch(number, path, f"input {number:,} is now {found.text}")
        if isinstance(mark, Again):
            yield found
            is_awaited = True
    yield from inputs


def _mismatch(number: int, path: str, reason: str) -> UsageError:
    return UsageError(f"cannot resume: row {number:,} was written for {path}, but {reason}")
