"""Draw images in the binary format of CIFAR-10.

    python -m benchmarks.training.draw_cifar10 FOLDER --per-batch 500

Ten shapes of 32 x 32 pixels, with random colours, places, sizes and angles, under noise: five training batches and a
test batch, which `train`, `pack` and `study` read like CIFAR-10's.
"""

import argparse
from pathlib import Path

import numpy as np

SIDE, NUM_CLASSES = 32, 10
NOISE = 12.0


def mask(shape: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return where a shape is, for coordinates in which it reaches from -1 to 1."""
    far, near = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    radius = np.hypot(x, y)
    inside = far < 1
    return (
        radius < 1,
        (radius < 1) & (radius > 0.6),
        inside,
        inside & (far > 0.6),
        (abs(x) < (y + 1) / 2) & (abs(y) < 1),
        inside & (near < 0.3),
        inside & (np.floor(2.5 * (x + 1)) % 2 == 0),
        inside & ((np.floor(2 * (x + 1)) + np.floor(2 * (y + 1))) % 2 == 0),
        inside & (radius > 0.8),
        (radius < 1) & (x > 0),
    )[shape]


def draw(shape: int, rng: np.random.Generator) -> np.ndarray:
    """Return one image, uint8 (3, 32, 32)."""
    size, angle = rng.uniform(9, 13), rng.uniform(-0.3, 0.3)
    middle = rng.uniform(size, SIDE - size, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    down, across = (rows - middle[0]) / size, (columns - middle[1]) / size
    x, y = across * np.cos(angle) - down * np.sin(angle), across * np.sin(angle) + down * np.cos(angle)
    ground, ink = rng.uniform(0, 255, (2, 3, 1, 1))
    # Far enough apart to be seen.
    ink = np.where(abs(ink - ground) < 80, (ground + 128) % 256, ink)
    pixels = np.where(mask(shape, x, y), ink, ground) + rng.normal(0, NOISE, (3, SIDE, SIDE))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write(folder: Path, per_batch: int, seed: int = 0) -> None:
    """Write the six batches; classes take turns."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        records = (bytes([n % NUM_CLASSES]) + draw(n % NUM_CLASSES, rng).tobytes() for n in range(per_batch))
        (folder / name).write_bytes(b"".join(records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="it must not exist yet")
    parser.add_argument("--per-batch", type=int, default=500)
    options = parser.parse_args()
    write(options.folder, options.per_batch)


if __name__ == "__main__":
    main()
