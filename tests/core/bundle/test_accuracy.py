import msgspec
import pytest

from alexnet_deploy.core.bundle.accuracy import Accuracy, Gate, share_interval


def test_a_gate_has_exactly_one_measurement() -> None:
    gate = Gate.by(0.75, {"conv1": 0.5}, ())
    assert (gate.accuracy, gate.calibration_agreement, gate.measured) == (None, 0.75, 0.75)
    with pytest.raises(ValueError, match="a gate has either accuracy or calibration_agreement"):
        msgspec.structs.replace(gate, calibration_agreement=None)
    with pytest.raises(msgspec.ValidationError, match="either accuracy or calibration_agreement"):
        msgspec.convert({**msgspec.to_builtins(gate), "calibration_agreement": None}, Gate)


@pytest.mark.parametrize(
    ("num_right", "num_images", "interval"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
        (29, 29, (0.8830, 1.0)),
    ],
)
def test_intervals_are_the_published_ones(num_right: int, num_images: int, interval: tuple[float, float]) -> None:
    assert share_interval(num_right, num_images) == pytest.approx(interval, abs=6e-5)


def accuracy(drop: float) -> Accuracy:
    shares = {"reference_top1": 0.5, "reference_top5": 0.75, "candidate_top1": 0.5, "candidate_top5": 0.75}
    return Accuracy(
        images_sha256="0" * 64,
        num_images=4,
        drop_points=drop,
        interval_points=(-1.0, 1.0),
        max_drop_points=0.5,
        flips=(),
        **shares,
    )


@pytest.mark.parametrize(("drop", "passed"), [(-1.0, True), (0.5, True), (0.5000001, False), (float("nan"), False)])
def test_a_drop_passes_up_to_the_allowed_one(drop: float, passed: bool) -> None:
    measured = accuracy(drop)
    assert measured.passed is passed
    gate = Gate.by(measured, {}, ())
    assert (gate.accuracy, gate.calibration_agreement, gate.measured) == (measured, None, measured)
    assert "pictures_sha256" in msgspec.to_builtins(measured)
