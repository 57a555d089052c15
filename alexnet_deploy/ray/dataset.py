"""Predictions inside a pipeline of Ray Data: a dataset of images in, the same rows with predictions out."""

from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.errors import BackendError, UsageError
from alexnet_deploy.core.images.decode import DEFAULT_LIMITS, DecodeLimits
from alexnet_deploy.core.inputs.item import Input
from alexnet_deploy.core.inputs.paths import as_sources, find_inputs, input_of
from alexnet_deploy.core.inputs.remote.expansion import file_at
from alexnet_deploy.core.inputs.remote.reading import RemoteFile
from alexnet_deploy.core.inputs.remote.urls import is_url
from alexnet_deploy.core.names import find_bundle
from alexnet_deploy.engines.engine import Device, open_engine
from alexnet_deploy.engines.registry import Backend
from alexnet_deploy.predict.prediction import Prediction
from alexnet_deploy.predict.stream import Classifier, check_classes
from alexnet_deploy.ray.cluster import crew_for, import_ray

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import Dataset

_BATCH_SIZE = 128
"""Rows that a worker gets at a time; the engine chooses the size of its own batches."""

_ADDED = ("ok", "error", "message", "rejected", "top")


def classify(
    inputs: "Dataset | Iterable[str | Path] | str | Path",
    bundle: str | Path,
    *,
    column: str | None = None,
    topk: int = 5,
    reject: float | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
    backend: Backend | Literal["auto"] = "auto",
    device: Device | Literal["auto"] = "auto",
) -> "Dataset":
    """Return a dataset with a row for each row of `inputs`, in which the image is replaced by its prediction.

    `inputs` is a dataset of Ray Data, or paths and URLs of files, folders and patterns, which become rows with a
    `number`, from 0, and a `path`. `column` of the dataset has images: the bytes of image files, or paths and URLs as
    text, which every machine can read; by default `bytes`, or else `path`. Other columns are kept; a column of bytes is
    dropped. Added are

        ok        bool
        error     string, the code of an image that could not be read, or null
        message   string, the error as a sentence, or null
        rejected  bool, whether the confidence is below `reject`, or null without one
        top       list of {index: int32, label: string, probability: float32}, best first; empty for an error

    Each machine of the cluster has one worker; with `device="cuda"` each GPU. As always in Ray Data, rows have no fixed
    order, and a row may be computed again after a failure; `alexnet-deploy predict --ray` writes each row once, in
    order.

    The dataset is lazy: errors of a worker are raised when it is read. Raises UsageError for wrong arguments,
    BackendError if ray is missing or the cluster has no room, and what open_bundle raises.
    """
    ray = import_ray()
    path = find_bundle(Path(bundle)).absolute()
    opened = open_bundle(path)
    check_classes(opened, topk, reject)
    dataset = inputs if isinstance(inputs, ray.data.Dataset) else ray.data.from_arrow(list(_tables(inputs)))
    names = dataset.schema().names
    column = _column_of(names, column)
    _refuse_other_type(column, dict(zip(names, dataset.schema().types, strict=True))[column])
    crew = crew_for(ray.nodes(), None, on_gpu=device == "cuda")
    if ray.cluster_resources().get("CPU", 0) < 2:
        raise BackendError("Ray Data needs a cluster of 2 CPUs or more: one reads while another one predicts")
    classified: Dataset = dataset.map_batches(
        _Classify,
        fn_constructor_kwargs={
            "path": path,
            "sha256": opened.sha256,
            "column": column,
            "asked": {"topk": topk, "reject": reject, "limits": limits},
            "backend": backend,
            "device": device,
        },
        batch_size=_BATCH_SIZE,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=crew.num_workers),
        # Not all processors of a machine: Ray Data waits forever if none is left for the tasks that read.
        num_cpus=1,
        num_gpus=crew.num_gpus,
    )
    return classified


def _tables(sources: "Iterable[str | Path] | str | Path") -> Iterator["pa.Table"]:
    import pyarrow as pa

    names = (_name_of(item) for item in find_inputs(as_sources(sources)))
    for start in count(step=_BATCH_SIZE):
        if not (some := list(islice(names, _BATCH_SIZE))) and start:
            return
        yield pa.table(
            {"number": pa.array(range(start, start + len(some)), pa.int64()), "path": pa.array(some, pa.string())}
        )


def _name_of(item: Input) -> str:
    if isinstance(item.file, RemoteFile) and item.file.url != item.name:
        raise UsageError(f"{item.text}: its password would be in the dataset; pass it in an environment variable")
    if item.file is not None and not isinstance(item.file, RemoteFile):
        raise UsageError(f"{item.text}: is in an archive; read it with ray.data.read_webdataset, and pass the dataset")
    return item.text


def _column_of(names: list[str], column: str | None) -> str:
    if column is None:
        column = next((name for name in ("bytes", "path") if name in names), None)
        if column is None:
            raise UsageError(f"the dataset has no column `bytes` or `path` but {', '.join(names)}; pass column=")
    if column not in names:
        raise UsageError(f"the dataset has no column {column} but {', '.join(names)}")
    if taken := [name for name in _ADDED if name in names]:
        raise UsageError(f"the dataset has a column {taken[0]} already; rename it, or drop it with drop_columns")
    return column


def _refuse_other_type(column: str, kind: object) -> None:
    """Raise UsageError for a column of numbers, arrays or the like; Ray does not know the type of every column."""
    import pyarrow as pa

    of_bytes = pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_null
    if isinstance(kind, pa.DataType) and not _is_text(kind) and not any(fits(kind) for fits in of_bytes):
        raise UsageError(
            f"the column {column} holds {kind}, but images are the bytes of image files, or their paths as text"
        )


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


class _Classify:
    """Adds predictions to a table of images; lives in an actor of Ray Data."""

    def __init__(
        self,
        path: Path,
        sha256: str,
        column: str,
        asked: dict[str, Any],
        backend: Backend | Literal["auto"],
        device: Device | Literal["auto"],
    ) -> None:
        bundle = open_bundle(path, sha256)
        engine = open_engine(bundle, backend, device, None, "throughput")
        self._column = column
        self._classifier = Classifier(bundle=bundle, engine=engine, **asked)

    def __call__(self, table: "pa.Table") -> "pa.Table":
        images = table.column(self._column).to_pylist()
        # A null has no bytes.
        given = (file_at(image) if _is_url(image) else input_of(image or b"") for image in images)
        predictions = list(self._classifier.stream(given))
        kept = table if _is_text(table.schema.field(self._column).type) else table.drop_columns([self._column])
        return _with(kept, predictions)


def _is_url(image: str | bytes | None) -> bool:
    return isinstance(image, str) and is_url(image)


def _with(table: "pa.Table", predictions: list[Prediction]) -> "pa.Table":
    import pyarrow as pa

    guess = pa.struct([("index", pa.int32()), ("label", pa.string()), ("probability", pa.float32())])
    added = {
        "ok": pa.array([one.ok for one in predictions], pa.bool_()),
        "error": pa.array([None if one.error is None else one.error.value for one in predictions], pa.string()),
        "message": pa.array([one.message or None for one in predictions], pa.string()),
        "rejected": pa.array([one.rejected for one in predictions], pa.bool_()),
        "top": pa.array(
            [
                [{"index": g.index, "label": g.label, "probability": g.probability} for g in one.top]
                for one in predictions
            ],
            pa.list_(guess),
        ),
    }
    for name in _ADDED:
        table = table.append_column(name, added[name])
    return table
