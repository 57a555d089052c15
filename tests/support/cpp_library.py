"""The C++ library of engines/cpp: built once for all tests, and called through its C interface."""

import ctypes
import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np

from alexnet_deploy.core.errors import ImageError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits, decode_image
from alexnet_deploy.core.model.preprocessing import ImagePolicy

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "engines/cpp"
BUILD = ROOT / "build/engines-cpp"
SITE = Path(sys.prefix) / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

SQUARE_BYTES = 256 * 256 * 3

FORMATS = {"RGB": 0, "BGR": 1, "RGBA": 2, "BGRA": 3, "GREY": 4}

# What Debian calls what the build needs; .ci/run installs them.
_PROGRAMS = {"cmake": "cmake", "ninja": "ninja-build", "c++": "g++", "pkg-config": "pkg-config"}
_LIBRARIES = {"libjpeg": "libjpeg-dev", "zlib": "zlib1g-dev", "libcrypto": "libssl-dev"}
_HEADERS = {"nlohmann/json.hpp": "nlohmann-json3-dev"}


@cache
def missing_packages() -> list[str]:
    """Return the Debian packages that the build needs and this machine lacks."""
    missing = [package for program, package in _PROGRAMS.items() if shutil.which(program) is None]
    if missing:
        return missing
    for library, package in _LIBRARIES.items():
        if subprocess.run(["pkg-config", "--exists", library]).returncode:
            missing.append(package)
    for header, package in _HEADERS.items():
        asked = subprocess.run(
            ["c++", "-E", "-x", "c++", "-"], input=f"#include <{header}>", capture_output=True, text=True
        )
        if asked.returncode:
            missing.append(package)
    return missing


def onnxruntime_headers() -> Path | None:
    """Return the folder of ONNX Runtime's headers, which the wheel lacks: ONNXRUNTIME_HEADERS, or Debian's."""
    named = os.environ.get("ONNXRUNTIME_HEADERS")
    folder = Path(named) if named else Path("/usr/include/onnxruntime")
    return folder if (folder / "onnxruntime_cxx_api.h").is_file() else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other test processes out of a folder; created if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def configure(build: Path, *options: str) -> None:
    """Configure the library for the libraries of this Python, all warnings as errors."""
    command = ["cmake", "-G", "Ninja", "-S", SOURCES, "-B", build, "-DALEXNET_DEPLOY_STRICT=ON"]
    command.append(f"-DOpenVINO_DIR={SITE / 'openvino/cmake'}")
    headers = onnxruntime_headers()
    # Said in either case: CMake remembers the last answer.
    command.append(f"-DALEXNET_DEPLOY_WITH_ONNXRUNTIME={'OFF' if headers is None else 'ON'}")
    if headers is not None:
        command += [f"-DONNXRuntime_INCLUDE_DIR={headers}", f"-DONNXRuntime_LIBRARY={_onnxruntime_library()}"]
    _run([*command, *options])


def _onnxruntime_library() -> Path:
    """Return the wheel's library by the names that a linker and a loader look for."""
    (library,) = (SITE / "onnxruntime/capi").glob("libonnxruntime.so.*")
    # Outside the build: an installed library keeps no path into the build.
    folder = ROOT / "build/onnxruntime"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(library)
    return folder / "libonnxruntime.so"


def build(folder: Path, *targets: str) -> None:
    _run(["cmake", "--build", folder, *(("--target", *targets) if targets else ())])


def _run(command: list[str | Path]) -> None:
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.stdout[-6000:]}\n{ended.stderr[-6000:]}"


class CppError(Exception):
    """A status of the library other than OK."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Limits(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("max_pixels", "max_bytes", "max_scans")]


class _Options(ctypes.Structure):
    _fields_ = [
        ("struct_bytes", ctypes.c_size_t),
        ("backend", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("num_threads", ctypes.c_int32),
        ("tuning", ctypes.c_int),
        ("limits", _Limits),
    ]


class _Frame(ctypes.Structure):
    _fields_ = [
        ("pixels", ctypes.c_void_p),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("stride_bytes", ctypes.c_ssize_t),
        ("format", ctypes.c_int),
    ]


class Info(ctypes.Structure):
    """alexnet_deploy_info."""

    _fields_ = [
        *((name, ctypes.c_char_p) for name in ("backend", "version", "device", "precision", "arithmetic", "sha256")),
        *((name, ctypes.c_int32) for name in ("resize", "decoding", "num_streams", "batch_size")),
    ]


class Proof(ctypes.Structure):
    """alexnet_deploy_proof."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in ("num_images", "num_files", "num_files_exact")),
        *((name, ctypes.c_double) for name in ("max_error", "max_log_error")),
    ]


@cache
def library() -> ctypes.CDLL:
    """Return the library, built if a source changed."""
    with locked(BUILD):
        configure(BUILD)
        build(BUILD)
    return open_library(BUILD)


def open_library(folder: Path) -> ctypes.CDLL:
    """Load a build of the library."""
    loaded = ctypes.CDLL(str(folder / "libalexnet_deploy.so"))
    for name in ("last_error", "status_name", "version", "backends", "class_name"):
        getattr(loaded, f"alexnet_deploy_{name}").restype = ctypes.c_char_p
    loaded.alexnet_deploy_num_classes.restype = ctypes.c_size_t
    return loaded


def backends() -> list[str]:
    """Return the backends that the library was built with."""
    return library().alexnet_deploy_backends().decode().split(",")


def _check(status: int) -> None:
    if status:
        code, message = library().alexnet_deploy_status_name(status), library().alexnet_deploy_last_error()
        raise CppError(code.decode(), message.decode(errors="surrogateescape"))


