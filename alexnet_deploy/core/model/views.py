"""The views of test-time augmentation: the crops of the 256 x 256 image, in order.

Source: Krizhevsky et al. 2012, section 4.1: four corner patches and the centre, and their horizontal reflections.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE

ViewsName: TypeAlias = Literal["ten", "center"]


class View(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One square crop: its top left corner in pixels; `mirrored` crops are flipped left to right after cropping."""

    top: int
    left: int
    mirrored: bool


def _center(size: int) -> tuple[View, ...]:
    # A crop of 227 leaves a margin of 29: the centre starts at 14, as in Caffe.
    offset = (IMAGE_SIZE - size) // 2
    return (View(top=offset, left=offset, mirrored=False),)


def _ten(size: int) -> tuple[View, ...]:
    far = IMAGE_SIZE - size
    corners = tuple(View(top=top, left=left, mirrored=False) for top in (0, far) for left in (0, far))
    plain = corners + _center(size)
    return plain + tuple(View(top=view.top, left=view.left, mirrored=True) for view in plain)


def views_by_name(name: ViewsName, size: int) -> tuple[View, ...]:
    """Return the views of this name for crops of `size` pixels: `center` is one, `ten` is the paper's ten.

    Order of `ten`: top left, top right, bottom left, bottom right, centre, then the mirror image of each.
    """
    return _ten(size) if name == "ten" else _center(size)
