"""Read pickled arrays without an unpickler: a machine of thirty instructions that builds arrays, lists and dicts.

Nothing that a pickle names is imported or called: of the four names that an array needs, each has its own meaning here,
and every other name is refused. Arrays stay views of the pickle's bytes until they are asked for.

Source: Python, Lib/pickletools.py (instructions); NumPy, numpy/_core/src/multiarray/methods.c (an array's state).
"""

import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

_MOST_INSTRUCTIONS = 100_000
"""A network of the family needs some 500."""
_MOST_DIMENSIONS = 8
_NAMES = MappingProxyType(
    {
        "numpy.core.multiarray._reconstruct": "reconstruct",
        "numpy._core.multiarray._reconstruct": "reconstruct",
        "numpy.ndarray": "ndarray",
        "numpy.dtype": "dtype",
        "_codecs.encode": "encode",
        "__builtin__.bytes": "bytes",
    }
)
_FLOATS = ("f4", "f8")


class PickleError(Exception):
    """Why a pickle cannot be read; the message is the reason."""


@dataclass(frozen=True, slots=True)
class _Name:
    """One of the names that an array needs."""

    meaning: str


@dataclass(slots=True)
class _Type:
    """A type of numbers."""

    code: str
    order: str = "|"


@dataclass(slots=True)
class Array:
    """An array whose values are not decoded yet."""

    shape: tuple[int, ...] = ()
    kind: str = ""
    """Such as "<f4"; "O" for an array of objects."""
    is_fortran: bool = False
    content: "Value" = None
    """Its bytes; a list for an array of objects."""
    made: np.ndarray | None = None
    """Its decoded values: a pickle may hold one array many times."""

    def values(self) -> np.ndarray:
        """Return its values, float32; raises PickleError if they are not floats, or do not fit its shape."""
        if self.made is None:
            self.made = self._made()
        return self.made

    def _made(self) -> np.ndarray:
        if self.kind[1:] not in _FLOATS or not isinstance(self.content, bytes | memoryview):
            raise PickleError(f"holds an array of type {self.kind[:20]!r}, expected floats")
        stored = np.dtype(self.kind)
        if len(self.content) != math.prod(self.shape) * stored.itemsize:
            raise PickleError(f"holds an array of shape {self.shape} with {len(self.content):,} bytes")
        flat = np.frombuffer(self.content, stored).astype(np.float32, copy=False)
        return flat.reshape(self.shape, order="F" if self.is_fortran else "C")


Value: TypeAlias = (
    "bool | int | str | bytes | memoryview | _Name | _Type | Array | tuple[Value, ...] | list[Value] | "
    "dict[str, Value] | None"
)


def read_pickle(data: memoryview) -> Value:
    """Return the object in a pickle of arrays, lists and dicts; raises PickleError for any other type.

    The keys of dicts are texts; Python 2's were bytes.
    """
    machine = _Machine(data=data)
    try:
        for _ in range(_MOST_INSTRUCTIONS):
            code = machine.take(1)[0]
            if code == _STOP:
                return machine.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise PickleError(f"has an instruction that no array needs: {bytes([code])!r}")
            instruction(machine)
    except (IndexError, KeyError, ValueError, TypeError, struct.error, UnicodeDecodeError) as error:
        raise PickleError(f"is damaged: {type(error).__name__}: {error}") from error
    raise PickleError(f"has more than {_MOST_INSTRUCTIONS:,} instructions")


@dataclass(slots=True, kw_only=True)
class _Machine:
    data: memoryview
    place: int = 0
    stack: list["Value"] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, "Value"] = field(default_factory=dict)
    num_encoded: int = 0
    """Number of bytes decoded from texts."""

    def take(self, num_bytes: int) -> memoryview:
        """Return the next bytes."""
        end = self.place + num_bytes
        if num_bytes < 0 or end > len(self.data):
            raise PickleError("ends early, or says that something is longer than the file")
        taken = self.data[self.place : end]
        self.place = end
        return taken

    def number(self, layout: str) -> int:
        """Return the next number."""
        (value,) = struct.unpack(layout, self.take(struct.calcsize(layout)))
        return int(value)

    def line(self) -> str:
        """Return the next line of a name."""
        text = bytes(self.data[self.place : self.place + 256])
        end = text.index(b"\n")
        self.place += end + 1
        return text[:end].decode()

    def pop(self) -> "Value":
        """Remove and return the top of the stack, above the last mark."""
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise PickleError("is damaged: it takes from an empty stack")
        return self.stack.pop()

    def since_mark(self) -> list["Value"]:
        """Return all above the last mark."""
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def remember(self, number: int) -> None:
        """Store the top of the stack under a number."""
        self.memo[number] = self.stack[-1]


def _skip(layout: str) -> Callable[[_Machine], None]:
    def skip(machine: _Machine) -> None:
        machine.take(struct.calcsize(layout))

    return skip


def _constant(value: "Value") -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(value)


def _integer(layout: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(machine.number(layout))


def _long(machine: _Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(machine.number("<B")), "little", signed=True))


