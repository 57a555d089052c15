"""A model repository for Triton: what Triton's own parser reads of it, and our models in its Python backend."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from commands import HANGS_AFTER_S, Run
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from alexnet_deploy.core.bundle.store import GRAPH, Bundle, open_bundle
from alexnet_deploy.core.golden.record import GoldenFiles
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.serve.triton_models import Decoder, EngineModel

SERVER = os.environ.get("TRITON_SERVER_FOLDER")


def config_of(folder: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse((folder / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def tensors(found: object) -> list[tuple[str, str, list[int]]]:
    return [(one.name, model_config_pb2.DataType.Name(one.data_type), list(one.dims)) for one in found]  # type: ignore[attr-defined]


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def repository(run: Run, bundle: Bundle, features_bundle: Bundle) -> Path:
    outcome = run("triton", f"net={bundle.path}", f"net:7={bundle.path}", features_bundle.path, "repo")
    assert outcome.code == 0, outcome
    assert f"alexnet-deploy check {bundle.path} --url http://localhost:8000 --model net:7" in outcome.err
    assert outcome.out == "repo\n"
    return Path("repo").absolute()


def test_triton_s_parser_reads_the_contract(repository: Path, bundle: Bundle) -> None:
    found = config_of(repository / "net")
    assert (found.name, found.backend, found.platform) == ("net", "onnxruntime", "onnxruntime_onnx")
    assert found.max_batch_size == 16
    assert tensors(found.input) == [("images", "TYPE_UINT8", [256, 256, 3])]
    assert tensors(found.output) == [("probabilities", "TYPE_FP32", [4])]
    assert found.output[0].label_filename == "labels.txt"
    assert list(found.dynamic_batching.preferred_batch_size) == [4]
    assert found.dynamic_batching.max_queue_delay_microseconds == 2000
    assert found.version_policy.HasField("all")
    assert (repository / "net/labels.txt").read_text().split("\n")[:4] == list(bundle.labels)
    for version in ("1", "7"):
        assert (repository / "net" / version / "model.onnx").read_bytes() == bundle.read(GRAPH)
    features = config_of(repository / "fc7")
    assert tensors(features.output) == [("features", "TYPE_FP32", [64])]
    assert features.output[0].label_filename == ""


def test_the_warm_up_is_a_golden_image_with_its_answer_beside_it(repository: Path, bundle: Bundle) -> None:
    (warmup,) = config_of(repository / "net").model_warmup
    ((name, value),) = warmup.inputs.items()
    assert (warmup.batch_size, name, list(value.dims)) == (1, "images", [256, 256, 3])
    golden = bundle.manifest.golden
    held = (repository / "net/warmup" / value.input_data_file).read_bytes()
    assert held == bundle.read_tensor(golden.images)[0].tobytes()
    assert (repository / "net/warmup/expected.f32").read_bytes() == bundle.read_tensor(golden.expected)[0].tobytes()


def test_an_ensemble_decodes_files_in_front_of_the_model(repository: Path) -> None:
    decoder, ensemble = config_of(repository / "net_decoder"), config_of(repository / "net_files")
    assert decoder.backend == "python"
    assert tensors(decoder.input) == tensors(ensemble.input) == [("encoded_images", "TYPE_STRING", [1])]
    assert tensors(decoder.output) == tensors(config_of(repository / "net").input)
    assert decoder.parameters["resize"].string_value == "shorter-side"
    assert ensemble.platform == "ensemble"
    assert tensors(ensemble.output) == [("probabilities", "TYPE_FP32", [4])]
    first, second = ensemble.ensemble_scheduling.step
    assert (first.model_name, dict(first.input_map)) == ("net_decoder", {"encoded_images": "encoded_images"})
    assert (second.model_name, dict(second.output_map)) == ("net", {"probabilities": "probabilities"})
    assert list(first.output_map.values()) == list(second.input_map.values()) == ["decoded"]
    assert (repository / "net_files/1").is_dir()


def test_the_same_bundles_give_the_same_bytes(
    run: Run, repository: Path, bundle: Bundle, features_bundle: Bundle
) -> None:
    assert run("triton", f"net={bundle.path}", f"net:7={bundle.path}", features_bundle.path, "again").code == 0
    assert files_in(Path("again")) == files_in(repository)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (
            "net={0} net:2={1} repo",
            2,
            "version 2 of net has another contract or other labels than the versions before it",
        ),
        ("{0} there", 2, "there: already exists; choose another directory"),
        ("{0}", 2, "is a bundle; the last argument is the new directory of the repository"),
        ("{0} repo --platform tensorrt", 3, "holds no TensorRT plan; run `alexnet-deploy build"),
    ],
)
def test_what_makes_no_repository_is_refused_and_leaves_nothing(
    arguments: str, code: int, words: str, run: Run, bundle: Bundle, features_bundle: Bundle
) -> None:
    Path("there").mkdir()
    outcome = run("triton", *arguments.format(bundle.path, features_bundle.path).split())
    assert words in outcome.refused(code)
    assert [path.name for path in Path().iterdir()] == ["there"]


def test_openvino_reads_the_graph_by_its_name(run: Run, bundle: Bundle) -> None:
    assert run("triton", f"net={bundle.path}", "repo", "--platform", "openvino").code == 0
    found = config_of(Path("repo/net"))
    assert (found.backend, found.default_model_filename) == ("openvino", "model.onnx")


class Tensor(SimpleNamespace):
    """A tensor of the backend: numbers through DLPack, texts as an array of objects."""

    def as_numpy(self) -> np.ndarray:
        assert self.values.dtype == object, "numbers go through DLPack"
        values: np.ndarray = self.values
        return values

    def __dlpack__(self, **options: object) -> object:
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self) -> object:
        return self.values.__dlpack_device__()


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's module of that name, as far as our models use it."""
    module = SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: request[name],
        InferenceResponse=lambda output_tensors=(), error=None: SimpleNamespace(tensors=output_tensors, error=error),
        TritonError=str,
        Tensor=SimpleNamespace(from_dlpack=lambda name, values: Tensor(name=name, values=values)),
    )
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", module)  # type: ignore[arg-type]


