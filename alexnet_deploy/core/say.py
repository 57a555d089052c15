"""How a function tells what it is doing: it is given something that takes one line."""

from collections.abc import Callable
from typing import TypeAlias

Say: TypeAlias = Callable[[str], None]
"""Takes one line about what is being done."""


def say_nothing(line: str) -> None:
    """Take a line and leave it."""
