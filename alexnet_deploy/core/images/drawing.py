"""Synthetic images drawn with Pillow, for training, prediction and parity checks without photographs.

Each class is one object; colour, size, position, tilt, background and noise vary with the seed. The same seed draws the
same image.
"""

import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from alexnet_deploy.core.fs.hidden import temporary_prefix
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE

# Drawn at twice the size and downscaled, for smooth edges.
_CANVAS = 2 * IMAGE_SIZE

Point = tuple[float, float]
Color = tuple[int, int, int]


class _Pen:
    """Draws in the object's coordinates: (0, 0) is its centre, 1 about half its width, y points down, with a tilt."""

    def __init__(self, draw: ImageDraw.ImageDraw, rng: random.Random) -> None:
        self.draw = draw
        self.size = _CANVAS * rng.uniform(0.26, 0.40)
        self.middle = (_CANVAS * rng.uniform(0.38, 0.62), _CANVAS * rng.uniform(0.42, 0.60))
        self.tilt = math.radians(rng.uniform(-10, 10))
        self.facing = rng.choice((-1, 1))

    def at(self, point: Point) -> Point:
        x, y = point[0] * self.facing, point[1]
        cos, sin = math.cos(self.tilt), math.sin(self.tilt)
        return (self.middle[0] + self.size * (x * cos - y * sin), self.middle[1] + self.size * (x * sin + y * cos))

    def polygon(self, points: list[Point], color: Color) -> None:
        self.draw.polygon([self.at(point) for point in points], fill=color)

    def line(self, points: list[Point], color: Color, width: float) -> None:
        pixels = max(2, round(width * self.size))
        self.draw.line([self.at(point) for point in points], fill=color, width=pixels, joint="curve")

    def disc(self, center: Point, radius: float, color: Color) -> None:
        x, y = self.at(center)
        reach = radius * self.size
        self.draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=color)

    def ring(self, center: Point, radius: float, color: Color, width: float) -> None:
        x, y = self.at(center)
        reach = radius * self.size
        box = (x - reach, y - reach, x + reach, y + reach)
        self.draw.ellipse(box, outline=color, width=round(width * self.size))


def _vivid(rng: random.Random) -> Color:
    channels = [rng.randint(150, 255), rng.randint(20, 140), rng.randint(0, 110)]
    rng.shuffle(channels)
    return (channels[0], channels[1], channels[2])


def _dark(rng: random.Random) -> Color:
    shade = rng.randint(15, 60)
    return (shade, shade, shade + rng.randint(0, 15))


def _mountain_bike(pen: _Pen, rng: random.Random) -> None:
    frame, tyre, metal = _vivid(rng), _dark(rng), (170, 174, 180)
    rear, front, crank = (-0.62, 0.28), (0.62, 0.28), (-0.08, 0.28)
    saddle, head = (-0.25, -0.28), (0.42, -0.26)
    for hub in (rear, front):
        for spoke in range(8):
            angle = spoke * math.pi / 8
            reach = (0.38 * math.cos(angle), 0.38 * math.sin(angle))
            pen.line([(hub[0] - reach[0], hub[1] - reach[1]), (hub[0] + reach[0], hub[1] + reach[1])], metal, 0.012)
        pen.ring(hub, 0.40, tyre, 0.075)
    pen.line([rear, crank, head, saddle, rear], frame, 0.065)
    pen.line([crank, saddle], frame, 0.065)
    pen.line([front, (0.38, -0.40)], metal, 0.06)
    pen.line([(0.38, -0.40), (0.58, -0.46)], tyre, 0.055)
    pen.line([(-0.40, -0.36), (-0.12, -0.36)], tyre, 0.085)
    pen.line([(-0.25, -0.28), (-0.26, -0.36)], metal, 0.04)
    pen.disc(crank, 0.09, metal)


def _container_ship(pen: _Pen, rng: random.Random) -> None:
    hull, water = _vivid(rng), (30 + rng.randint(0, 40), 80 + rng.randint(0, 50), 120 + rng.randint(0, 60))
    for column in range(7):
        for row in range(rng.randint(1, 3)):
            left, bottom = -0.62 + 0.19 * column, 0.12 - 0.14 * row
            box = [(left, bottom), (left + 0.18, bottom), (left + 0.18, bottom - 0.13), (left, bottom - 0.13)]
            pen.polygon(box, _vivid(rng))
    pen.polygon([(-0.95, 0.12), (-0.95, -0.42), (-0.72, -0.42), (-0.66, 0.12)], (236, 236, 230))
    for deck in range(3):
        pen.line([(-0.92, -0.34 + 0.12 * deck), (-0.74, -0.34 + 0.12 * deck)], (70, 90, 110), 0.04)
    pen.polygon([(-1.05, 0.12), (1.10, 0.08), (0.92, 0.46), (-0.95, 0.46)], hull)
    pen.polygon([(-1.00, 0.36), (0.98, 0.36), (0.92, 0.46), (-0.95, 0.46)], (120, 30, 30))
    pen.polygon([(-4, 0.44), (4, 0.44), (4, 4), (-4, 4)], water)


def _hot_air_balloon(pen: _Pen, rng: random.Random) -> None:
    first, second = _vivid(rng), _vivid(rng)
    outline = [(0.62 * math.sin(a), -0.28 - 0.62 * math.cos(a)) for a in (i * math.pi / 24 for i in range(-18, 19))]
    pen.polygon([*outline, (0.13, 0.58), (-0.13, 0.58)], first)
    for gore in (-2, 0, 2):
        narrow, wide = gore / 5 - 0.1, gore / 5 + 0.1
        left = [
            (1.24 * narrow * math.sin(t), -0.28 - 0.62 * math.cos(t)) for t in (i * math.pi / 16 for i in range(13))
        ]
        right = [(1.24 * wide * math.sin(t), -0.28 - 0.62 * math.cos(t)) for t in (i * math.pi / 16 for i in range(13))]
        pen.polygon([*left, (narrow * 0.26, 0.58), (wide * 0.26, 0.58), *reversed(right)], second)
    for side in (-1, 1):
        pen.line([(0.13 * side, 0.58), (0.10 * side, 0.80)], (60, 50, 40), 0.015)
    pen.polygon([(-0.12, 0.80), (0.12, 0.80), (0.10, 0.98), (-0.10, 0.98)], (130, 86, 40))


