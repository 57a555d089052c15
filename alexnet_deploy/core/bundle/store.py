"""The bundle on disk: a directory that is published by one rename and verified by digest when read.

tiny-fp32.bundle/
  manifest.json      contents, parity results, and the digest of every other file
  model.onnx         the graph
  labels.txt         class names, one per line
  golden/            images.u8 and probabilities.f32; in int8 also graph_probabilities.f32; index.txt describes each
  golden/files/      image files; golden/file_pixels.u8 and file_probabilities.f32 hold what must come of them
                     (a bundle of features has features.f32, graph_features.f32 and file_features.f32 instead)
  report.html        the same for people
"""

import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.manifest import (
    COPY_AGAIN,
    MOST_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    decode_manifest,
    encode_manifest,
)
from alexnet_deploy.core.bundle.stages import is_stage, new_stage, remove_left_stages
from alexnet_deploy.core.errors import BundleError, IntegrityError, UsageError, WeightsError
from alexnet_deploy.core.fs.files import sha256, sync_directory, umask
from alexnet_deploy.core.fs.opening import open_input, read_rest
from alexnet_deploy.core.golden.record import TensorFile
from alexnet_deploy.core.model.labels import check_labels, decode_labels
from alexnet_deploy.core.process.say import Say, counted, say_nothing

MANIFEST = "manifest.json"
GRAPH = "model.onnx"
LABELS = "labels.txt"
REPORT = "report.html"
GOLDEN_IMAGES = "golden/images.u8"
GOLDEN_INDEX = "golden/index.txt"
GOLDEN_FILES = "golden/files"
GOLDEN_FILE_PIXELS = "golden/file_pixels.u8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """An open bundle: the manifest is loaded, the other files are verified when they are read."""

    path: Path
    """The directory."""
    manifest: Manifest
    """The content of manifest.json."""
    sha256: str
    """Digest of manifest.json, which holds the digest of everything else."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names of the network, in the order of its scores; raises IntegrityError if they are not valid."""
        try:
            labels = decode_labels(self.read(LABELS))
            check_labels(labels, self.manifest.architecture.num_classes)
        except WeightsError as error:
            raise IntegrityError(f"{self.path / LABELS}: {error}") from error
        return labels

    def refuse_features(self, what: str) -> None:
        """Raise UsageError for a bundle of features, where `what` needs probabilities."""
        output = self.manifest.output
        if output.layer is not None:
            raise UsageError(
                f"{self.path}: returns {output.words}, but {what} needs probabilities; export without --output-layer"
            )

    def read(self, name: str) -> bytes:
        """Return the bytes of a file of the manifest, after verifying size and SHA-256.

        Pass these bytes to loaders, never the path: a file could be replaced after its verification. Raises
        IntegrityError if the file is not in the manifest, is a link, or differs from the published one.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise IntegrityError(f"{self.path}: the manifest does not list {name}")
        data = _read_inside(self.path, name, entry.bytes)
        if (digest := sha256(data)) != entry.sha256:
            raise IntegrityError(
                f"{self.path / name}: SHA-256 is {digest[:12]}..., expected {entry.sha256[:12]}...; {COPY_AGAIN}"
            )
        return data

    def read_manifest(self) -> bytes:
        """Return the bytes of manifest.json; raises IntegrityError if they have changed since it was opened."""
        data = _read_inside(self.path, MANIFEST)
        if sha256(data) != self.sha256:
            raise IntegrityError(f"{self.path / MANIFEST}: has changed since it was opened; try again")
        return data

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and verified bytes of every file; the manifest is last: without it a copy is no bundle."""
        for name in sorted(self.manifest.files):
            yield name, self.read(name)
        yield MANIFEST, self.read_manifest()

    def read_tensor(self, tensor: TensorFile) -> np.ndarray:
        """Return a verified raw file as a read-only array of the manifest's dtype and shape; raises IntegrityError."""
        data = self.read(tensor.file)
        dtype = np.dtype(tensor.dtype).newbyteorder("<")
        # Not NumPy's product, which overflows.
        if len(data) != dtype.itemsize * math.prod(tensor.shape):
            raise IntegrityError(
                f"{self.path / tensor.file}: {counted(len(data), 'byte')} do not match shape {tensor.shape}"
            )
        return np.frombuffer(data, dtype=dtype).reshape(tensor.shape)

    def verify(self) -> None:
        """Read every file of the manifest; raises IntegrityError for the first that differs from the published one."""
        for name in self.manifest.files:
            self.read(name)

    def unnamed(self) -> tuple[str, ...]:
        """Return the paths in the bundle that the manifest does not list; a folder stands for all of its files.

        Nothing reads such a file, so it has no effect on predictions, but it was not published. Raises IntegrityError
        if a folder cannot be listed.
        """
        files = {MANIFEST, *self.manifest.files}
        folders = {str(parent) for name in files for parent in PurePosixPath(name).parents}
        found = []
        # "." is the bundle itself. A link is never a folder of the bundle, even if it points to one.
        for folder in sorted(folders):
            try:
                with os.scandir(self.path / folder) as entries:
                    for entry in entries:
                        name = str(PurePosixPath(folder, entry.name))
                        is_known = name in folders if entry.is_dir(follow_symlinks=False) else name in files
                        if not is_known:
                            found.append(name)
            except OSError as error:
                raise IntegrityError(f"{self.path / folder}: cannot be listed: {error.strerror}") from error
        return tuple(sorted(found))