@pytest.mark.usefixtures("backend")
def test_our_models_give_the_golden_answers_in_the_python_backend(run: Run, bundle: Bundle) -> None:
    assert run("triton", f"net={bundle.path}", "repo", "--platform", "python").code == 0
    names = {path.parent.parent.name: path.read_text() for path in Path("repo").rglob("model.py")}
    assert "EngineModel as TritonPythonModel" in names["net"]
    assert "Decoder as TritonPythonModel" in names["net_decoder"]
    assert open_bundle(Path("repo/net/1/bundle")).sha256 == bundle.sha256
    files = bundle.manifest.golden.files
    assert isinstance(files, GoldenFiles)
    held = np.array([bundle.read(name) for name in files.names], object).reshape(-1, 1)
    decoder = Decoder()
    decoder.initialize(
        {
            "model_config": json.dumps(
                {"parameters": {"resize": {"string_value": "shorter-side"}, "decode": {"string_value": "scaled"}}}
            )
        }
    )
    (answer,) = decoder.execute([{"encoded_images": Tensor(values=held)}])
    (pixels,) = answer.tensors
    assert np.array_equal(pixels.values, bundle.read_tensor(files.pixels))
    (refused,) = decoder.execute([{"encoded_images": Tensor(values=np.array([[b"Dear reader"]], object))}])
    assert refused.error.startswith("encoded_images: not_an_image: ")
    model = EngineModel()
    model.initialize({"model_repository": "repo/net", "model_version": "1", "model_name": "net"})
    (answer,) = model.execute([{"images": pixels}])
    assert np.abs(answer.tensors[0].values - bundle.read_tensor(files.expected)).max() <= 1e-5
    model.finalize()


@pytest.fixture
def server(run: Run, loaded: LoadedWeights, bundle: Bundle, tmp_path: Path) -> Iterator[str]:
    """The real Triton server, of an unpacked nvidia-pytriton wheel, with our engine in its Python backend."""
    if SERVER is None:
        pytest.skip("TRITON_SERVER_FOLDER does not name an unpacked nvidia-pytriton wheel; no Triton server was run")
    assert run("triton", f"net={bundle.path}", "repo", "--platform", "python").code == 0
    # With NumPy 2 the stub of this wheel cannot read texts.
    for part in ("net_decoder", "net_files"):
        shutil.rmtree(tmp_path / "repo" / part)
    home, port = Path(SERVER), "8394"
    backends = tmp_path / "backends"
    shutil.copytree(home / "pytriton/tritonserver/backends", backends)
    stub = f"pytriton/tritonserver/python_backend_stubs/{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(home / stub / "triton_python_backend_stub", backends / "python")
    command = [home / "pytriton/tritonserver/bin/tritonserver", f"--model-repository={tmp_path / 'repo'}"]
    options = ["--http-port", port, "--http-address", "127.0.0.1", "--allow-grpc=false", "--allow-metrics=false"]
    variables = {
        "LD_LIBRARY_PATH": str(home / "nvidia_pytriton.libs"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    with (tmp_path / "triton.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--backend-directory={backends}", *options],
            stdout=log,
            stderr=log,
            env={**os.environ, **variables},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + HANGS_AFTER_S
        while True:
            said = (tmp_path / "triton.log").read_text()[-3000:]
            assert process.poll() is None, said
            assert time.monotonic() < end, said
            try:
                if httpx.get(f"{url}/v2/health/ready").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.2)
        yield url
    finally:
        process.kill()
        process.wait()


def test_the_real_server_gives_the_golden_answers(run: Run, server: str, bundle: Bundle) -> None:
    outcome = run("check", bundle.path, "--url", server, "--model", "net")
    assert outcome.code == 0, outcome
    assert outcome.out.count("passed") == 2
    assert "triton 2." in outcome.out
