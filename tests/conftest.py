import io
import shutil
import sys
from pathlib import Path

import pytest
from commands import Outcome, Run
from networks import narrowed, separating_weights, shipped

from alexnet_deploy import cli
from alexnet_deploy.core.bundle import Bundle
from alexnet_deploy.core.drawing import DRAWN_CLASSES, draw_folder, draw_picture
from alexnet_deploy.core.family import ARCHITECTURES
from alexnet_deploy.core.weights import LoadedWeights, Weights


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The authors' own structure, narrow: LRN within columns, a spatial norm, uneven padding."""
    return separating_weights(narrowed(ARCHITECTURES["original"]))


@pytest.fixture(scope="session")
def shipment(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    return shipped(weights, tmp_path_factory.mktemp("shipment"))


@pytest.fixture(scope="session")
def loaded(shipment: tuple[LoadedWeights, Bundle]) -> LoadedWeights:
    return shipment[0]


@pytest.fixture(scope="session")
def bundle(shipment: tuple[LoadedWeights, Bundle]) -> Bundle:
    """A published bundle; tests that change one make a copy."""
    return shipment[1]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn pictures, a.jpg to l.jpg."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(12):
        thing = DRAWN_CLASSES[number % len(DRAWN_CLASSES)]
        draw_picture(thing, 500 + number).save(folder / f"{'abcdefghijkl'[number]}.jpg", quality=90)
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The program itself, in an empty directory, in this process."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["alexnet-deploy", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        return Outcome(code=left.value.code or 0, out=captured.out, err=captured.err)

    return run


@pytest.fixture
def latest(bundle: Bundle, tmp_path: Path) -> Path:
    """The bundle, where `export` would have put it."""
    target = tmp_path / "bundles/tiny.bundle"
    shutil.copytree(bundle.path, target)
    target.with_name("latest").write_text("tiny.bundle\n")
    return target


@pytest.fixture
def run_directory(loaded: LoadedWeights, tmp_path: Path) -> Path:
    """The weights, where `train` would have put them."""
    target = tmp_path / "runs/tiny"
    target.mkdir(parents=True)
    shutil.copy(loaded.path, target / "weights.safetensors")
    target.with_name("latest").write_text("tiny\n")
    return target


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A labelled folder of twelve drawn pictures."""
    draw_folder(tmp_path / "data", num_train=2, num_validation=1)
    return tmp_path / "data"
