"""Architecture tables as TOML files: one line for each layer.

    name = "small"
    input_size = 227
    layers = [
        { type = "conv", name = "conv1", out_channels = 96, kernel = 11, stride = 4 },
        ...
    ]

Shapes, parameters and multiply-adds are derived; see core/model/architecture.py for the layers and their fields.
"""

import tomllib
from pathlib import Path
from typing import get_args

import msgspec

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.fs.reading import from_toml, invalid_value_words, read_toml, toml_value
from alexnet_deploy.core.model.architecture import Architecture, Layer
from alexnet_deploy.core.model.family import ARCHITECTURES, architecture_by_name

_TYPES = {str(kind.__struct_config__.tag): kind for kind in get_args(Layer)}
_FIELDS = ("name", "input_size", "layers")
_MOST_LAYERS = 1000


def architecture_as_toml(architecture: Architecture) -> str:
    """Return a table as a TOML file; architecture_from_toml reads the same table back."""
    lines = [f"name = {toml_value(architecture.name)}", f"input_size = {architecture.input_size}", "layers = ["]
    for layer in architecture.layers:
        fields = {"type": layer.__struct_config__.tag, **msgspec.to_builtins(layer)}
        words = ", ".join(f"{name} = {toml_value(value)}" for name, value in fields.items())
        lines.append(f"    {{ {words} }},")
    return "\n".join([*lines, "]"]) + "\n"


def architecture_from_toml(text: str, subject: str) -> Architecture:
    """Return the table of a TOML text.

    Raises UsageError for an invalid text or table; the error names `subject`, the layer and what is wrong with it.
    """
    try:
        fields = from_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{subject}: is not valid TOML: {error}") from error
    for name in sorted(fields.keys() ^ set(_FIELDS)):
        problem = "is missing" if name in _FIELDS else f"is not a field of a table; the fields are {', '.join(_FIELDS)}"
        raise UsageError(f"{subject}: {name} {problem}")
    rows = fields["layers"]
    if not isinstance(rows, list) or not 1 <= len(rows) <= _MOST_LAYERS:
        raise UsageError(f"{subject}: layers must be a list of 1 to {_MOST_LAYERS:,} layers")
    layers = tuple(_layer(row, f"{subject}: layer {number}") for number, row in enumerate(rows, start=1))
    try:
        read = msgspec.convert({**fields, "layers": layers}, Architecture)
    except msgspec.ValidationError as error:
        raise UsageError(f"{subject}: {invalid_value_words(error)}") from error
    member = ARCHITECTURES.get(read.name)
    if member is not None and read.num_classes > 1 and read != member.with_num_classes(read.num_classes):
        raise UsageError(f"{subject}: is not the family's {read.name}; choose another name for this table")
    return read


def architecture_by_name_or_file(name: str) -> Architecture:
    """Return a member of the family by its name, or the table in a file if the name ends in .toml.

    Raises UsageError for an unknown name, an unreadable file or an invalid table.
    """
    if not name.endswith(".toml"):
        return architecture_by_name(name)
    path = Path(name)
    return architecture_from_toml(read_toml(path), str(path))


def _layer(row: object, subject: str) -> Layer:
    if not isinstance(row, dict):
        raise UsageError(f'{subject}: must be a table such as {{ type = "relu", name = "relu1" }}')
    name = row.get("name")
    if isinstance(name, str) and name.isprintable():
        subject = f"{subject}, {name}"
    fields = {field: value for field, value in row.items() if field != "type"}
    kind = row.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        found = f"is {kind!r}" if "type" in row else "is missing"
        raise UsageError(f"{subject}: type {found}; it must be one of {', '.join(sorted(_TYPES))}")
    try:
        layer: Layer = msgspec.convert(fields, _TYPES[kind])
    except msgspec.ValidationError as error:
        raise UsageError(f"{subject}: {invalid_value_words(error).removeprefix(f'{name}: ')}") from error
    return layer
