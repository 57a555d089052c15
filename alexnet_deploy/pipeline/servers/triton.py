"""A model repository for Triton Inference Server: each bundle as a model, with our decoder in front of it.

    NAME/config.pbtxt, labels.txt      the graph, a plan, or our engine in Triton's Python backend
    NAME/VERSION/model.onnx            or model.plan; with our engine model.py and bundle/
    NAME/warmup/images                 a golden image that is run before the model is ready
    NAME/warmup/expected.f32           what must come of it
    NAME_decoder/...                   image files to pixels, in Triton's Python backend
    NAME_files/...                     both, as an ensemble: image files in, the graph's output out

The same bundles give the same bytes.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from alexnet_deploy.core.bundle.contract import IMAGES
from alexnet_deploy.core.bundle.store import GRAPH, LABELS, Bundle, open_bundle
from alexnet_deploy.core.errors import BackendError, UsageError
from alexnet_deploy.core.fs.files import new_directory, refuse_existing
from alexnet_deploy.core.model.preprocessing import IMAGE_SIZE
from alexnet_deploy.engines.batching import batch_size_for, max_batch_for
from alexnet_deploy.serve.protocol import ENCODED_IMAGES
from alexnet_deploy.serve.settings import ModelPlace
from alexnet_deploy.serve.triton_models import BUNDLE

Platform: TypeAlias = Literal["onnxruntime", "openvino", "tensorrt", "python"]
"""What runs a model in Triton: its own backend of this name, or our engine in its Python backend."""

PLATFORMS: tuple[Platform, ...] = get_args(Platform)

_DELAY_US = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    """One folder of the repository."""

    name: str
    config: str
    files: dict[str, bytes]
    """By path relative to the folder."""


def write_repository(places: Sequence[ModelPlace], out: Path, platform: Platform = "onnxruntime") -> None:
    """Write a model repository to the new directory `out`; a failure leaves nothing there.

    Versions of one name share a folder, and must have the same contract, labels and image policy. Raises UsageError
    where `out` exists or versions differ, BackendError for a bundle without a TensorRT plan on that platform,
    IntegrityError for damaged bundles, OutputError where it cannot be written.
    """
    refuse_existing(out)
    models: dict[str, _Model] = {}
    for place in places:
        for model in _models_of(place, open_bundle(place.bundle), platform):
            other = models.setdefault(model.name, model)
            if other.config != model.config or other.files.get(LABELS) != model.files.get(LABELS):
                raise UsageError(
                    f"{place.bundle}: version {place.version} of {place.name} has another contract or other labels "
                    "than the versions before it; give it another name"
                )
            other.files.update(model.files)
    with new_directory(out) as stage:
        for model in models.values():
            _write(stage / model.name, {**model.files, "config.pbtxt": model.config.encode()})


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    if not any(name.partition("/")[0].isdigit() for name in files):
        # Triton needs the folder of a version for an ensemble too, which has no file in it.
        (folder / "1").mkdir()


def _models_of(place: ModelPlace, bundle: Bundle, platform: Platform) -> Iterator[_Model]:
    manifest, output = bundle.manifest, bundle.manifest.output
    images = _tensor(IMAGES, "TYPE_UINT8", (IMAGE_SIZE, IMAGE_SIZE, 3))
    files = _tensor(ENCODED_IMAGES, "TYPE_STRING", (1,))
    labels = f' label_filename: "{LABELS}"' if output.layer is None else ""
    returned = _tensor(output.name, "TYPE_FP32", (output.size,), labels)
    most, runs, parts = _of_platform(place, bundle, platform)
    num_views = len(manifest.views.crops)
    batching = (
        f"dynamic_batching {{\n  preferred_batch_size: [ {min(most, batch_size_for(num_views))} ]\n"
        f"  max_queue_delay_microseconds: {_DELAY_US}\n}}\n"
    )
    golden = bundle.read_tensor(manifest.golden.images)
    expected = bundle.read_tensor((manifest.golden.graph or manifest.golden).expected)
    yield _Model(
        name=place.name,
        config=_config(place.name, most, runs, images, returned) + batching + _warmup(),
        files={
            LABELS: bundle.read(LABELS),
            "warmup/images": golden[:1].tobytes(),
            "warmup/expected.f32": expected[:1].tobytes(),
            **{f"{place.version}/{name}": data for name, data in parts.items()},
        },
    )
    policy = dataclasses.asdict(manifest.preprocessing.image_policy)
    parameters = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}\n' for key, value in policy.items()
    )
    decoder = f"{place.name}_decoder"
    yield _Model(
        name=decoder,
        config=_config(decoder, most, 'backend: "python"\n', files, images) + parameters,
        files={"1/model.py": _python("Decoder")},
    )
    ensemble = f"{place.name}_files"
    yield _Model(
        name=ensemble,
        config=_config(ensemble, most, 'platform: "ensemble"\n', files, returned.replace(labels, ""))
        + _steps(decoder, place.name, output.name),
        files={},
    )


def _of_platform(place: ModelPlace, bundle: Bundle, platform: Platform) -> tuple[int, str, dict[str, bytes]]:
    """Return the largest batch, the lines of the configuration, and the files of the version."""
    most = max_batch_for(len(bundle.manifest.views.crops))
    match platform:
        case "onnxruntime":
            return most, 'backend: "onnxruntime"\nplatform: "onnxruntime_onnx"\n', {"model.onnx": bundle.read(GRAPH)}
        case "openvino":
            runs = 'backend: "openvino"\ndefault_model_filename: "model.onnx"\n'
            return most, runs, {"model.onnx": bundle.read(GRAPH)}
        case "tensorrt":
            plan = next((record for record in bundle.manifest.plans if record.backend == "tensorrt"), None)
            if plan is None:
                raise BackendError(
                    f"{bundle.path}: holds no TensorRT plan; run `alexnet-deploy build {place.bundle} --plan tensorrt` "
                    "on the machine that Triton runs on"
                )
            runs = 'backend: "tensorrt"\nplatform: "tensorrt_plan"\n'
            return plan.profile.max_batch, runs, {"model.plan": bundle.read(plan.file)}
        case "python":
            held = {f"{BUNDLE}/{name}": data for name, data in bundle.contents()}
            return most, 'backend: "python"\n', {"model.py": _python("EngineModel"), **held}


def _python(name: str) -> bytes:
    return f"from alexnet_deploy.serve.triton_models import {name} as TritonPythonModel  # noqa: F401\n".encode()


def _config(name: str, most: int, runs: str, takes: str, returns: str) -> str:
    tensors = f"input [ {takes} ]\noutput [ {returns} ]\n"
    return f'name: "{name}"\n{runs}max_batch_size: {most}\n{tensors}version_policy {{ all {{ }} }}\n'


def _tensor(name: str, datatype: str, dims: Sequence[int], more: str = "") -> str:
    return f'{{ name: "{name}" data_type: {datatype} dims: [ {", ".join(map(str, dims))} ]{more} }}'


def _warmup() -> str:
    dims = f"{IMAGE_SIZE}, {IMAGE_SIZE}, 3"
    value = f'value {{ data_type: TYPE_UINT8 dims: [ {dims} ] input_data_file: "images" }}'
    inputs = f'  inputs {{\n    key: "{IMAGES}"\n    {value}\n  }}\n'
    return f'model_warmup {{\n  name: "golden image"\n  batch_size: 1\n{inputs}}}\n'


def _steps(decoder: str, model: str, output: str) -> str:
    def step(name: str, takes: tuple[str, str], gives: tuple[str, str]) -> str:
        return (
            f'  step {{\n    model_name: "{name}"\n    model_version: -1\n'
            f'    input_map {{ key: "{takes[0]}" value: "{takes[1]}" }}\n'
            f'    output_map {{ key: "{gives[0]}" value: "{gives[1]}" }}\n  }}\n'
        )

    first = step(decoder, (ENCODED_IMAGES, ENCODED_IMAGES), (IMAGES, "decoded"))
    second = step(model, (IMAGES, "decoded"), (output, output))
    return f"ensemble_scheduling {{\n{first}{second}}}\n"
