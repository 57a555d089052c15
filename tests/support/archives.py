"""Data sets in their downloaded form, with a few images each."""

import io
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from alexnet_deploy.train.data import cifar10 as cifar
from alexnet_deploy.train.data import ilsvrc

# Class numbers in the devkit's own order, here 1 to 3; sorted they would be 2, 3, 1.
WNIDS = ("n02119789", "n01440764", "n02100735")
# The class of each validation image, as a devkit number.
TRUTH = (3, 1, 2, 2, 1, 3)
COLORS = {"n01440764": (200, 40, 30), "n02100735": (40, 180, 60), "n02119789": (30, 60, 190)}


def image(color: Sequence[int], seed: int, file_format: str = "JPEG", mode: str = "RGB") -> bytes:
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(color, 12.0, (48, 64, 3)), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, format=file_format)
    return file.getvalue()


def tar_of(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in files.items():
            found = tarfile.TarInfo(name)
            found.size = len(data)
            tar.addfile(found, io.BytesIO(data))
    return file.getvalue()


def ilsvrc_images() -> dict[str, bytes]:
    """Images by their names in an unpacked folder: a PNG, a CMYK and a grey one named JPEG, and a truncated one."""
    images = {
        f"train/{wnid}/{wnid}_{number}.JPEG": image(COLORS[wnid], 10 * place + number)
        for place, wnid in enumerate(WNIDS)
        for number in (7, 10, 9)
    }
    first, second, third = sorted(WNIDS)
    images[f"train/{first}/{first}_9.JPEG"] = image(COLORS[first], 91, "PNG")
    images[f"train/{second}/{second}_9.JPEG"] = image(COLORS[second], 92, mode="CMYK")
    images[f"train/{third}/{third}_9.JPEG"] = image(COLORS[third], 93, mode="L")
    images[f"train/{third}/{third}_10.JPEG"] = images[f"train/{third}/{third}_10.JPEG"][:700]
    for number, truth in enumerate(TRUTH, start=1):
        wnid = WNIDS[truth - 1]
        images[f"val/{wnid}/ILSVRC2012_val_{number:08}.JPEG"] = image(COLORS[wnid], 100 + number)
    return images


def write_folder(root: Path, images: Mapping[str, bytes]) -> Path:
    for name, data in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def write_ilsvrc(root: Path, images: Mapping[str, bytes]) -> Path:
    """Write the two archives and the devkit."""
    root.mkdir(parents=True, exist_ok=True)
    classes = {
        f"{wnid}.tar": tar_of({Path(name).name: data for name, data in images.items() if f"train/{wnid}/" in name})
        for wnid in WNIDS
    }
    (root / ilsvrc.TRAIN).write_bytes(tar_of(classes))
    validation = {Path(name).name: data for name, data in images.items() if name.startswith("val/")}
    # As in the real archive, in the order of the numbers, which is not that of the classes.
    (root / ilsvrc.VALIDATION).write_bytes(tar_of(dict(sorted(validation.items()))))
    write_devkit(root, "".join(f"{number}\n" for number in TRUTH), meta_of(WNIDS))
    return root


def write_devkit(root: Path, truth: str, meta: bytes) -> None:
    data = "ILSVRC2012_devkit_t12/data"
    files = {
        f"{data}/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
        f"{data}/meta.mat": meta,
    }
    with tarfile.open(root / ilsvrc.DEVKIT, "w:gz") as tar:
        for name, content in files.items():
            found = tarfile.TarInfo(name)
            found.size = len(content)
            tar.addfile(found, io.BytesIO(content))


# A MATLAB file, as specified by MathWorks


def element(kind: int, content: bytes) -> bytes:
    if 0 < len(content) <= 4:
        return struct.pack("<HH", kind, len(content)) + content.ljust(4, b"\0")
    padding = b"" if kind == 15 else bytes(-len(content) % 8)
    return struct.pack("<II", kind, len(content)) + content + padding


def matrix(array_class: int, shape: tuple[int, int], *parts: bytes, name: bytes = b"") -> bytes:
    head = element(6, struct.pack("<II", array_class, 0)) + element(5, struct.pack("<ii", *shape)) + element(1, name)
    return element(14, head + b"".join(parts))


def text_array(text: str, kind: int) -> bytes:
    content = text.encode("utf-8" if kind == 16 else "utf-16-le")
    return matrix(4, (1, len(text)), element(kind, content))


def number_array(*values: int) -> bytes:
    small = max(values, default=0) < 256
    content = np.array(values, "u1" if small else "<u2").tobytes()
    return matrix(6, (min(1, len(values)), len(values)), element(2 if small else 4, content))


def meta_of(
    wnids: Sequence[str], *, text_kind: int = 4, is_compressed: bool = True, numbers: Sequence[int] | None = None
) -> bytes:
    """A meta.mat: a record for each class and, as in the real one, a parent that is not a class."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    records = [
        (number_array(number), wnid, "words, other words", "", number_array(0), number_array(), number_array(0))
        for number, wnid in zip(numbers or range(1, len(wnids) + 1), wnids, strict=True)
    ]
    parents = (number_array(len(wnids) + 1), "n00001740", "entity", "all", number_array(2), number_array(1, 300))
    records.append((*parents, number_array(19)))
    values = [
        text_array(value, text_kind) if isinstance(value, str) else value for record in records for value in record
    ]
    names = b"".join(name.encode().ljust(16, b"\0") for name in fields)
    synsets = matrix(
        2, (len(records), 1), element(5, struct.pack("<i", 16)), element(1, names), *values, name=b"synsets"
    )
    head = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
    other = matrix(6, (1, 1), element(2, b"\7"), name=b"x")
    return head + b"".join(element(15, zlib.compress(part)) if is_compressed else part for part in (other, synsets))


# CIFAR-10


def cifar_batches(num_records: int = 10) -> dict[str, bytes]:
    """Six batches of noise; classes take turns."""
    rng = np.random.default_rng(3)
    batches = {}
    for name in (*cifar.TRAIN, cifar.VALIDATION):
        records = rng.integers(0, 256, (num_records, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(num_records) % 10
        batches[name] = records.tobytes()
    return batches


def write_cifar(root: Path, batches: Mapping[str, bytes]) -> Path:
    """Write the archive only."""
    root.mkdir(parents=True, exist_ok=True)
    inside = {f"cifar-10-batches-bin/{name}": data for name, data in batches.items()}
    with tarfile.open(root / cifar.ARCHIVE, "w:gz") as tar:
        for name, data in {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n", **inside}.items():
            found = tarfile.TarInfo(name)
            found.size = len(data)
            tar.addfile(found, io.BytesIO(data))
    return root


def write_batches(folder: Path, batches: Mapping[str, bytes]) -> Path:
    """Write the .bin files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in batches.items():
        (folder / name).write_bytes(data)
    return folder
