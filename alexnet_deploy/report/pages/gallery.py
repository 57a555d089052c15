"""The gallery of predictions: one self-contained page of images with their guesses, filtered without a script."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from alexnet_deploy.report.page import Thumbnail, render_page

_MOST_FILTERS = 30
"""Classes with a filter of their own, the most frequent ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """An input without a prediction."""

    caption: str
    """The text in place of the image."""
    code: str
    """The error code."""
    message: str
    """The error as a sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A button that hides all but some of the images."""

    key: str
    """Its id in the page, and the CSS class of the images that it keeps."""
    name: str
    """A label, or an error code."""
    num_images: int
    is_error: bool


def render_gallery(
    *,
    title: str,
    images: Sequence[Thumbnail],
    unread: Sequence[Unread],
    num_inputs: int,
    tools: Mapping[str, str],
) -> bytes:
    """Return one self-contained HTML page, UTF-8, of images by falling confidence, then inputs without a prediction.

    `images` must have predictions. `num_inputs` is the number of inputs that they are a sample of. The page makes no
    request and contains no script, every name in it is escaped, and the same input gives the same bytes.
    """
    ordered = sorted(images, key=lambda image: -image.predictions[0][1])
    filters = _filters(ordered, unread)
    keys = {(each.name, each.is_error): each.key for each in filters}
    return render_page(
        "gallery.html.jinja",
        title=title,
        filters=filters,
        images=[(image, keys.get((image.predictions[0][0], False), "")) for image in ordered],
        unread=[(each, keys[(each.code, True)]) for each in unread],
        num_shown=len(images) + len(unread),
        num_inputs=num_inputs,
        tools=tools,
    )


def _filters(images: Sequence[Thumbnail], unread: Sequence[Unread]) -> list[Filter]:
    """Return a filter for each of the most frequent first guesses, and for each error code."""
    labels = Counter(image.predictions[0][0] for image in images).most_common(_MOST_FILTERS)
    codes = Counter(each.code for each in unread).most_common()
    return [
        Filter(key=f"f{number}", name=name, num_images=count, is_error=number >= len(labels))
        for number, (name, count) in enumerate([*labels, *codes])
    ]
