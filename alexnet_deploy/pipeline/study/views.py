"""The views of a study by name: center, five, ten, and grids of crops with their mirror images."""

import re

from alexnet_deploy.core.errors import UsageError
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.core.model.views import View, views_by_name

_GRID = re.compile(r"grid-([2-9])")


def check_views(name: str, subject: str) -> None:
    """Raise ValueError for a name that is not one of views."""
    if name not in ("center", "five", "ten") and not _GRID.fullmatch(name):
        raise ValueError(f"{subject}: views are center, five, ten or grid-2 to grid-9, got {name!r}")


def study_views(name: str, size: int) -> tuple[View, ...]:
    """Return the views of this name for crops of `size` pixels.

    `five` are the four corners and the centre, not mirrored; `grid-N` are N x N evenly spaced crops from corner to
    corner, and their mirror images.
    """
    if name == "center":
        return views_by_name("center", size)
    if name in ("five", "ten"):
        return views_by_name("ten", size)[: 5 if name == "five" else 10]
    grid = _GRID.fullmatch(name)
    if grid is None:
        raise UsageError(f"{name!r} is not a name of views; use center, five, ten or grid-2 to grid-9")
    number = int(grid[1])
    places = [round(step * (IMAGE_SIZE - size) / (number - 1)) for step in range(number)]
    return tuple(
        View(top=top, left=left, mirrored=mirrored) for mirrored in (False, True) for top in places for left in places
    )
