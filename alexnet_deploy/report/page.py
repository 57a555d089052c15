"""Rendering of a report page: one self-contained HTML file in the reader's light or dark colour scheme.

It makes no network request and contains no script.
"""

import base64
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from alexnet_deploy.core.errors import OutputError
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.report import wording
from alexnet_deploy.report.charts import BOX_HEIGHT, BOX_WIDTH
from alexnet_deploy.report.curves import CURVE_HEIGHT, CURVE_WIDTH

NUM_ERRORS = 24
"""Maximum number of errors in a gallery."""

NUM_PREDICTIONS = 3
"""Maximum number of predictions below an image."""

_THUMBNAIL = 176


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """One image with the network's predictions."""

    caption: str
    """The text below the image."""
    image: np.ndarray
    """uint8 (256, 256, 3), RGB."""
    predictions: tuple[tuple[str, float], ...]
    """Predicted labels with their probabilities, best first."""
    truth: str | None
    """The true label; None if unknown."""

    def __post_init__(self) -> None:
        """Raise ValueError for an image of the wrong dtype or shape."""
        if self.image.dtype != np.uint8 or self.image.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
            found = f"{self.image.dtype} {self.image.shape}"
            raise ValueError(f"{self.caption}: image must be uint8 (256, 256, 3), got {found}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A page's first sentence."""

    words: str
    holds: bool | None
    """True for good, False for bad, None for neutral."""


def render_page(template: str, **parts: object) -> bytes:
    """Return a page, UTF-8, from one of the templates beside this file; every name in it is escaped.

    The same parts give the same bytes.
    """
    # A file name that is not valid Unicode contains surrogates.
    return _environment().get_template(template).render(**parts).encode(errors="replace")


def save_page(path: Path, page: bytes) -> None:
    """Write a page, or replace it; raises OutputError where it cannot be written."""
    try:
        write_atomically(path, page)
    except OSError as error:
        raise OutputError(f"{path}: could not be written: {error.strerror}") from error


def inlined(image: Image.Image, image_format: Literal["JPEG", "PNG"]) -> str:
    """Return an image as a data: URL."""
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, quality=85, optimize=True)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "counted": counted,
        "count": lambda number: f"{number:,}",
        "duration": wording.duration,
        "fine_percent": wording.fine_percent,
        "interval": wording.interval,
        "kind": wording.kind,
        "multiple": wording.multiple,
        "percent": wording.percent,
        "points": wording.points,
        "power": wording.power,
        "sentence": wording.sentence,
        "setting": wording.setting,
        "short": wording.short,
        "size": wording.size,
        "thumbnail": _thumbnail,
        "tick": wording.tick,
        "times": wording.times,
        "words": wording.words,
    }
    environment.globals |= {
        "box_width": BOX_WIDTH,
        "box_height": BOX_HEIGHT,
        "curve_width": CURVE_WIDTH,
        "curve_height": CURVE_HEIGHT,
    }
    return environment


def _thumbnail(image: np.ndarray) -> str:
    small = Image.fromarray(image).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    return inlined(small, "JPEG")
