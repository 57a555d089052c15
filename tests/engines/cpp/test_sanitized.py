"""Damaged files under AddressSanitizer and UndefinedBehaviorSanitizer, and eight threads under ThreadSanitizer."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from cpp_library import ROOT, SOURCES, build, configure, locked
from mutations import good_files

from alexnet_deploy.core.bundle.store import Bundle

ADDRESSES = ROOT / "build/engines-cpp-asan"
THREADS = ROOT / "build/engines-cpp-tsan"
# A file cannot make the library ask for more than this at once.
QUICKLY = "-DCMAKE_CXX_FLAGS_RELEASE=-O1"
"""Compiles in 0.6 of the time of -O3; what the sanitizers find is the same."""
ASAN_OPTIONS = "max_allocation_size_mb=512:quarantine_size_mb=16"


@pytest.fixture(scope="module")
def programs() -> Path:
    """Return the folder of the fuzz programs."""
    off = [f"-DALEXNET_DEPLOY_{name}=OFF" for name in ("WITH_OPENVINO", "BUILD_EXAMPLES")]
    with locked(ADDRESSES):
        configure(
            ADDRESSES,
            *off,
            QUICKLY,
            "-DALEXNET_DEPLOY_WITH_ONNXRUNTIME=OFF",
            "-DBUILD_SHARED_LIBS=OFF",
            "-DALEXNET_DEPLOY_SANITIZE=address,undefined",
            "-DALEXNET_DEPLOY_FUZZ=driver",
        )
        build(ADDRESSES, "fuzz_pictures", "fuzz_bundles")
    return ADDRESSES / "tests"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for name, data in good_files().items():
        if name.startswith(("png", "jpeg-")):
            (folder / name).write_bytes(data)
    return folder


def fuzz(program: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [str(part) for part in (program, "--seed", 1, *arguments)]
    environment = os.environ | {"ASAN_OPTIONS": ASAN_OPTIONS} | variables
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_damaged_pictures_are_decoded_or_refused(programs: Path, pictures: Path, bundle: Bundle) -> None:
    ended = fuzz(programs / "fuzz_pictures", "--runs", 2500, pictures, bundle.path / "golden/files")
    assert ended.returncode == 0, ended.stderr
    outcomes = json.loads(ended.stdout)["outcomes"]
    assert sum(outcomes.values()) == 2500
    assert min(outcomes["ok"], outcomes["truncated"]) > 200


def test_damaged_bundles_are_read_or_refused(programs: Path, bundle: Bundle) -> None:
    variables = {"ALEXNET_DEPLOY_FUZZ_BUNDLE": str(bundle.path)}
    ended = fuzz(programs / "fuzz_bundles", "--runs", 500, **variables)
    assert ended.returncode == 0, ended.stderr
    outcomes = json.loads(ended.stdout)["outcomes"]
    assert set(outcomes) == {"ok", "bundle_error", "integrity_error"}
    assert min(outcomes["ok"], outcomes["integrity_error"]) > 50


def test_too_much_memory_ends_the_program(programs: Path, pictures: Path) -> None:
    ended = fuzz(programs / "fuzz_pictures", "--runs", 5, "--most-mib", 1, pictures)
    assert ended.returncode == 1
    assert ended.stderr.startswith("run 0 of seed 1\npeak memory is ")


def test_eight_threads_share_an_engine(bundle: Bundle) -> None:
    with locked(THREADS):
        # OpenVINO alone: under ThreadSanitizer ONNX Runtime's waiting threads take more than ten minutes.
        off = [f"-DALEXNET_DEPLOY_{name}=OFF" for name in ("WITH_ONNXRUNTIME", "BUILD_EXAMPLES")]
        configure(THREADS, "-DALEXNET_DEPLOY_SANITIZE=thread", QUICKLY, *off)
        build(THREADS)
    options = f"suppressions={SOURCES / 'tests/thread_sanitizer.supp'}"
    ended = subprocess.run(
        [THREADS / "tests/interface_test", bundle.path],
        capture_output=True,
        text=True,
        env=os.environ | {"TSAN_OPTIONS": options},
    )
    assert ended.returncode == 0, ended.stderr[-6000:]
    assert ended.stdout == "passed\n"
