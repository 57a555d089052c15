import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import Run
from odd_files import refuse_listing
from PIL import Image

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.engines.backends.runner import StageTimes
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.engines.registry import BACKENDS
from alexnet_deploy.pipeline.bench import DRAWN_SIZE, STAGES, bench


@pytest.fixture
def bundle(center_bundle: Bundle) -> Bundle:
    return center_bundle


def test_each_part_is_timed_on_each_engine(run: Run, latest: Path, bundle: Bundle) -> None:
    outcome = run("bench", "--json", "--seconds", 0.2, "--batch-size", 1, "--batch-size", 3)
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert (result["bundle_sha256"], result["precision"], result["views"]) == (bundle.sha256, "fp32", "center")
    assert result["images"] == f"64 drawn, {DRAWN_SIZE[0]} x {DRAWN_SIZE[1]}, JPEG of quality 90"
    assert [timing["stage"] for timing in result["decoding"]] == ["decode", "resize"]
    assert [engine["backend"] for engine in result["engines"]] == list(BACKENDS)
    for engine in result["engines"]:
        assert engine["batch_size"] == 40
        found = [(timing["stage"], timing["batch"]) for timing in engine["stages"]]
        assert found == [("compute", 1), ("compute", 3), ("compute", 40), ("whole", 1)]
        assert engine["open_ms"] > 0
        assert engine["first_ms"] > 0
        assert engine["images_per_second"] > 0
        assert 0 <= engine["engine_idle"] < 1
    for timing in (*result["decoding"], *(timing for engine in result["engines"] for timing in engine["stages"])):
        assert timing["num_runs"] >= 20
        assert timing["p50_ms"] > 0
        # A percentile is claimed from as many runs as the rule of early stopping asks for.
        for name, needed in (("p95_ms", 130), ("p99_ms", 662)):
            assert (timing[name] is None) == (timing["num_runs"] < needed)
            assert timing[name] is None or timing[name] >= timing["p50_ms"]


def test_people_are_told_what_a_figure_includes(run: Run, latest: Path, images: Path) -> None:
    outcome = run("bench", latest, "--backend", "onnxruntime", "--data", images, "--seconds", 0)
    assert outcome.code == 0, outcome.err
    assert f"images: 12 of {images}, " in outcome.out
    assert re.search(r"^onnxruntime \S+, cpu, float32$", outcome.out, flags=re.MULTILINE)
    assert re.search(
        r"^[\d,.]+ images/s from files to predictions, 1 stream of batch 40; ", outcome.out, flags=re.MULTILINE
    )
    assert "openvino" not in outcome.out
    for stage in ("decode", "resize", "compute", "whole"):
        assert re.search(
            rf"^{stage:<10} {{5}}1 +\d+\.\d\d( +(\d+\.\d\d|-)){{2}} +\d+$", outcome.out, flags=re.MULTILINE
        )
        assert outcome.out.count(f"\n{stage:<10} {STAGES[stage]}\n") == 1
    # The CPU has no device memory, so upload and download are not reported.
    assert "upload" not in outcome.out


def test_stages_are_explained_in_the_order_that_they_are_timed_in(
    run: Run, latest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a device with its own memory, which has all stages.
    times = StageTimes(upload_ms=1.0, compute_ms=2.0, download_ms=1.0)
    monkeypatch.setattr(Engine, "time_stages", lambda *_: times)
    outcome = run("bench", latest, "--backend", "onnxruntime", "--seconds", 0)
    assert outcome.code == 0, outcome.err
    _, table, legend = outcome.out.split("\n\n")
    timed = re.findall(rf"^(?:[\d,.]+ )?({'|'.join(STAGES)})\b", table, flags=re.MULTILINE)
    assert list(dict.fromkeys(timed)) == list(STAGES)
    assert [line[:10].rstrip() for line in legend.splitlines()] == [*STAGES, "p95, p99"]


def test_what_cannot_be_read_is_not_timed_with(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("Dear reader")
    with pytest.raises(UsageError, match="nowhere: there is no such file or folder"):
        bench(bundle, data=tmp_path / "nowhere")
    with pytest.raises(DataError, match="none of its first 64 files is a readable image"):
        bench(bundle, data=tmp_path)
    Image.fromarray(np.zeros((20, 20, 3), dtype=np.uint8)).save(tmp_path / "z.png")
    result = bench(bundle, data=tmp_path, backends=["openvino"], seconds=0)
    assert result.images == f"1 of {tmp_path}"
    assert result.mean_bytes == (tmp_path / "z.png").stat().st_size


def test_a_folder_that_cannot_be_listed_is_named(
    bundle: Bundle, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(images, tmp_path / "mixed/locked")
    shutil.copy(images / "a.jpg", tmp_path / "mixed")
    refuse_listing(monkeypatch, tmp_path / "mixed/locked")
    with pytest.raises(DataError, match=r"mixed/locked: cannot be read: Permission denied$"):
        bench(bundle, data=tmp_path / "mixed", seconds=0)