class _ImagePolicy(ctypes.Structure):
    _fields_ = (("resize", ctypes.c_int), ("decoding", ctypes.c_int))

    @classmethod
    def of(cls, policy: ImagePolicy) -> Self:
        return cls(int(policy.resize == "warp"), int(policy.decode == "scaled"))


def decode(data: bytes, policy: ImagePolicy, *, max_pixels: int = 0) -> np.ndarray:
    """Return what the library decodes a file's bytes to; raises CppError."""
    square = np.empty((256, 256, 3), np.uint8)
    limits = _Limits(max_pixels, 0, 0)
    _check(
        library().alexnet_deploy_decode(
            data, ctypes.c_size_t(len(data)), _ImagePolicy.of(policy), ctypes.byref(limits), _pointer(square)
        )
    )
    return square


def outcome(data: bytes, policy: ImagePolicy, *, max_pixels: int = 0) -> np.ndarray | str:
    """Return the pixels, or the code of the error."""
    try:
        return decode(data, policy, max_pixels=max_pixels)
    except CppError as error:
        return error.code


def python_outcome(data: bytes, policy: ImagePolicy, *, max_pixels: int = 0) -> np.ndarray | str:
    """Return Python's pixels, or the code of its error; 0 pixels stand for the default limit, as in C++."""
    try:
        return decode_image(data, policy, DecodeLimits(max_pixels=max_pixels) if max_pixels else DEFAULT_LIMITS)
    except ImageError as error:
        return str(error.code)


def is_read(data: bytes) -> bool:
    """Return whether these bytes begin like a file that C++ reads."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"))


def difference(data: bytes, policy: ImagePolicy, *, max_pixels: int = 0) -> tuple[str, str | None]:
    """Return the kind of outcome in C++, and what differs from Python's; None for the same outcome."""
    found, expected = (find(data, policy, max_pixels=max_pixels) for find in (outcome, python_outcome))
    kind, wanted = (result if isinstance(result, str) else "pixels" for result in (found, expected))
    if kind == "unsupported_format" and not is_read(data):
        return "another format", None
    if kind != wanted:
        return kind, f"C++ {kind}, Python {wanted}"
    if isinstance(found, np.ndarray) and isinstance(expected, np.ndarray) and not np.array_equal(found, expected):
        most = int(np.abs(found.astype(int) - expected.astype(int)).max())
        return kind, f"other pixels, by up to {most}"
    return kind, None


def frame_of(pixels: np.ndarray, pixel_format: str) -> _Frame:
    """Return a frame over an array (H, W, C), rows may have any stride."""
    return _Frame(pixels.ctypes.data, pixels.shape[1], pixels.shape[0], pixels.strides[0], FORMATS[pixel_format])


def to_square(pixels: np.ndarray, pixel_format: str, policy: ImagePolicy) -> np.ndarray:
    square = np.empty((256, 256, 3), np.uint8)
    frame = frame_of(pixels, pixel_format)
    _check(library().alexnet_deploy_to_square(ctypes.byref(frame), _ImagePolicy.of(policy).resize, _pointer(square)))
    return square


def verify(bundle: Path) -> None:
    _check(library().alexnet_deploy_verify(os.fsencode(bundle)))


def _pointer(values: np.ndarray) -> ctypes.c_void_p:
    return values.ctypes.data_as(ctypes.c_void_p)


class CppEngine:
    """An engine of the library."""

    def __init__(self, bundle: Path, backend: str = "auto", *, device: str = "auto", threads: int = 0) -> None:
        self._handle = ctypes.c_void_p()
        options = _Options(ctypes.sizeof(_Options), backend.encode(), device.encode(), threads, 0, _Limits(0, 0, 0))
        _check(library().alexnet_deploy_open(os.fsencode(bundle), ctypes.byref(options), ctypes.byref(self._handle)))

    def __enter__(self) -> "CppEngine":
        return self

    def __exit__(self, *exception: object) -> None:
        library().alexnet_deploy_close(self._handle)

    @property
    def labels(self) -> tuple[str, ...]:
        names = [library().alexnet_deploy_class_name(self._handle, ctypes.c_size_t(i)) for i in range(self.num_classes)]
        return tuple(name.decode() for name in names)

    @property
    def num_classes(self) -> int:
        return int(library().alexnet_deploy_num_classes(self._handle))

    @property
    def info(self) -> Info:
        info = Info()
        _check(library().alexnet_deploy_describe(self._handle, ctypes.byref(info)))
        return info

    def run(self, images: np.ndarray) -> np.ndarray:
        images = np.ascontiguousarray(images)
        probabilities = np.empty((len(images), self.num_classes), np.float32)
        _check(
            library().alexnet_deploy_classify_squares(
                self._handle,
                _pointer(images),
                ctypes.c_size_t(len(images)),
                _pointer(probabilities),
                ctypes.c_size_t(probabilities.size),
            )
        )
        return probabilities

    def classify(self, data: bytes) -> np.ndarray:
        return self._one("classify", data, ctypes.c_size_t(len(data)))

    def classify_file(self, path: Path) -> np.ndarray:
        return self._one("classify_file", os.fsencode(path))

    def classify_frame(self, pixels: np.ndarray, pixel_format: str) -> np.ndarray:
        return self._one("classify_frame", ctypes.byref(frame_of(pixels, pixel_format)))

    def _one(self, function: str, *what: object) -> np.ndarray:
        row = np.empty(self.num_classes, np.float32)
        call = getattr(library(), f"alexnet_deploy_{function}")
        _check(call(self._handle, *what, _pointer(row), ctypes.c_size_t(row.size)))
        return row

    def prove(self) -> Proof:
        proof = Proof()
        _check(library().alexnet_deploy_prove(self._handle, ctypes.byref(proof)))
        return proof
