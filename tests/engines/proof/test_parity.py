from dataclasses import replace

import numpy as np
import pytest
from standing_in import engine_info

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.bundle.manifest import ParityRow
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.golden.record import Tolerance
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.engines.proof.parity import (
    INT8_TIE,
    compare,
    divergences,
    prove,
    same_prediction,
    separation,
    shortfalls,
)
from alexnet_deploy.engines.proof.tolerances import TOLERANCES, candidate_tolerance, int8_graph_tolerance

INFO = engine_info()


class Fixed:
    """A runner that returns the given output."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities = probabilities

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.probabilities[: len(images)]

    def close(self) -> None:
        self.probabilities = np.empty(0)


def engine(probabilities: np.ndarray, precision: Precision = "fp32") -> Engine:
    info = replace(INFO, precision=precision)
    return Engine(
        [Fixed(probabilities)], info, name="a graph", output=Output(size=probabilities.shape[1]), max_batch=100
    )


def row(
    expected: np.ndarray, actual: np.ndarray, precision: Precision = "fp32", tolerance: Tolerance | None = None
) -> ParityRow:
    return compare(expected, actual, engine(actual, precision), "given", tolerance=tolerance)


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
    assert "1 of 6 rows contain NaN or infinity" in found.failures
    assert any("probability is off by" in failure for failure in found.failures)


def test_nan_everywhere_fails_every_gate() -> None:
    found = row(distribution(), np.full((6, 10), np.nan, np.float32))
    assert len(found.failures) >= 3


@pytest.mark.parametrize(("shift", "passes"), [(9e-6, True), (1.1e-5, False)])
def test_probability_gate_stands_at_its_tolerance(shift: float, passes: bool) -> None:
    expected = np.full((2, 2), 0.5)
    actual = expected + np.array([shift, -shift])
    tolerance = Tolerance(probability=1e-5, log_probability=1.0, top1_agreement=0.0)
    assert row(expected, actual, tolerance=tolerance).passed is passes


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
    expected, actual = np.array([[0.6, 0.4], [0.2, 0.8]] * 10), np.array([[0.4, 0.6], [0.2, 0.8]] * 10)
    loose = Tolerance(probability=1.0, log_probability=10.0, top1_agreement=0.9)
    found = row(expected, actual, tolerance=loose)
    assert found.top1_agreement == 0.5
    assert found.failures == ("top-1 agreement is 50.00%, under 90.00%",)


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


@pytest.mark.parametrize("num_views", [1, 10])
def test_engine_near_its_graph_cannot_leave_the_network_s_tolerance(num_views: int) -> None:
    """The tolerances of the graph and of the engine add up to that of int8, for either number of views."""
    candidate, own = candidate_tolerance(num_views, Output(size=4)), int8_graph_tolerance(num_views)
    assert isinstance(candidate, Tolerance)
    assert candidate.probability + own.probability == pytest.approx(TOLERANCES["int8"].probability)
    assert candidate.log_probability + own.log_probability == pytest.approx(TOLERANCES["int8"].log_probability)
    assert min(candidate.probability, candidate.log_probability) > 0


def test_near_ties_are_one_guess_by_as_much_as_is_said() -> None:
    expected = np.array([[0.50, 0.49, 0.01]] * 8, np.float32)
    flipped = expected[:, [1, 0, 2]]
    lax = Tolerance(probability=1.0, log_probability=10.0, top1_agreement=1.0)
    assert shortfalls(expected, flipped, lax) == ("top-1 agreement is 0.00%, under 100.00%",)
    assert shortfalls(expected, flipped, lax, INT8_TIE) == ()
    far = np.array([[0.52, 0.47, 0.01]] * 8, np.float32)
    assert shortfalls(far, far[:, [1, 0, 2]], lax, INT8_TIE) != ()


@pytest.mark.parametrize("num_images", [*range(8, 101), 171, 219, 399])
def test_one_image_may_differ_whatever_the_number_of_images(num_images: int) -> None:
    lax = Tolerance(probability=1.0, log_probability=100.0, top1_agreement=0.99)
    expected = np.tile([0.7, 0.2, 0.1], (num_images, 1))
    actual = expected.copy()
    actual[3] = expected[3, ::-1]
    assert shortfalls(expected, actual, lax) == ()
    if num_images < 100:
        actual[5] = expected[5, ::-1]
        share = f"{(num_images - 2) / num_images:.2%}"
        assert shortfalls(expected, actual, lax) == (f"top-1 agreement is {share}, under 99.00%",)


def test_fewer_than_eight_images_must_all_agree() -> None:
    lax = Tolerance(probability=1.0, log_probability=100.0, top1_agreement=0.99)
    expected = np.tile([0.7, 0.2, 0.1], (7, 1))
    actual = expected.copy()
    actual[3] = expected[3, ::-1]
    assert shortfalls(expected, actual, lax) == ("top-1 agreement is 85.71%, under 99.00%",)


def test_separation_is_the_larger_of_both_errors_in_tolerances() -> None:
    expected, faulty = np.array([[0.5, 0.5]]), np.array([[0.6, 0.4]])
    in_probability = Tolerance(probability=0.01, log_probability=100.0, top1_agreement=1.0)
    in_logs = Tolerance(probability=100.0, log_probability=0.01, top1_agreement=1.0)
    assert separation(expected, faulty, in_probability) == pytest.approx(10.0)
    assert separation(expected, faulty, in_logs) == pytest.approx(100 * np.log(0.5 / 0.4))
    assert separation(expected, expected, in_logs) == 0.0


def test_proof_is_of_the_golden_images_in_their_order(bundle: Bundle) -> None:
    expected = bundle.read_tensor(bundle.manifest.golden.probabilities)
    assert [row.passed for row in prove(engine(expected), bundle)] == [True]
    assert [row.passed for row in prove(engine(expected[::-1].copy()), bundle)] == [False]


@pytest.mark.parametrize("precision", TOLERANCES)
def test_tolerance_is_that_of_the_graph_that_the_engine_runs(precision: Precision) -> None:
    limit = TOLERANCES[precision].probability
    expected = np.array([[0.7, 0.3]])
    assert row(expected, expected + 0.9 * limit * np.array([1, -1]), precision).passed
    failed = row(expected, expected + 1.1 * limit * np.array([1, -1]), precision)
    assert failed.precision == precision
    assert f"a probability is off by {1.1 * limit:.3g}, over {limit:g}" in failed.failures


def test_accuracy_is_of_the_engine_s_own_first_guesses() -> None:
    expected = np.array([[0.6, 0.4], [0.2, 0.8], [0.9, 0.1]])
    actual = np.array([[0.4, 0.6], [0.2, 0.8], [0.9, 0.1]])
    truths = np.array([1, 1, 1])
    given = compare(expected, actual, engine(actual), "given", truths=truths)
    assert given.top1_accuracy == pytest.approx(2 / 3)
    assert row(expected, actual).top1_accuracy is None
    assert row(expected, actual).latency_ms is None


def test_divergence_is_that_of_the_formula_and_of_nothing_is_nothing() -> None:
    wanted, found = distribution(seed=1), distribution(seed=2)
    by_hand = [
        sum(p * np.log(p / q) for p, q in zip(one, other, strict=True))
        for one, other in zip(wanted, found, strict=True)
    ]
    np.testing.assert_allclose(divergences(wanted, found), by_hand, rtol=1e-5)
    assert row(wanted, found).kl_divergence == pytest.approx(np.mean(by_hand), rel=1e-5)
    assert divergences(wanted, wanted).tolist() == [0.0] * len(wanted)
    # A class with probability 0 in the reference costs nothing; 0 in the candidate costs much, but is finite.
    np.testing.assert_allclose(divergences(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]])), [np.log(2)])
    assert 10 < divergences(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]))[0] < 100


def test_first_guess_is_the_same_where_the_reference_ties() -> None:
    reference = np.array([[0.5, 0.3, 0.2], [0.400004, 0.4, 0.199996], [0.5, 0.3, 0.2]])
    candidate = np.array([[0.4, 0.35, 0.25], [0.39, 0.41, 0.2], [0.3, 0.5, 0.2]])
    assert same_prediction(reference, candidate).tolist() == [True, True, False]


def test_proof_is_timed(bundle: Bundle) -> None:
    expected = bundle.read_tensor(bundle.manifest.golden.probabilities)
    (row,) = prove(engine(expected), bundle)
    assert row.latency_ms is not None
    assert row.latency_ms > 0


def test_int8_engine_is_held_against_the_network_and_against_its_graph(
    int8_shipment: tuple[LoadedWeights, Bundle],
) -> None:
    _, bundle = int8_shipment
    golden = bundle.manifest.golden
    assert golden.graph is not None
    network, own = (bundle.read_tensor(file) for file in (golden.probabilities, golden.graph.probabilities))
    assert np.abs(network - own).max() > 1e-4, "int8 shows"
    for actual, errors in ((network, (0.0, None)), (own, (None, 0.0))):
        rows = prove(engine(actual, "int8"), bundle)
        assert [row.against for row in rows] == ["network", "graph"]
        for row, error in zip(rows, errors, strict=True):
            assert error is None or row.max_error == error
    # Rounding may move a graph further from the network than an engine may be from its graph: this engine fails.
    between = 2 * int8_graph_tolerance(10).probability
    surest = own.max(axis=1).argmax()
    *_, second, first = np.argsort(own[surest])
    other = own.copy()
    other[surest, first] -= between
    other[surest, second] += between
    assert [row.passed for row in prove(engine(other, "int8"), bundle)] == [True, False]


def test_where_any_first_guess_may_differ_one_may() -> None:
    """99 % of eight images would be all of them, and one near tie would fail."""
    loose = Tolerance(probability=1.0, log_probability=10.0, top1_agreement=0.99)
    cases = ((8, 1, True), (8, 2, False), (8, 8, False), (100, 1, True), (100, 2, False), (1000, 10, True))
    for number, num_flipped, passes in (*cases, (1000, 11, False)):
        expected = np.tile([0.6, 0.4], (number, 1))
        actual = expected.copy()
        actual[:num_flipped] = [0.4, 0.6]
        found = compare(expected, actual, engine(actual, "int8"), "given", tolerance=loose)
        assert found.passed is passes, (number, num_flipped)
    # A tolerance of 100 % requires all images to agree, for any number of images.
    flipped = np.array([[0.4, 0.6]])
    strict = Tolerance(probability=1.0, log_probability=10.0, top1_agreement=1.0)
    assert not compare(flipped[:, ::-1], flipped, engine(flipped), "given", tolerance=strict).passed