def open_bundle(path: Path, sha256: str | None = None) -> Bundle:
    """Open a bundle's directory; with `sha256`, the one bundle whose manifest has this digest.

    Raises BundleError if there is none or its format is unknown, IntegrityError if the manifest is damaged or of
    another digest.
    """
    if not path.is_dir():
        raise BundleError(f"{path}: {'is not a directory' if path.exists() else 'there is no such bundle'}")
    if is_stage(path.resolve().name):
        raise BundleError(
            f"{path}: this bundle is unfinished: its export is still running or was stopped; export again"
        )
    bundle = _open(path)
    if sha256 is not None and bundle.sha256 != sha256:
        raise IntegrityError(
            f"{path}: its digest is {bundle.sha256[:12]}..., but {sha256[:12]}... was opened before: another bundle "
            "has taken its place"
        )
    _refuse_candidate(bundle)
    return bundle


def _open(path: Path) -> Bundle:
    try:
        data = _read_inside(path, MANIFEST)
    except FileNotFoundError as error:
        raise BundleError(
            f"{path}: not a bundle: there is no {MANIFEST}; pass a directory that `alexnet-deploy export` wrote, or "
            "copy the bundle again"
        ) from error
    return Bundle(path=path, manifest=decode_manifest(data, str(path)), sha256=sha256(data))


def _refuse_candidate(bundle: Bundle) -> None:
    if bundle.manifest.is_candidate is not msgspec.UNSET:
        raise BundleError(
            f"{bundle.path}: not published: the parity check of its engines failed or was interrupted; export again"
        )


def _read_inside(root: Path, name: str, num_bytes: int | None = None) -> bytes:
    """Read a file below root; refuses links on the path and, if `num_bytes` is given, a file of another size."""
    current = root
    for part in name.split("/"):
        current = current / part
        if current.is_symlink():
            raise IntegrityError(
                f"{current}: this is a link, but all files of a bundle must be inside it; copy the bundle with "
                "`cp -rL`, which copies files in place of links"
            )
    try:
        # It may have become a link since the check above.
        with open_input(current, through_links=False) as file:
            found = os.fstat(file.fileno()).st_size
            # Before reading: the size in a damaged manifest must not be allocated.
            if num_bytes is not None and found != num_bytes:
                raise IntegrityError(f"{current}: {counted(found, 'byte')}, expected {num_bytes:,}; {COPY_AGAIN}")
            return read_rest(file, MOST_MANIFEST_BYTES if num_bytes is None else num_bytes)
    except FileNotFoundError as error:
        if name == MANIFEST:
            raise
        raise IntegrityError(f"{current}: missing, but the manifest lists it; {COPY_AGAIN}") from error
    except OSError as error:
        raise IntegrityError(f"{current}: cannot be read: {error.strerror}") from error


@dataclass(slots=True, kw_only=True)
class StagedBundle:
    """An unfinished bundle, in a hidden directory beside its final path."""

    path: Path
    """The hidden directory."""
    entries: dict[str, FileEntry] = field(default_factory=dict)
    """The files written so far."""

    def write(self, name: str, data: bytes) -> None:
        """Write one file and record its digest for the manifest."""
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        _write_through(file, data)
        self.entries[name] = FileEntry(sha256=sha256(data), bytes=len(data))

    def seal(self, manifest: Manifest) -> Bundle:
        """Write the manifest with the entries of all files written so far, and open the result like any reader."""
        whole = msgspec.structs.replace(manifest, files=dict(self.entries))
        _write_through(self.path / MANIFEST, encode_manifest(whole))
        return _open(self.path)

    def candidate(self, manifest: Manifest) -> Bundle:
        """Seal a bundle whose engines are not verified yet; it cannot be published or opened by open_bundle."""
        return self.seal(msgspec.structs.replace(manifest, is_candidate=True))


@contextmanager
def publishing(out: Path, *, force: bool = False, say: Say = say_nothing) -> Iterator[StagedBundle]:
    """Stage a bundle; if the block succeeds, verify it and rename it to `out`.

    If the block fails, `out` is unchanged. An existing `out` is refused; with `force` it is first renamed to a name
    that ends in `.old-` and the time, which is reported. Stages left beside it by killed exports are removed and
    reported.

    Raises UsageError if `out` exists, BundleError if it cannot be written.
    """
    if os.path.lexists(out) and not force:
        raise UsageError(f"{out}: already exists; choose another --out, or --force to move it aside")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        remove_left_stages(out.parent, say)
        staging, lock = new_stage(out)
    except OSError as error:
        raise BundleError(f"{out}: cannot be created: {error.strerror}") from error
    try:
        stage = StagedBundle(path=staging)
        yield stage
        whole = _open(staging)
        _refuse_candidate(whole)
        whole.verify()
        staging.chmod(0o777 & ~umask())
        for folder in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
            sync_directory(folder)
        if os.path.lexists(out):
            if not force:
                raise BundleError(f"{out}: was created by another process during this export; nothing was published")
            aside = out.with_name(f"{out.name}.old-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}")
            out.rename(aside)
            say(f"moved the old bundle to {aside}")
        staging.rename(out)
        sync_directory(out.parent)
    except OSError as error:
        raise BundleError(f"{out}: could not be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        os.close(lock)


def _write_through(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
