"""`embed`: a C++ project around a bundle, which builds, tests itself and gives Python's answers."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import openvino
import pytest
from commands import Run

from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.errors import IntegrityError, UsageError
from alexnet_deploy.pipeline.embed import cmake_options, embed

LIBRARIES = ("libjpeg", "zlib", "libcrypto", "nlohmann_json")
BUILDS_WITHIN_S = 1200
QUICKLY = "-DCMAKE_CXX_FLAGS_RELEASE=-O0"
"""The optimised library is built by tests/engines/cpp."""


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def what_is_missing() -> str | None:
    for program in ("cmake", "c++", "pkg-config"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    for library in LIBRARIES:
        if subprocess.run(["pkg-config", "--exists", library], check=False).returncode:
            return f"the headers of {library} are not installed"
    return None


@pytest.fixture(scope="module")
def app(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built project of a bundle."""
    if missing := what_is_missing():
        pytest.skip(f"{missing}: the C++ project cannot be built")
    app = tmp_path_factory.mktemp("embed") / "app"
    embed(bundle, app)
    build = app / "build"
    for command in (
        ["cmake", "-S", app, "-B", build, QUICKLY, *cmake_options()],
        ["cmake", "--build", build, "--parallel", "2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILDS_WITHIN_S)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stderr
    return app


def test_a_project_is_the_sources_and_the_bundle_and_the_same_each_time(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("one", "other"):
        embed(bundle, tmp_path / name)
    written = files_of(tmp_path / "one")
    assert written == files_of(tmp_path / "other")
    assert {"CMakeLists.txt", "README.md", "classify.cpp", "self_test.cpp"} <= written.keys()
    assert "alexnet_deploy/include/alexnet_deploy.h" in written
    assert open_bundle(tmp_path / "one/model.bundle").sha256 == bundle.sha256
    assert files_of(tmp_path / "one/model.bundle") == files_of(bundle.path)
    assert not any(str(tmp_path).encode() in data for data in written.values())


def test_an_existing_directory_is_kept(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    with pytest.raises(UsageError, match=r"app: already exists; choose another directory$"):
        embed(bundle, tmp_path / "app")
    assert list(tmp_path.rglob("*")) == [tmp_path / "app"]


def test_a_changed_bundle_is_not_embedded(bundle: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "a.bundle"
    shutil.copytree(bundle.path, copy)
    opened = open_bundle(copy)
    data = bytearray((copy / "model.onnx").read_bytes())
    data[1000] ^= 1
    (copy / "model.onnx").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"model\.onnx: SHA-256 is "):
        embed(opened, tmp_path / "app")
    (copy / "model.onnx").write_bytes(bundle.read("model.onnx"))
    (copy / "manifest.json").write_bytes((copy / "manifest.json").read_bytes() + b"\n")
    with pytest.raises(IntegrityError, match=r"manifest\.json: has changed since it was opened"):
        embed(opened, tmp_path / "app")
    assert list(tmp_path.iterdir()) == [copy]


def test_the_latest_bundle_is_embedded_by_default(run: Run, latest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    outcome = run("embed", "my app")
    assert (outcome.code, outcome.out) == (0, "my app\n")
    assert f"no BUNDLE given: using bundles/{latest.name}\n" in outcome.err
    assert outcome.err.splitlines()[-1] == (
        "next: cmake -S 'my app' -B 'my app/build' && cmake --build 'my app/build' --parallel && "
        "ctest --test-dir 'my app/build'"
    )
    assert run("embed", latest, "my app").refused(2) == "my app: already exists; choose another directory"
    assert run("embed", latest, "a", "b").refused(2) == "b: unexpected; embed takes a bundle and a new directory"


def test_a_python_that_cmake_would_not_ask_is_named(run: Run, latest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing := what_is_missing():
        pytest.skip(f"{missing}: the C++ project cannot be configured")
    other = Path("other")
    other.mkdir()
    (other / "python3").symlink_to("/bin/false")
    for program in ("cmake", "c++", "make"):
        found = shutil.which(program)
        if found is not None:
            (other / program).symlink_to(found)
    monkeypatch.setenv("PATH", f"{other.absolute()}:/usr/bin:/bin")
    words = run("embed", latest, "app").err
    option = f"-DOpenVINO_DIR={Path(openvino.__file__).parent / 'cmake'}"
    assert f"next: cmake -S app -B app/build {option} && cmake --build app/build" in words
    for options, is_found in (([option], True), ([], False)):
        done = subprocess.run(["cmake", "-S", "app", "-B", "build", *options], capture_output=True, text=True)
        assert (done.returncode == 0) is is_found, done.stderr
        shutil.rmtree("build")
    assert "OpenVINO is not installed for python3 on PATH: activate the environment" in " ".join(done.stderr.split())


def test_the_project_tests_itself(app: Path) -> None:
    done = subprocess.run(
        ["ctest", "--test-dir", app / "build", "--output-on-failure"],
        capture_output=True,
        text=True,
        check=False,
        timeout=BUILDS_WITHIN_S,
    )
    assert done.returncode == 0, done.stdout
    assert "100% tests passed, 0 tests failed out of 1" in done.stdout


def test_the_self_test_fails_on_a_bundle_that_was_changed(app: Path, tmp_path: Path) -> None:
    shutil.copytree(app / "model.bundle", tmp_path / "a.bundle")
    data = bytearray((tmp_path / "a.bundle/golden/images.u8").read_bytes())
    data[7] ^= 1
    (tmp_path / "a.bundle/golden/images.u8").write_bytes(data)
    done = subprocess.run(
        [app / "build/self_test", tmp_path / "a.bundle"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 3
    assert done.stderr.startswith("error: integrity_error: ")
    assert "golden/images.u8" in done.stderr


def test_the_example_gives_predict_s_answers(app: Path, bundle: Bundle, images: Path, run: Run) -> None:
    paths = sorted(images.iterdir())
    done = subprocess.run(
        [app / "build/classify", *paths, "nothing.jpg"], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 1
    *lines, last = done.stdout.splitlines()
    assert last == "nothing.jpg  -- missing: there is no such file"
    rows = run("predict", *paths, "--bundle", bundle.path, "--backend", "openvino", "--format", "jsonl").out
    for line, row in zip(lines, map(json.loads, rows.splitlines()), strict=True):
        path, *guesses = re.split(r"  (?=\d)", line)
        assert path == row["path"]
        assert guesses == [f"{100 * guess['probability']:.2f}% {guess['label']}" for guess in row["top"]]