def _bytes(layout: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(machine.take(machine.number(layout)))


def _text(layout: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(str(machine.take(machine.number(layout)), "utf-8"))


def _put(layout: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.remember(machine.number(layout))


def _memoize(machine: _Machine) -> None:
    machine.remember(len(machine.memo))


def _get(layout: str) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(machine.memo[machine.number(layout)])


def _mark(machine: _Machine) -> None:
    machine.marks.append(len(machine.stack))


def _tuple(size: int) -> Callable[[_Machine], None]:
    def make(machine: _Machine) -> None:
        parts = [machine.pop() for _ in range(size)]
        machine.stack.append(tuple(reversed(parts)))

    return make


def _marked_tuple(machine: _Machine) -> None:
    machine.stack.append(tuple(machine.since_mark()))


def _append(machine: _Machine) -> None:
    value = machine.pop()
    _extend(machine.stack[-1], [value])


def _appends(machine: _Machine) -> None:
    values = machine.since_mark()
    _extend(machine.stack[-1], values)


def _extend(target: "Value", values: list["Value"]) -> None:
    if not isinstance(target, list):
        raise PickleError("is damaged: it appends to something that is not a list")
    target.extend(values)


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    _update(machine.stack[-1], [key, value])


def _set_items(machine: _Machine) -> None:
    values = machine.since_mark()
    _update(machine.stack[-1], values)


def _update(target: "Value", values: list["Value"]) -> None:
    if not isinstance(target, dict):
        raise PickleError("is damaged: it sets an item of something that is not a dict")
    for key, value in zip(values[::2], values[1::2], strict=True):
        target[as_text(key)] = value


def as_text(value: "Value") -> str:
    """Return a text, which Python 2 wrote as bytes; raises PickleError for anything else."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | memoryview):
        return bytes(value[:1000]).decode("latin-1")
    raise PickleError(f"has a {type(value).__name__}, expected a name")


def _global(machine: _Machine) -> None:
    _name(machine, machine.line(), machine.line())


def _stack_global(machine: _Machine) -> None:
    name, module = as_text(machine.pop()), as_text(machine.pop())
    _name(machine, module, name)


def _name(machine: _Machine, module: str, name: str) -> None:
    whole = f"{module}.{name}"
    if whole not in _NAMES:
        raise PickleError(f"holds {whole[:100]}, which is not an array and is not loaded, because loading can run code")
    machine.stack.append(_Name(_NAMES[whole]))


def _reduce(machine: _Machine) -> None:
    arguments, called = machine.pop(), machine.pop()
    if not isinstance(called, _Name) or not isinstance(arguments, tuple):
        raise PickleError("is damaged: expected a call of a named function")
    match called.meaning, arguments:
        # The shape given here does not matter: the array's state has the right one.
        case "reconstruct", (_Name(meaning="ndarray"), _, _):
            machine.stack.append(Array())
        case "dtype", (code, _, _):
            machine.stack.append(_Type(as_text(code)))
        case "encode", (str() as text, coding) if as_text(coding) == "latin1":
            # How Python 3 writes bytes for Python 2.
            machine.num_encoded += len(text)
            if machine.num_encoded > len(machine.data):
                raise PickleError("encodes more text than the file holds")
            machine.stack.append(text.encode("latin-1"))
        case "bytes", ():
            # How Python 3 writes no bytes at all for Python 2.
            machine.stack.append(b"")
        case _:
            raise PickleError(f"is damaged: unexpected arguments of {called.meaning}")


def _build(machine: _Machine) -> None:
    state = machine.pop()
    match machine.stack[-1], state:
        case Array() as array, (_, shape, kind, is_fortran, content) if isinstance(shape, tuple) and isinstance(
            kind, _Type
        ):
            sizes = tuple(size for size in shape if isinstance(size, int) and 0 <= size < 1 << 40)
            if sizes != shape or len(sizes) > _MOST_DIMENSIONS:
                raise PickleError("holds an array of an impossible shape")
            array.shape, array.is_fortran, array.content = sizes, bool(is_fortran), content
            array.kind = "O" if kind.code.startswith("O") else f"{kind.order}{kind.code}"
        case _Type() as kind, (_, order, *_) if as_text(order) in ("<", ">", "|", "="):
            kind.order = as_text(order)
        case _:
            raise PickleError("is damaged: it sets the state of something that is not an array")


_STOP = ord(".")
_INSTRUCTIONS: Mapping[int, Callable[[_Machine], None]] = MappingProxyType(
    {
        0x80: _skip("<B"),
        0x95: _skip("<Q"),
        ord("N"): _constant(None),
        0x88: _constant(True),
        0x89: _constant(False),
        ord("K"): _integer("<B"),
        ord("M"): _integer("<H"),
        ord("J"): _integer("<i"),
        0x8A: _long,
        ord("U"): _bytes("<B"),
        ord("T"): _bytes("<i"),
        ord("C"): _bytes("<B"),
        ord("B"): _bytes("<I"),
        0x8E: _bytes("<Q"),
        ord("X"): _text("<I"),
        0x8C: _text("<B"),
        0x8D: _text("<Q"),
        ord("q"): _put("<B"),
        ord("r"): _put("<I"),
        0x94: _memoize,
        ord("h"): _get("<B"),
        ord("j"): _get("<I"),
        ord("("): _mark,
        ord(")"): lambda machine: machine.stack.append(()),
        0x85: _tuple(1),
        0x86: _tuple(2),
        0x87: _tuple(3),
        ord("t"): _marked_tuple,
        ord("]"): lambda machine: machine.stack.append([]),
        ord("a"): _append,
        ord("e"): _appends,
        ord("}"): lambda machine: machine.stack.append({}),
        ord("s"): _set_item,
        ord("u"): _set_items,
        ord("c"): _global,
        0x93: _stack_global,
        ord("R"): _reduce,
        ord("b"): _build,
    }
)
