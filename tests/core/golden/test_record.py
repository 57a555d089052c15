"""Golden vectors hold probabilities or features, never a mixture."""

import msgspec
import pytest
from msgspec import UNSET

from alexnet_deploy.core.golden.record import (
    AnyTolerance,
    FeatureTolerance,
    Golden,
    GoldenFiles,
    GoldenGraph,
    TensorFile,
    Tolerance,
)

OUTPUTS = TensorFile(file="golden/x.f32", dtype="float32", shape=(8, 4))
IMAGES = TensorFile(file="golden/images.u8", dtype="uint8", shape=(8, 256, 256, 3))
OF_PROBABILITIES = Tolerance(probability=1e-5, log_probability=1e-4, top1_agreement=1.0)
OF_FEATURES = FeatureTolerance(error=1e-5, cosine_distance=1e-10)


def golden_of(allowed: AnyTolerance) -> Golden:
    is_features = isinstance(allowed, FeatureTolerance)
    files = GoldenFiles(
        names=("golden/files/a.jpg",),
        pixels=IMAGES,
        probabilities=UNSET if is_features else OUTPUTS,
        features=OUTPUTS if is_features else UNSET,
    )
    graph = GoldenGraph.of(OUTPUTS, allowed)
    return Golden.of(IMAGES, OUTPUTS, allowed, graph=graph, separation={}, files=files)


@pytest.mark.parametrize("allowed", [OF_PROBABILITIES, OF_FEATURES])
def test_each_kind_is_written_under_its_own_names_and_read_back(allowed: AnyTolerance) -> None:
    golden = golden_of(allowed)
    assert golden.has_features == isinstance(allowed, FeatureTolerance)
    assert golden.expected == OUTPUTS
    assert golden.allowed == allowed
    assert golden.graph is not None
    assert (golden.graph.expected, golden.graph.allowed) == (OUTPUTS, allowed)
    record = msgspec.json.decode(msgspec.json.encode(golden))
    own, other = ("features", "probabilities") if golden.has_features else ("probabilities", "features")
    for part in (record, record["graph"], record["files"]):
        assert own in part
        assert other not in part
    assert msgspec.json.decode(msgspec.json.encode(golden), type=Golden) == golden


@pytest.mark.parametrize(
    "changes",
    [
        {"features": OUTPUTS},
        {"probabilities": UNSET},
        {"tolerance": UNSET},
        {"feature_tolerance": OF_FEATURES},
        {"probabilities": UNSET, "features": OUTPUTS},
        {"tolerance": UNSET, "feature_tolerance": OF_FEATURES},
        {"graph": GoldenGraph.of(OUTPUTS, OF_FEATURES)},
        {"files": golden_of(OF_FEATURES).files},
    ],
)
def test_a_mixture_is_refused(changes: dict[str, object]) -> None:
    golden = golden_of(OF_PROBABILITIES)
    with pytest.raises(ValueError, match="golden vectors are either probabilities or features"):
        msgspec.structs.replace(golden, **changes)


def test_outputs_without_their_tolerance_are_refused() -> None:
    with pytest.raises(ValueError, match="with the tolerance of that kind"):
        GoldenGraph(probabilities=OUTPUTS, feature_tolerance=OF_FEATURES)
    with pytest.raises(ValueError, match="with the tolerance of that kind"):
        GoldenFiles(names=("golden/files/a.jpg",), pixels=IMAGES)
