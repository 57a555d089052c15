"""Pillow's file classes, deaf to its switch LOAD_TRUNCATED_IMAGES.

Any library in the process may set that switch, and then what a truncated file lacks is grey or black and no error is
raised. To clear it meanwhile would change what other threads decode. So the functions that ask for it run here with
globals of their own, in which it is off.

Likewise a TIFF is not held to Pillow's own limit on its size, which is that of the process: ours is checked before.
GIF and WebP are, because they take memory while they are opened.
"""

from types import FunctionType, ModuleType
from typing import Any, TypeVar

from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

_SWITCH = "LOAD_TRUNCATED_IMAGES"

File = TypeVar("File", bound=ImageFile.ImageFile)
Class = TypeVar("Class")


def _rebound(owner: type, names: dict[str, Any]) -> dict[str, Any]:
    """Return those of a class's own functions that use one of these global names, with these values for them."""
    return {
        name: _copy(function, names)
        for name, function in vars(owner).items()
        if isinstance(function, FunctionType) and not names.keys().isdisjoint(function.__code__.co_names)
    }


def _copy(function: FunctionType, names: dict[str, Any]) -> FunctionType:
    copied = FunctionType(
        function.__code__, function.__globals__ | names, function.__name__, function.__defaults__, function.__closure__
    )
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


def _derived(name: str, bases: tuple[type, ...], members: dict[str, Any]) -> Any:
    return type(name, bases, members)


_StrictFile = _derived("ImageFile", (ImageFile.ImageFile,), _rebound(ImageFile.ImageFile, {_SWITCH: False}))

# What the plugins know as `ImageFile`.
_strict_module = ModuleType("ImageFile")
_strict_module.__dict__.update(vars(ImageFile) | {_SWITCH: False, "ImageFile": _StrictFile})
_NAMES: dict[str, Any] = {"ImageFile": _strict_module}

# A PNG is read by a stream of chunks, each class of which asks for the switch too.
_StrictChunks = _derived("ChunkStream", (PngImagePlugin.ChunkStream,), _rebound(PngImagePlugin.ChunkStream, _NAMES))
_NAMES["PngStream"] = _derived(
    "PngStream", (PngImagePlugin.PngStream, _StrictChunks), _rebound(PngImagePlugin.PngStream, _NAMES)
)


_unlimited_module = ModuleType("Image")
_unlimited_module.__dict__.update(vars(Image) | {"_decompression_bomb_check": lambda size: None})


def strict(decoder: type[File]) -> type[File]:
    """Return the file class with the switch off, whatever it is set to."""
    names = _NAMES | ({"Image": _unlimited_module} if issubclass(decoder, TiffImagePlugin.TiffImageFile) else {})
    # Behind the class itself, so that a `load` of its own comes first and goes on to ours.
    made: type[File] = _derived(decoder.__name__, (decoder, _StrictFile), _rebound(decoder, names))
    return made
