import io
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from commands import Outcome, Run
from hypothesis import HealthCheck, settings
from networks import fitted, narrowed, separating_weights, shipped
from proofs import made_once, short_proofs, whole_proofs

from alexnet_deploy import cli
from alexnet_deploy.core.bundle.store import Bundle, open_bundle
from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_folder, draw_image
from alexnet_deploy.core.model.family import ARCHITECTURES
from alexnet_deploy.core.model.views import ViewsName
from alexnet_deploy.core.model.weights import LoadedWeights, Weights, load_weights
from alexnet_deploy.pipeline.export import ExportRequest, export
from alexnet_deploy.pipeline.int8.calibration import Int8Request

# A law that was tried slowly holds all the same.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure() -> None:
    settings.load_profile("any machine")
    # A shell's background jobs ignore SIGINT, nohup's SIGHUP, and hand that down to the processes of tests.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def proofs_are_short() -> Iterator[None]:
    """Exports within tests have a short proof; those of other processes, and most that tests share, the whole one."""
    with short_proofs():
        yield


@pytest.fixture
def whole_proof() -> Iterator[None]:
    """For tests about the proof itself, and for those whose subject all golden images are needed to see."""
    with whole_proofs():
        yield


def shipped_once(
    factory: pytest.TempPathFactory,
    name: str,
    weights: Weights,
    proofs: Callable[[], AbstractContextManager[None]] = whole_proofs,
    **options: object,
) -> tuple[LoadedWeights, Bundle]:
    folder = made_once(factory, name, lambda folder: shipped(weights, folder, **options), proofs)
    return load_weights(folder / "weights.safetensors"), open_bundle(folder / "a.bundle")


def short_export(factory: pytest.TempPathFactory, loaded: LoadedWeights, views: ViewsName) -> Bundle:
    request = ExportRequest(views=views)
    folder = made_once(
        factory, f"short_{views}", lambda folder: export(loaded, folder / "a.bundle", request), short_proofs
    )
    return open_bundle(folder / "a.bundle")


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The authors' own structure, narrow: LRN within columns, a spatial norm, uneven padding."""
    return separating_weights(narrowed(ARCHITECTURES["original"]))


@pytest.fixture(scope="session")
def shipment(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    return shipped_once(tmp_path_factory, "fp32", weights)


@pytest.fixture(scope="session")
def loaded(shipment: tuple[LoadedWeights, Bundle]) -> LoadedWeights:
    return shipment[0]


@pytest.fixture(scope="session")
def bundle(shipment: tuple[LoadedWeights, Bundle]) -> Bundle:
    """A published bundle; tests that change one make a copy."""
    return shipment[1]


@pytest.fixture(scope="session")
def short_bundle(loaded: LoadedWeights, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same with a short proof, for tests that check or serve it as a means."""
    return short_export(tmp_path_factory, loaded, "ten")


@pytest.fixture(scope="session")
def center_bundle(loaded: LoadedWeights, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same of one view, for tests that time it."""
    return short_export(tmp_path_factory, loaded, "center")


@pytest.fixture(scope="session")
def features_bundle(loaded: LoadedWeights, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A published bundle of the same network, which returns features of fc7."""
    folder = made_once(
        tmp_path_factory,
        "features",
        lambda folder: export(loaded, folder / "fc7.bundle", ExportRequest(output_layer="fc7")),
    )
    return open_bundle(folder / "fc7.bundle")


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve drawn images, a.jpg to l.jpg."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(12):
        thing = DRAWN_CLASSES[number % len(DRAWN_CLASSES)]
        draw_image(thing, 500 + number).save(folder / f"{'abcdefghijkl'[number]}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled folder to train, calibrate and measure on: 16 images in train/, 8 in val/; tests change none."""
    folder = made_once(
        tmp_path_factory, "drawn", lambda folder: draw_folder(folder / "drawn", num_train=4, num_validation=2)
    )
    return folder / "drawn"


@pytest.fixture(scope="session")
def sure(drawn: Path) -> Weights:
    """A narrow network of the paper's that is sure of the drawn training images, and says that it learnt on them."""
    return fitted(narrowed(ARCHITECTURES["paper"]), drawn)


@pytest.fixture(scope="session")
def int8_shipment(sure: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    """It in int8, calibrated on what it learnt on."""
    return shipped_once(tmp_path_factory, "int8", sure, precision="int8")


@pytest.fixture(scope="session")
def short_int8_shipment(sure: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    """The same with a short proof."""
    return shipped_once(tmp_path_factory, "short_int8", sure, short_proofs, precision="int8")


@pytest.fixture(scope="session")
def half_int8_shipment(sure: Weights, tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedWeights, Bundle]:
    """It in int8, and in float16 where it is not in int8."""
    return shipped_once(tmp_path_factory, "half_int8", sure, precision="int8", int8=Int8Request(rest="fp16"))


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
    """A labelled folder of twelve drawn images."""
    draw_folder(tmp_path / "data", num_train=2, num_validation=1)
    return tmp_path / "data"
