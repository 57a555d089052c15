"""The library is installed, found and used as any other: from C, from C++, by CMake and by pkg-config."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cpp_library import BUILD, SOURCES, configure, library, locked
from cpp_library import build as build_target

from alexnet_deploy.core.bundle.store import Bundle

PROGRAM = """
#include <alexnet_deploy.h>
#include <stdio.h>

int main(int argc, char** argv) {
    alexnet_deploy_engine* engine = NULL;
    alexnet_deploy_options options = ALEXNET_DEPLOY_OPTIONS;
    float probabilities[4];
    options.num_threads = 1;
    if (argc != 3 || alexnet_deploy_open(argv[1], &options, &engine) != ALEXNET_DEPLOY_OK ||
        alexnet_deploy_classify_file(engine, argv[2], probabilities, 4) != ALEXNET_DEPLOY_OK) {
        fprintf(stderr, "%s\\n", alexnet_deploy_last_error());
        return 3;
    }
    printf("%s\\n", alexnet_deploy_class_name(engine, 0));
    alexnet_deploy_close(engine);
    return 0;
}
"""

PROJECT = """
cmake_minimum_required(VERSION 3.20)
project(user LANGUAGES C CXX)
find_package(alexnet_deploy 0.1 REQUIRED)
add_executable(user main.c)
target_link_libraries(user PRIVATE alexnet_deploy::alexnet_deploy)
add_executable(classify ${CLASSIFY})
target_link_libraries(classify PRIVATE alexnet_deploy::alexnet_deploy)
"""


def run(*command: object) -> str:
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert ended.returncode == 0, f"{ended.stdout[-4000:]}\n{ended.stderr[-4000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library()
    prefix = tmp_path_factory.mktemp("installed")
    with locked(BUILD):
        run("cmake", "--install", BUILD, "--prefix", prefix)
    return prefix


def test_ctest_passes(bundle: Bundle) -> None:
    library()
    with locked(BUILD):
        configure(BUILD, f"-DALEXNET_DEPLOY_TEST_BUNDLE={bundle.path}")
        build_target(BUILD)
        said = run("ctest", "--test-dir", BUILD, "--output-on-failure")
    assert "100% tests passed, 0 tests failed out of 3" in said


def test_find_package_finds_it(installed: Path, bundle: Bundle, images: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(PROJECT)
    folder, example = tmp_path / "build", SOURCES / "examples/classify.cpp"
    run(
        "cmake",
        "-S",
        tmp_path,
        "-B",
        folder,
        "-G",
        "Ninja",
        f"-DCMAKE_PREFIX_PATH={installed}",
        f"-DCLASSIFY={example}",
    )
    run("cmake", "--build", folder)
    image = images / "a.jpg"
    assert run(folder / "user", bundle.path, image) == f"{bundle.labels[0]}\n"
    rows = [line.split("\t") for line in run(folder / "classify", bundle.path, image).splitlines()]
    assert {label for _, _, label in rows} == set(bundle.labels)
    assert sum(float(probability) for _, probability, _ in rows) == pytest.approx(1, abs=1e-5)


def test_pkg_config_finds_it(installed: Path, bundle: Bundle, images: Path, tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(PROGRAM)
    (config,) = installed.glob("lib*/**/pkgconfig")
    flags = run("env", f"PKG_CONFIG_PATH={config}", "pkg-config", "--cflags", "--libs", "alexnet_deploy").split()
    strict = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror"]
    run("cc", *strict, tmp_path / "main.c", "-o", tmp_path / "user", *flags, f"-Wl,-rpath,{config.parent}")
    assert run(tmp_path / "user", bundle.path, images / "a.jpg") == f"{bundle.labels[0]}\n"


def test_no_symbol_but_the_interface_is_exported() -> None:
    library()
    lines = run("nm", "-D", "--defined-only", "-C", BUILD / "libalexnet_deploy.so").splitlines()
    # Templates of the C++ library are weak: V and W.
    names = {line.split()[-1] for line in lines if line.split()[-2] == "T"}
    assert len(names) > 15
    assert all(name.startswith("alexnet_deploy_") for name in names)


def test_the_decoder_passes_check_pixels(bundle: Bundle) -> None:
    library()
    command = [sys.executable, "-m", "alexnet_deploy", "check", str(bundle.path), "--pixels", str(BUILD / "decode")]
    assert "19 of 19 golden files equal to the bit" in run(*command)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("clang++") is None, reason="clang++ is missing; apt-get install clang")
def test_clang_builds_it_without_a_warning(tmp_path: Path) -> None:
    configure(tmp_path, "-DCMAKE_CXX_COMPILER=clang++")
    build_target(tmp_path)
    assert "100% tests passed" in run("ctest", "--test-dir", tmp_path)
