"""Precision at test time: the graphs that a study exports of its runs, and what it counts of their answers."""

import csv
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from studies import STUDY, request_of, write_study

from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.errors import ParityError
from alexnet_deploy.core.images.drawing import draw_folder
from alexnet_deploy.core.process.say import say_nothing
from alexnet_deploy.engines.engine import open_engine
from alexnet_deploy.pipeline.export import ExportRequest
from alexnet_deploy.pipeline.study.definition import study_text
from alexnet_deploy.pipeline.study.running import scores
from alexnet_deploy.pipeline.study.running.runs import Workplace
from alexnet_deploy.pipeline.study.study import Studied, run_study
from alexnet_deploy.train.pack.format import open_pack

PRECISIONS = ("fp32", "fp16", "int8")


def studied(folder: Path, data: Path, precisions: tuple[str, ...] = PRECISIONS, **changes: object) -> Studied:
    """Run the variants of the shipped study in these precisions over the base of a second."""
    _, *variants = study_text("precision").split("[[variants]]")
    base, _ = STUDY.split("[[variants]]")
    chosen = [text for text in variants if any(f'precision = "{name}"' in text for name in precisions)]
    text = "[[variants]]".join((base, *chosen))
    request = request_of(write_study(folder, text), data, **changes)
    return run_study(request, folder / "out", Workplace(say=say_nothing))


def table(out: Path) -> dict[str, dict[str, str]]:
    """Return the rows of the first seed by variant."""
    with (out / "results.csv").open(newline="") as file:
        return {row["variant"]: row for row in csv.DictReader(file) if row["seed"] == "0"}


@pytest.mark.parametrize("precisions", [("fp16",), pytest.param(PRECISIONS, marks=pytest.mark.slow)])
def test_each_graph_is_exported_and_its_answers_are_counted(tmp_path: Path, precisions: tuple[str, ...]) -> None:
    """Counted again from the bundles with another engine than the study's."""
    draw_folder(tmp_path / "drawn", num_train=8, num_validation=4)
    found = studied(tmp_path, tmp_path / "drawn", precisions, seeds=1, settings={"epochs": 4})
    out = tmp_path / "out"
    rows, images = table(out), open_pack(out / "images.pack")
    num = images.header.num_train
    pixels, truths = np.asarray(images.images[num:]), np.asarray(images.labels[num:])
    assert list(rows) == ["base", *precisions]
    for variant, name in zip(found.result.variants[1:], precisions, strict=True):
        bundle = open_bundle(out / f"runs/base-0/{name}.bundle")
        assert bundle.manifest.precision == name
        assert rows[name]["weights_sha256"] == rows["base"]["weights_sha256"]
        with open_engine(bundle, "onnxruntime", "cpu") as engine:
            right = (engine.run(pixels).argmax(axis=1) == truths).sum()
        assert float(rows[name]["value"]) == pytest.approx(100 * right / len(truths)), name
        assert variant.remark.startswith("openvino "), "the engine and its arithmetic"
    assert [path.name for path in (out / "runs").iterdir()] == ["base-0"], "one training for all"


def test_a_wrong_graph_and_a_refused_one_show_in_the_result(
    tmp_path: Path, painted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FP32 answers correctly, the proof of FP16 fails, and INT8 answers wrongly."""

    def export(weights: object, out: Path, request: ExportRequest) -> str:
        if request.precision == "fp16":
            raise ParityError("nothing was published: the graph disagrees")
        return request.precision

    def open_graph(bundle: str, *options: object) -> object:
        def run(images: np.ndarray) -> np.ndarray:
            # Labels are blue, green, red: the channels in reverse.
            strongest = 2 - images.mean(axis=(1, 2)).argmax(axis=1)
            return np.eye(3)[(strongest + (bundle == "int8")) % 3]

        info = SimpleNamespace(backend="written", version="1", arithmetic=bundle)
        return nullcontext(SimpleNamespace(run=run, info=info))

    monkeypatch.setattr(scores, "export", export)
    monkeypatch.setattr(scores, "open_engine", open_graph)
    found = studied(tmp_path, painted)
    base, *others = found.result.variants
    assert [variant.values for variant in others] == [(100.0, 100.0), (), (0.0, 0.0)]
    assert [variant.remark for variant in others] == [
        "written 1, fp32",
        "not exported: nothing was published: the graph disagrees",
        "written 1, int8",
    ]
    fp32, fp16, int8 = others
    assert fp32.comparison is not None
    assert fp32.comparison.mean == pytest.approx(100 - base.ten.mean)
    assert (fp16.comparison, fp16.outcome) == (None, "undecided")
    assert int8.comparison is not None
    assert int8.comparison.mean == pytest.approx(-base.ten.mean)
    assert table(tmp_path / "out")["fp16"]["value"] == ""
