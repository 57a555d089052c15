"""benchmarks/gpu.py: a part that fails is a record, the others run, and a run that is stopped leaves what it has."""

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT)
    return importlib.import_module("benchmarks.gpu")


def run(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, out: Path, *parts: str) -> object:
    words = [word for part in parts for word in ("--part", part)]
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--device", "cpu", "--arch", "tiny", *words, "--out", str(out)])
    with pytest.raises(SystemExit) as leaving:
        gpu.main()
    return leaving.value.code


def parts_in(out: Path) -> dict[str, Any]:
    parts: dict[str, Any] = json.loads(out.read_text())["parts"]
    return parts


def test_a_part_that_fails_is_recorded_and_the_next_one_runs(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "gpu.json"
    # No part has trained, so there are no weights.
    assert run(gpu, monkeypatch, out, "torch", "processes") == 1
    found = parts_in(out)
    assert found["torch"]["failed"].startswith("WeightsError: ")
    assert found["processes"]["result"].startswith("not run: two GPUs are needed")


def test_a_run_that_is_stopped_leaves_the_parts_that_were_done(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "gpu.json"

    def stopped(work: object) -> object:
        raise SystemExit(143)

    monkeypatch.setattr(gpu, "PARTS", {"first": lambda work: "done", "second": stopped})
    assert run(gpu, monkeypatch, out, "first", "second") == 143
    assert parts_in(out)["first"]["result"] == "done"
