"""Plans in C++, with a TensorRT of the tests: there is no GPU here, and NVIDIA's headers are not ours."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cpp_library import ROOT, SOURCES, build, configure, locked
from images import noise

from alexnet_deploy.core.bundle.plans import PlanOptions, PlanRecord, Profile
from alexnet_deploy.core.bundle.store import GRAPH, Bundle, publishing
from alexnet_deploy.core.fs.files import sha256

FAKES = SOURCES / "tests/fake_nvidia"
FOLDER = ROOT / "build/engines-cpp-plans"
OTHERS_OFF = [f"-DALEXNET_DEPLOY_{name}=OFF" for name in ("WITH_OPENVINO", "WITH_ONNXRUNTIME", "BUILD_TESTS")]
PLAN = "plans/tensorrt-10.13.0-sm-90-fake-h100.engine"


@pytest.fixture(scope="module")
def programs() -> Path:
    """Return the folder of the library's programs, built with the fake libraries."""
    with locked(FOLDER):
        library = FOLDER / "fake/libnvinfer.so"
        library.parent.mkdir(exist_ok=True)
        command = [
            "c++",
            "-std=c++17",
            "-shared",
            "-fPIC",
            "-Wl,-soname,libnvinfer.so",
            f"-I{FAKES}",
            FAKES / "fake_nvidia.cpp",
            "-o",
            library,
        ]
        subprocess.run(command, check=True)
        libraries = [f"-DTensorRT_LIBRARY={library}", f"-DCUDART_LIBRARY={library}"]
        headers = [f"-DTensorRT_INCLUDE_DIR={FAKES}", f"-DCUDART_INCLUDE_DIR={FAKES}"]
        configure(FOLDER, "-DALEXNET_DEPLOY_WITH_PLANS=tensorrt", *OTHERS_OFF, *libraries, *headers)
        build(FOLDER)
    return FOLDER


def with_plan(bundle: Bundle, out: Path, **changes: object) -> Bundle:
    """Publish the bundle with a plan of the fake library, for batches of 2 to 4 images."""
    graph = sha256(bundle.read(GRAPH))
    record = PlanRecord(
        file=PLAN,
        backend="tensorrt",
        version="10.13.0",
        target="sm_90 Fake H100",
        graph_sha256=graph,
        profile=Profile(min_batch=2, opt_batch=3, max_batch=4),
        options=PlanOptions(),
        build_seconds=1.0,
        layers={},
        proof="proved",
    )
    content = str(changes.pop("content", f"{graph} {len(bundle.labels)}\n"))
    record = msgspec.structs.replace(record, **changes)
    out.parent.mkdir(exist_ok=True)
    with publishing(out) as stage:
        for name in bundle.manifest.files:
            stage.write(name, bundle.read(name))
        stage.write(PLAN, content.encode())
        return stage.seal(msgspec.structs.replace(bundle.manifest, plans=(record,)))


# In a process of its own: two builds of the library in one would share symbols.
RUN = """
import sys, numpy, cpp_library
from pathlib import Path
loaded = cpp_library.open_library(Path(sys.argv[1]))
cpp_library.library = lambda: loaded
with cpp_library.CppEngine(Path(sys.argv[2]), "tensorrt", device=sys.argv[3]) as engine:
    info = engine.info
    print(info.backend.decode(), info.version.decode(), info.device.decode(), info.arithmetic.decode(), sep="|")
    numpy.save(sys.argv[5], engine.run(numpy.load(sys.argv[4])))
"""


def run(programs: Path, bundle: Path, images: np.ndarray, folder: Path, *, device: str = "auto", gpu: str = "") -> str:
    np.save(folder / "images.npy", images)
    arguments = [programs, bundle, device, folder / "images.npy", folder / "answers.npy"]
    paths = os.pathsep.join([str(ROOT / "tests/support"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "FAKE_NVIDIA": gpu},
    )
    return ended.stdout.strip() if ended.returncode == 0 else ended.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("num_images", [1, 2, 4, 5, 11])
def test_a_plan_answers_every_number_of_images(num_images: int, programs: Path, bundle: Bundle, tmp_path: Path) -> None:
    with_plan(bundle, tmp_path / "planned.bundle")
    images = noise(256, 256 * num_images).reshape(num_images, 256, 256, 3)
    said = run(programs, tmp_path / "planned.bundle", images, tmp_path)
    assert said == "tensorrt|10.13.0|sm_90 Fake H100|float32"
    answers = np.load(tmp_path / "answers.npy")
    np.testing.assert_array_equal(answers.argmax(axis=1), images[:, 0, 0, 0] % len(bundle.labels))
    assert (answers.sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "sm_89 L4"}, "was built for sm_89 L4, but this GPU is sm_90 Fake H100; rebuild it with"),
        (
            {"content": "rubbish"},
            "tensorrt 10.13.0 cannot open it (built by 10.13.0): Serialization assertion failed. Ver",
        ),
        ({"content": f"{'0' * 64} 4"}, "its bytes name another graph than its record"),
        ({"graph_sha256": "0" * 64}, "was built from another graph than model.onnx"),
        ({"proof": "pending"}, "disagrees with the trained network on the golden images"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(
    changes: dict[str, object], words: str, programs: Path, bundle: Bundle, tmp_path: Path
) -> None:
    with_plan(bundle, tmp_path / "planned.bundle", **changes)
    assert words in run(programs, tmp_path / "planned.bundle", noise(256, 256)[None], tmp_path)


def test_a_plan_for_every_gpu_runs(programs: Path, bundle: Bundle, tmp_path: Path) -> None:
    with_plan(bundle, tmp_path / "planned.bundle", target="aot")
    assert "Fake H100" in run(programs, tmp_path / "planned.bundle", noise(256, 256)[None], tmp_path)


def test_without_a_gpu_or_a_plan_one_sentence_says_so(programs: Path, bundle: Bundle, tmp_path: Path) -> None:
    with_plan(bundle, tmp_path / "planned.bundle")
    images = noise(256, 256)[None]
    said = run(programs, tmp_path / "planned.bundle", images, tmp_path, gpu="no-gpu")
    assert "tensorrt needs an NVIDIA GPU to run plans: CUDA cannot find a GPU: CUDA driver version is insuff" in said
    assert "there is no GPU 3: CUDA finds 1" in run(
        programs, tmp_path / "planned.bundle", images, tmp_path, device="cuda:3"
    )
    assert "contains no plan for tensorrt; build one with `alexnet-deploy build" in run(
        programs, bundle.path, images, tmp_path
    )


def test_the_example_ends_with_code_3_without_a_gpu(programs: Path, bundle: Bundle, tmp_path: Path) -> None:
    with_plan(bundle, tmp_path / "planned.bundle")
    ended = subprocess.run(
        [programs / "prove", tmp_path / "planned.bundle", "tensorrt"],
        capture_output=True,
        text=True,
        env=os.environ | {"FAKE_NVIDIA": "no-gpu"},
    )
    assert ended.returncode == 3
    assert len(ended.stderr.splitlines()) == 1
