import numpy as np
import pytest

from alexnet_deploy.core.bundle import Bundle
from alexnet_deploy.core.manifest import ParityRow, Tolerance
from alexnet_deploy.engines.engine import Engine, EngineInfo
from alexnet_deploy.engines.parity import TOLERANCES, compare, prove, separation

FP32 = TOLERANCES["fp32"]
INFO = EngineInfo(
    backend="a backend",
    version="1",
    device="cpu",
    precision="fp32",
    arithmetic="float32",
    num_threads=1,
    bundle_sha256=None,
)


class Fixed:
    """An engine's inside that answers with what it was given."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities = probabilities

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.probabilities[: len(images)]

    def close(self) -> None:
        self.probabilities = np.empty(0)


def engine(probabilities: np.ndarray) -> Engine:
    return Engine(Fixed(probabilities), INFO, num_classes=probabilities.shape[1], max_batch=100)


def row(expected: np.ndarray, actual: np.ndarray, tolerance: Tolerance = FP32) -> ParityRow:
    return compare(expected, actual, engine(actual), tolerance, "given")


def distribution(num_images: int = 6, num_classes: int = 10, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(num_classes), num_images).astype(np.float32)


def test_equal_answers_pass_with_no_error() -> None:
    found = row(distribution(), distribution())
    assert found.passed
    assert (found.max_error, found.p99_error, found.max_log_error) == (0.0, 0.0, 0.0)
    assert (found.top1_agreement, found.top5_agreement, found.num_images) == (1.0, 1.0, 6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_single_nan_fails(value: float) -> None:
    actual = distribution()
    actual[3, 3] = value
    found = row(distribution(), actual)
    assert not found.passed
    assert "1 of 6 rows hold NaN" in found.failures
    assert any("probability is off by" in failure for failure in found.failures)


def test_nan_everywhere_fails_every_gate() -> None:
    found = row(distribution(), np.full((6, 10), np.nan, np.float32))
    assert len(found.failures) >= 3


@pytest.mark.parametrize(("shift", "passes"), [(9e-6, True), (1.1e-5, False)])
def test_probability_gate_stands_at_its_tolerance(shift: float, passes: bool) -> None:
    expected = np.full((2, 2), 0.5)
    actual = expected + np.array([shift, -shift])
    tolerance = Tolerance(probability=1e-5, log_probability=1.0, top1_agreement=0.0)
    assert row(expected, actual, tolerance).passed is passes


def test_log_gate_sees_what_a_saturated_softmax_hides() -> None:
    expected = np.array([[1.0 - 1e-12, 1e-12]])
    actual = np.array([[1.0 - 2e-12, 2e-12]])
    found = row(expected, actual)
    assert found.max_error < 1e-11
    assert found.max_log_error == pytest.approx(np.log(2), rel=1e-3)
    assert [failure.split(" is off")[0] for failure in found.failures] == ["a log-probability"]


def test_probabilities_under_the_floor_are_alike() -> None:
    found = row(np.array([[1.0, 1e-38]]), np.array([[1.0, 0.0]]))
    assert found.passed


def test_flipped_first_guess_fails() -> None:
    expected, actual = np.array([[0.6, 0.4], [0.2, 0.8]]), np.array([[0.4, 0.6], [0.2, 0.8]])
    loose = Tolerance(probability=1.0, log_probability=10.0, top1_agreement=0.9)
    found = row(expected, actual, loose)
    assert found.top1_agreement == 0.5
    assert found.failures == ("50.00% have the same first guess, under 90.00%",)


def test_two_classes_that_tie_are_one_guess() -> None:
    expected, actual = np.array([[0.5 + 2e-6, 0.5 - 2e-6]]), np.array([[0.5 - 2e-6, 0.5 + 2e-6]])
    assert row(expected, actual).top1_agreement == 1.0


def test_first_five_are_compared_as_sets() -> None:
    expected = np.array([[0.30, 0.20, 0.15, 0.12, 0.10, 0.08, 0.05]])
    assert row(expected, expected[:, [1, 0, 3, 2, 4, 5, 6]]).top5_agreement == 1.0
    assert row(expected, expected[:, [6, 1, 2, 3, 4, 5, 0]]).top5_agreement == pytest.approx(0.8)


def test_errors_are_taken_in_float64() -> None:
    expected = np.array([[0.75, 0.25]], dtype=np.float32)
    actual = np.nextafter(expected, 1, dtype=np.float32)
    assert row(expected, actual).max_error == pytest.approx(2.0**-24, rel=1e-6)


def test_separation_is_the_larger_of_both_errors_in_tolerances() -> None:
    expected, faulty = np.array([[0.5, 0.5]]), np.array([[0.6, 0.4]])
    in_probability = Tolerance(probability=0.01, log_probability=100.0, top1_agreement=1.0)
    in_logs = Tolerance(probability=100.0, log_probability=0.01, top1_agreement=1.0)
    assert separation(expected, faulty, in_probability) == pytest.approx(10.0)
    assert separation(expected, faulty, in_logs) == pytest.approx(100 * np.log(0.5 / 0.4))
    assert separation(expected, expected, in_logs) == 0.0


def test_proof_is_of_the_golden_pictures_in_their_order(bundle: Bundle) -> None:
    expected = bundle.read_tensor(bundle.manifest.golden.probabilities)
    assert prove(engine(expected), bundle).passed
    assert not prove(engine(expected[::-1].copy()), bundle).passed