def _umbrella(pen: _Pen, rng: random.Random) -> None:
    cloth, stick = _vivid(rng), _dark(rng)
    pen.line([(0, -0.72), (0, 0.72), (0.06, 0.84), (0.16, 0.84), (0.20, 0.72)], stick, 0.045)
    dome = [(0.95 * math.cos(a), -0.05 - 0.58 * math.sin(a)) for a in (i * math.pi / 24 for i in range(25))]
    scallops: list[Point] = []
    for arch in range(5):
        left = -0.95 + 0.38 * arch
        scallops += [(left + 0.38 * t, -0.05 - 0.12 * math.sin(math.pi * t)) for t in (0.0, 0.25, 0.5, 0.75)]
    pen.polygon([*dome, *scallops], cloth)
    shade = (max(0, cloth[0] - 50), max(0, cloth[1] - 50), max(0, cloth[2] - 50))
    for rib in (-0.57, -0.19, 0.19, 0.57):
        pen.line([(0, -0.63), (rib * 0.75, -0.42), (rib, -0.05)], shade, 0.02)


_DRAWERS: dict[str, Callable[[_Pen, random.Random], None]] = {
    "container ship": _container_ship,
    "hot-air balloon": _hot_air_balloon,
    "mountain bike": _mountain_bike,
    "umbrella": _umbrella,
}

DRAWN_CLASSES = tuple(_DRAWERS)
"""The classes that can be drawn, in alphabetical order."""


def draw_image(thing: str, seed: int) -> Image.Image:
    """Return a 256 x 256 RGB image of one of DRAWN_CLASSES; raises KeyError for anything else."""
    rng = random.Random(f"{thing}/{seed}")
    noise = np.random.default_rng(rng.getrandbits(64))
    canvas = _background(rng)
    _DRAWERS[thing](_Pen(ImageDraw.Draw(canvas), rng), rng)
    small = canvas.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
    if rng.random() < 0.3:
        small = small.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.4)))
    grain = noise.normal(0.0, rng.uniform(2.0, 12.0), (IMAGE_SIZE, IMAGE_SIZE, 3))
    light = rng.uniform(0.8, 1.15)
    return Image.fromarray(np.clip(np.asarray(small) * light + grain, 0, 255).astype(np.uint8))


def draw_folder(root: Path, *, num_train: int = 150, num_validation: int = 25) -> None:
    """Draw a labelled folder, root/train/CLASS/0000.jpg and root/val/CLASS/..., with these numbers of images per class.

    It is written completely and then renamed. Raises OSError, including FileExistsError.
    """
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(root), suffix=".partial", dir=root.parent) as partial:
        drawn = Path(partial) / root.name
        for thing in DRAWN_CLASSES:
            for side, numbers in (("train", range(num_train)), ("val", range(num_train, num_train + num_validation))):
                folder = drawn / side / thing
                folder.mkdir(parents=True)
                for place, seed in enumerate(numbers):
                    draw_image(thing, seed).save(folder / f"{place:04}.jpg", quality=90)
        drawn.rename(root)


def _background(rng: random.Random) -> Image.Image:
    top = np.array([rng.randint(120, 250) for _ in range(3)], dtype=np.float32)
    bottom = np.array([rng.randint(60, 220) for _ in range(3)], dtype=np.float32)
    ramp = np.linspace(0, 1, _CANVAS, dtype=np.float32)[:, None, None]
    rows = np.broadcast_to(top + (bottom - top) * ramp, (_CANVAS, _CANVAS, 3))
    canvas = Image.fromarray(rows.astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for _ in range(rng.randint(2, 7)):
        x, y = rng.uniform(0, _CANVAS), rng.uniform(0, _CANVAS)
        width, height = rng.uniform(20, 150), rng.uniform(20, 90)
        color = (rng.randint(80, 240), rng.randint(80, 240), rng.randint(80, 240))
        draw.ellipse((x - width, y - height, x + width, y + height), fill=color)
    return canvas.filter(ImageFilter.GaussianBlur(rng.uniform(6, 18)))


def golden_images() -> np.ndarray:
    """Return the eight golden images for parity checks, uint8 (8, 256, 256, 3).

    One of each drawn class, and four patterns: noise, a gradient, a fine grating and saturated blocks. The patterns
    cover the whole input range of the first layer, in every channel and at every edge of every view.
    """
    rng = np.random.default_rng(2012)
    size = IMAGE_SIZE
    rows, columns = np.mgrid[0:size, 0:size]
    noise = rng.integers(0, 256, (size, size, 3))
    gradient = np.stack([columns, 255 - rows, (rows + columns) // 2], axis=-1)
    grating = np.stack([127.5 + 127.5 * np.sin(columns * rows * scale / size) for scale in (0.06, 0.11, 0.17)], axis=-1)
    blocks = np.kron(rng.choice([0, 255], (16, 16, 3), p=[0.5, 0.5]), np.ones((16, 16, 1), dtype=int))
    drawn = [np.asarray(draw_image(thing, seed=2012)) for thing in DRAWN_CLASSES]
    return np.stack([*drawn, noise, gradient, grating, blocks]).astype(np.uint8)
