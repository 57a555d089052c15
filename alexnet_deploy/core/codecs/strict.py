"""Pillow's file classes with its flag LOAD_TRUNCATED_IMAGES always off.

Any library in the process may set that flag; Pillow then fills the missing part of a truncated file with grey or black
and raises no error. Clearing the flag temporarily would affect other threads. So the functions that read it are copied
here with separate globals, in which it is off.

For TIFF, Pillow's process-wide limit on the size is disabled in the same way: our own limit is checked before. GIF and
WebP keep Pillow's limit, because they allocate memory while they are opened.
"""

from types import FunctionType, ModuleType
from typing import Any, TypeVar

from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

_SWITCH = "LOAD_TRUNCATED_IMAGES"

File = TypeVar("File", bound=ImageFile.ImageFile)
Class = TypeVar("Class")


def _rebound(owner: type, names: dict[str, Any]) -> dict[str, Any]:
    """Return copies of a class's functions that use one of these global names, with the given values for them."""
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

# Replaces the module `ImageFile` in the plugins.
_strict_module = ModuleType("ImageFile")
_strict_module.__dict__.update(vars(ImageFile) | {_SWITCH: False, "ImageFile": _StrictFile})
_NAMES: dict[str, Any] = {"ImageFile": _strict_module}

# A PNG is read by a chunk stream, whose classes read the flag too.
_StrictChunks = _derived("ChunkStream", (PngImagePlugin.ChunkStream,), _rebound(PngImagePlugin.ChunkStream, _NAMES))
_NAMES["PngStream"] = _derived(
    "PngStream", (PngImagePlugin.PngStream, _StrictChunks), _rebound(PngImagePlugin.PngStream, _NAMES)
)


_unlimited_module = ModuleType("Image")
_unlimited_module.__dict__.update(vars(Image) | {"_decompression_bomb_check": lambda size: None})


def strict(decoder: type[File]) -> type[File]:
    """Return the file class with the flag off, whatever the process sets."""
    names = _NAMES | ({"Image": _unlimited_module} if issubclass(decoder, TiffImagePlugin.TiffImageFile) else {})
    # _StrictFile is the second base, so that the decoder's own `load` comes first and calls ours.
    made: type[File] = _derived(decoder.__name__, (decoder, _StrictFile), _rebound(decoder, names))
    return made
