"""Tolerances: how far an engine may be from the trained network, and from its own int8 graph."""

import math
from types import MappingProxyType

from alexnet_deploy.core.bundle.contract import Output
from alexnet_deploy.core.bundle.vocabulary import Precision
from alexnet_deploy.core.golden.record import AnyTolerance, FeatureTolerance, Tolerance

LEAST_INT8_AGREEMENT = 0.99
"""Smallest share of images on which an int8 graph must agree with the trained network."""

TOLERANCES: MappingProxyType[Precision, Tolerance] = MappingProxyType(
    {
        # The same sums in another order. Measured: under 6e-7 and 1.2e-5 on OpenVINO and ONNX Runtime, with the six
        # published architectures at full size and with networks trained on drawn images and on photographs.
        "fp32": Tolerance(probability=1e-5, log_probability=1e-4, top1_agreement=1.0),
        # Eleven bits for every weight and activation. Measured on the same networks, narrow: under 1.1e-3 and 5.3e-3.
        "fp16": Tolerance(probability=5e-3, log_probability=5e-2, top1_agreement=0.998),
        # Eight bits for the input and the weights of every product. Measured: 0.03 and 0.3 on photographs like the
        # calibration images; up to 0.19 and 3.1 on the golden drawings, whose activations exceed those of photographs.
        "int8": Tolerance(probability=0.25, log_probability=4.0, top1_agreement=LEAST_INT8_AGREEMENT),
    }
)
"""Tolerance of each precision against the trained network; the manifest records it."""

_GRAPH_PROBABILITY, _GRAPH_LOG_PROBABILITY = 0.03, 0.3
"""Engines do not round exactly where an int8 graph says. Measured for ten views: 0.007 and 0.06 over the same networks,
0.016 and 0.16 with the other layers in float16, which CPUs compute in float32. One view: 0.047 and 0.20."""


def int8_graph_tolerance(num_views: int) -> Tolerance:
    """Return the tolerance of an engine against its own int8 graph, whose output is the mean over `num_views`.

    Rounding errors of different views are independent: the mean of ten deviates a third as far as one view.
    """
    wider = math.sqrt(10 / num_views)
    return Tolerance(
        probability=_GRAPH_PROBABILITY * wider,
        log_probability=_GRAPH_LOG_PROBABILITY * wider,
        top1_agreement=LEAST_INT8_AGREEMENT,
    )


FEATURE_TOLERANCES: MappingProxyType[Precision, FeatureTolerance] = MappingProxyType(
    {
        # Measured for pool5 to relu7 of the six published architectures, narrow, of one trained on photographs, and of
        # one at full size: under 1.7e-6 and 1e-13.
        "fp32": FeatureTolerance(error=1e-5, cosine_distance=1e-10),
        # Under 9e-4 and 5e-7.
        "fp16": FeatureTolerance(error=5e-3, cosine_distance=1e-5),
        # Under 0.11 and 0.006 on photographs; up to 0.42 and 0.04 on the golden drawings.
        "int8": FeatureTolerance(error=0.5, cosine_distance=0.1),
    }
)
"""The same for the features of a layer."""

_GRAPH_FEATURES = FeatureTolerance(error=0.03, cosine_distance=1e-3)
"""An engine against its int8 graph, for ten views. Measured over the same networks: 0.012 and 4.6e-4; for one view
0.026 and 1.9e-3."""

INT8_COSINE_DISTANCE = 0.02
"""Largest cosine distance at which the features of an image agree, on images like the calibration images: three times
the largest that was measured."""


def tolerance_of(precision: Precision, output: Output) -> AnyTolerance:
    """Return the tolerance of an engine of this precision against the trained network."""
    return TOLERANCES[precision] if output.layer is None else FEATURE_TOLERANCES[precision]


def engine_tolerance(precision: Precision, num_views: int, output: Output) -> AnyTolerance:
    """Return the tolerance between two engines of one graph, or between an engine and the graph's definition."""
    if precision != "int8":
        return tolerance_of(precision, output)
    if output.layer is None:
        return int8_graph_tolerance(num_views)
    wider = math.sqrt(10 / num_views)
    return FeatureTolerance(
        error=_GRAPH_FEATURES.error * wider, cosine_distance=_GRAPH_FEATURES.cosine_distance * wider**2
    )


def candidate_tolerance(num_views: int, output: Output) -> AnyTolerance:
    """Return the tolerance of an int8 graph's exact output against the trained network, required for publication.

    It is the tolerance of int8 minus that of an engine against its graph: an engine that agrees with such a graph
    agrees with the network too, on any CPU.
    """
    allowed, of_engine = tolerance_of("int8", output), engine_tolerance("int8", num_views, output)
    if isinstance(allowed, FeatureTolerance):
        assert isinstance(of_engine, FeatureTolerance), "both are for the same output"
        return FeatureTolerance(
            error=allowed.error - of_engine.error,
            cosine_distance=(math.sqrt(allowed.cosine_distance) - math.sqrt(of_engine.cosine_distance)) ** 2,
        )
    assert isinstance(of_engine, Tolerance), "both are for the same output"
    return Tolerance(
        probability=allowed.probability - of_engine.probability,
        log_probability=allowed.log_probability - of_engine.log_probability,
        top1_agreement=allowed.top1_agreement,
    )
