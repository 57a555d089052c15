"""What scaled decoding changes: top-1 accuracy, paired, and which predictions flip, on enlarged labelled photographs.

    python -m benchmarks.precision.decode_policy DATA... --bundle BUNDLE --out RESULT.json

DATA are folders of class folders, enlarged to shorter sides of 1,100 and 2,100 pixels in turn, with noise, and decoded
exactly and scaled (at a half and a quarter). BUNDLE is any bundle of these classes.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.model.preprocessing import DecodePolicy, ImagePolicy, ResizePolicy
from alexnet_deploy.core.process.ahead import decode_threads
from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from alexnet_deploy.engines.engine import open_engine
from benchmarks.predicting.enlarging import enlarged
from benchmarks.record import record

SHORTER_SIDES = (1100, 2100)
POLICIES: tuple[DecodePolicy, ...] = ("exact", "scaled")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enlarged:
    """One photograph, decoded under both policies: uint8 (2, 256, 256, 3)."""

    name: str
    label: int
    pixels: np.ndarray


def decoded(number: int, path: Path, label: int, resize: ResizePolicy) -> Enlarged:
    with Image.open(path) as stored:
        width, height = stored.size
    scale = SHORTER_SIDES[number % len(SHORTER_SIDES)] / min(width, height)
    file = enlarged(path, (round(width * scale), round(height * scale)), seed=number)
    pixels = [decode_image(file, ImagePolicy(resize=resize, decode=decode)) for decode in POLICIES]
    return Enlarged(name=f"{path.parent.name}/{path.name}", label=label, pixels=np.stack(pixels))


def photographs(folder: Path, labels: tuple[str, ...], resize: ResizePolicy) -> Iterator[Enlarged]:
    files = [(path, label) for label, name in enumerate(labels) for path in sorted((folder / name).iterdir())]
    with ThreadPoolExecutor(decode_threads()) as threads:
        numbered = iter(enumerate(files))
        while part := list(islice(numbered, 64)):
            yield from threads.map(lambda item: decoded(item[0], *item[1], resize), part)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    bundle = open_bundle(options.bundle)
    labels, resize = bundle.labels, bundle.manifest.preprocessing.resize
    right = dict.fromkeys(POLICIES, 0)
    flips: list[str] = []
    pixel_errors, probability_errors = [], []
    num_images = 0
    with open_engine(bundle) as engine:
        for photograph in (found for folder in options.data for found in photographs(folder, labels, resize)):
            exact, scaled = engine.run(photograph.pixels)
            guesses = (int(exact.argmax()), int(scaled.argmax()))
            num_images += 1
            for policy, guess in zip(POLICIES, guesses, strict=True):
                right[policy] += guess == photograph.label
            if guesses[0] != guesses[1]:
                flips.append(
                    f"{photograph.name}: {labels[guesses[0]]} at {exact.max():.4f} exact, {labels[guesses[1]]}"
                )
            pixel_errors.append(float(np.abs(np.diff(photograph.pixels.astype(np.int16), axis=0)).mean()))
            probability_errors.append(float(np.abs(exact - scaled).max()))
    record(
        options.out,
        {
            "images": num_images,
            "shorter_sides": SHORTER_SIDES,
            "architecture": bundle.manifest.architecture.name,
            "machine": processor(),
            "tools": tool_versions("openvino"),
            "top1": {policy: count / num_images for policy, count in right.items()},
            "flips": flips,
            "mean_pixel_difference": float(np.mean(pixel_errors)),
            "probability_difference": {
                "mean": float(np.mean(probability_errors)),
                "p99": float(np.quantile(probability_errors, 0.99)),
                "max": max(probability_errors),
            },
        },
    )


if __name__ == "__main__":
    main()
