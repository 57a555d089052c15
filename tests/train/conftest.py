import pytest
from training import BLUE, RED, Run, paint, trained

from alexnet_deploy.core.images.drawing import draw_image
from alexnet_deploy.core.model.preprocessing import SHORTER_SIDE
from alexnet_deploy.train.data.scan import Survey
from alexnet_deploy.train.run import look_over


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """Ten red and blue training images."""
    return look_over(paint(tmp_path_factory.mktemp("honest"), {"blue": (BLUE,), "red": (RED,)}), SHORTER_SIDE)


@pytest.fixture(scope="module")
def contrary(tmp_path_factory: pytest.TempPathFactory) -> Survey:
    """The same with the validation classes exchanged: training makes every prediction wrong."""
    return look_over(
        paint(tmp_path_factory.mktemp("contrary"), {"blue": (BLUE, RED), "red": (RED, BLUE)}), SHORTER_SIDE
    )


@pytest.fixture(scope="module")
def plain(honest: Survey, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two epochs of three steps each; the second is better."""
    run = trained(honest, tmp_path_factory.mktemp("plain") / "run", learning_rate=0.02)
    assert run.epochs[1].validation_top1 > run.epochs[0].validation_top1
    return run


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that learns to distinguish two drawn classes."""
    root = tmp_path_factory.mktemp("learnt")
    for thing in ("hot-air balloon", "mountain bike"):
        for side, numbers in (("train", range(20)), ("val", range(20, 28))):
            (root / "drawn" / side / thing).mkdir(parents=True)
            for number in numbers:
                draw_image(thing, number).save(root / "drawn" / side / thing / f"{number}.jpg", quality=90)
    return trained(look_over(root / "drawn", SHORTER_SIDE), root / "runs/one", epochs=8, batch_size=8, color_noise=0.0)


@pytest.fixture(scope="module")
def misled(contrary: Survey, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose validation metrics only get worse."""
    return trained(contrary, tmp_path_factory.mktemp("misled") / "run", epochs=8, patience=2)
