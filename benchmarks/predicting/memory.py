"""Peak memory of decoding eight images of 100 million pixels, of each format.

    python -m benchmarks.predicting.memory --out RESULT.json
    python -m benchmarks.predicting.memory --before FOLDER --out RESULT.json

The images are drawn. Each case is a process of its own that decodes the same file eight times in 2 or 8 threads; a row
is what each of the eight ended in. With `--before`, an installation of an earlier version in that folder (pip install
--target) decodes the same files.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from alexnet_deploy.core.process.machine import processor
from alexnet_deploy.core.process.versions import tool_versions
from benchmarks.record import record

NUMBER = 8
THREADS = (2, 8)

# Runs in both versions, so it names only what both have.
DECODE = """
import json, sys
from collections import Counter
from pathlib import Path
from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.images.decode import read_image
from alexnet_deploy.core.model import preprocessing
from alexnet_deploy.core.process.ahead import map_ahead
policy = "shorter-side"
if hasattr(preprocessing, "ImagePolicy"):
    policy = preprocessing.ImagePolicy(resize=policy, decode=sys.argv[4])
def peak():
    return 1024 * int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
def decode(path):
    try:
        read_image(path, policy)
        return "decoded"
    except ImageError as error:
        return error.code
start = peak()
threads, number = int(sys.argv[2]), int(sys.argv[3])
ended = Counter(map_ahead(decode, [Path(sys.argv[1])] * number, threads=threads, ahead=number))
print(json.dumps({"peak_bytes": peak(), "before_decoding_bytes": start, "ended": ended}))
"""


def images(side: int) -> dict[str, Callable[[Path], None]]:
    """Return, by kind, what writes an image of side x side pixels."""
    across, down = np.arange(side, dtype=np.uint16), np.arange(side, dtype=np.uint16)[:, None]
    grey = ((across // 7 + down // 5) % 256).astype(np.uint8)
    rgb = Image.merge("RGB", [Image.fromarray(plane) for plane in (grey, grey[::-1], grey[:, ::-1])])
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(grey))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "JPEG": lambda path: rgb.save(path, "JPEG", quality=80),
        "JPEG, turned": lambda path: rgb.save(path, "JPEG", quality=80, exif=turned),
        "JPEG, progressive": lambda path: rgb.save(path, "JPEG", quality=80, progressive=True),
        "JPEG, CMYK": lambda path: rgb.convert("CMYK").save(path, "JPEG", quality=80),
        "PNG, RGB": lambda path: rgb.save(path, "PNG", compress_level=1),
        "PNG, RGBA": lambda path: rgba.save(path, "PNG", compress_level=1),
        "PNG, 16-bit grey": lambda path: Image.fromarray(grey.astype(np.uint16) * 257).save(path, "PNG"),
        "GIF, transparent": lambda path: Image.fromarray(grey).save(path, "GIF", transparency=5),
        "TIFF, LZW": lambda path: rgb.save(path, "TIFF", compression="tiff_lzw"),
        "WebP": lambda path: rgb.save(path, "WEBP", quality=50, method=0),
        "WebP, lossless RGBA": lambda path: rgba.save(path, "WEBP", lossless=True, method=0, quality=0),
        "AVIF": lambda path: rgb.save(path, "AVIF", speed=10),
        "HEIF": lambda path: pillow_heif.from_pillow(rgb).save(path, quality=50),
        "JPEG 2000": lambda path: rgb.save(path, "JPEG2000"),
    }


def peak(path: Path, threads: int, decode: str, installation: Path | None) -> dict[str, object]:
    command = [sys.executable, "-c", DECODE, str(path), str(threads), str(NUMBER), decode]
    environment = os.environ if installation is None else os.environ | {"PYTHONPATH": str(installation)}
    done = subprocess.run(command, env=environment, cwd=path.parent, capture_output=True, text=True)
    # Without memory for it, an earlier version ends by a signal.
    found: dict[str, object] = json.loads(done.stdout) if done.returncode == 0 else {"exit_code": done.returncode}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--before", type=Path, help="Installation of an earlier version.")
    parser.add_argument("--megapixels", type=int, default=100)
    options = parser.parse_args()
    side = int((options.megapixels * 1e6) ** 0.5)
    Image.MAX_IMAGE_PIXELS = None
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for kind, save in images(side).items():
            path = Path(folder) / "image"
            save(path)
            cases: list[tuple[str, str, Path | None]] = [("now, exact", "exact", None)]
            if kind.startswith("JPEG") and kind != "JPEG 2000":
                cases.append(("now, scaled", "scaled", None))
            if options.before is not None:
                cases.append(("before", "exact", options.before.resolve()))
            for threads in THREADS:
                row: dict[str, object] = {"kind": kind, "threads": threads, "file_bytes": path.stat().st_size}
                row |= {name: peak(path, threads, decode, place) for name, decode, place in cases}
                rows.append(row)
                print(row, file=sys.stderr)
    result: dict[str, object] = {
        "images": NUMBER,
        "side": side,
        "machine": processor(),
        "tools": tool_versions("pillow-heif"),
        "rows": rows,
    }
    record(options.out, result)


if __name__ == "__main__":
    main()
