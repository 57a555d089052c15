"""The whole workflow as a user runs it: three commands in a directory that contains only images."""

import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from types import MappingProxyType

import msgspec
import pytest
from commands import Run
from networks import narrowed

from alexnet_deploy import cli
from alexnet_deploy.core.bundle.store import open_bundle
from alexnet_deploy.core.images import drawing
from alexnet_deploy.core.model import family
from alexnet_deploy.core.model.weights import load_weights
from alexnet_deploy.train import recipe


def test_three_lines_in_an_empty_directory(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Smaller than the default: 16 images instead of 700, one epoch instead of 8, a quarter of the width.
    monkeypatch.setattr(drawing, "draw_folder", partial(drawing.draw_folder, num_train=3, num_validation=1))
    short = msgspec.structs.replace(recipe.recipe_by_name("drawn"), epochs=1)
    monkeypatch.setattr(recipe, "recipe_by_name", {"drawn": short}.__getitem__)
    narrow = narrowed(family.ARCHITECTURES["tiny"], divisor=4)
    monkeypatch.setattr(family, "ARCHITECTURES", MappingProxyType({**family.ARCHITECTURES, "tiny": narrow}))
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        shutil.copy(images / name, "images")

    def enter(line: str) -> tuple[str, list[str]]:
        """Return the command's stdout and its lines on stderr; it must succeed."""
        monkeypatch.setattr(sys, "argv", line.split())
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        assert not left.value.code, captured.err
        return captured.out, captured.err.splitlines()

    path, said = enter("alexnet-deploy train")
    weights = Path(path.removesuffix("\n"))
    assert weights.name == "weights.safetensors"
    assert weights.parent.parent == Path("runs")
    assert weights.parent.name == Path("runs/latest").read_text().strip()
    assert said[0] == "no DATA given: drawing images of 4 classes into drawn/"
    assert said[1] == "drawn: 12 training images, 4 validation images, 4 classes"
    assert re.fullmatch(r"training tiny on \w+, recipe drawn, 1 epoch", said[2])
    assert said[-1] == "next: alexnet-deploy export"

    path, said = enter("alexnet-deploy export --precision fp32")
    bundle = open_bundle(Path(path.removesuffix("\n")))
    assert bundle.path.parent == Path("bundles")
    assert bundle.path.name == Path("bundles/latest").read_text().strip()
    assert bundle.manifest.provenance.weights_sha256 == load_weights(weights).sha256
    assert bundle.manifest.views.name == "ten"
    passed = [row.backend for row in bundle.manifest.parity if row.passed]
    assert passed == ["openvino", "openvino", "onnxruntime", "onnxruntime"]
    assert said[0] == f"no WEIGHTS given: using {weights}"
    assert said[-1] == "next: alexnet-deploy predict images/"

    table, said = enter("alexnet-deploy predict images/")
    assert [line.split()[0] for line in table.splitlines()] == ["images/a.jpg", "images/b.jpg", "images/c.jpg"]
    assert said[0].startswith(f"{bundle.path}, ten views, on ")
    assert said[-1] == "3 predicted"

    answer, said = enter("alexnet-deploy check --json")
    assert json.loads(answer)["passed"] is True
    assert [row["backend"] for row in json.loads(answer)["rows"]] == [
        *("torch", "torch"),
        *("openvino", "openvino"),
        *("onnxruntime", "onnxruntime"),
    ]
    assert said[-2:] == [f"{bundle.path}: passed", "next: alexnet-deploy predict images/"]
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["bundles", "drawn", "images", "runs"]


@pytest.mark.slow
def test_default_network_is_published_in_every_precision(run: Run) -> None:
    """The default sizes of a first run; test_int8.py tests the mechanism."""
    assert run("train").code == 0
    for options in ("fp32", "fp16", "int8", "int8 --views center", "int8 --rest fp16"):
        outcome = run("export", "--precision", *options.split())
        assert outcome.code == 0, outcome.err
        outcome = run("check")
        assert outcome.code == 0, outcome.out
