"""Bundles with valid digests and one fault, for tests of fault detection."""

from pathlib import Path

from networks import republished

from alexnet_deploy.core.bundle.contract import Subject
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.model.weights import LoadedWeights
from alexnet_deploy.engines.engine import Engine, GraphSource, open_graph
from alexnet_deploy.engines.proof.faults import planted_faults
from alexnet_deploy.engines.registry import GraphBackend
from alexnet_deploy.export.graph import build_graph, encode_graph, facts_for_graph

# What `check` reports for each: the results always fail, and the audit names the place.
NAMED_BY_THE_AUDIT = {
    "LRN alpha times 5": "norm1: alpha is 0.0005",
    "red and blue swapped": "reorder_channels: a Gather that the table does not have",
    "mean dropped": "mean: is 0.0 at (0, 0, 0, 0)",
    "crop off by one": "view0.start: is 1 at (1,)",
    "mirror forgotten": "pixels_mirrored: the table's Gather is not in the graph",
    "one view doubled, another missing": "view1.start: is 0 at (1,)",
    "first grouped convolution ungrouped": "conv2: group is 1, the table says 2",
    "first linear layer fed channels last": "fc6.weight: is",
}


def faulty_bundle(bundle: Bundle, loaded: LoadedWeights, name: str, out: Path) -> Bundle:
    subject = Subject(weights=loaded.weights, views=bundle.manifest.views.crops)
    faulty = dict(planted_faults(subject))[name]
    facts = facts_for_graph(bundle.manifest, loaded.weights.labels)
    graph = encode_graph(build_graph(faulty.weights, faulty.views), facts)
    return republished(bundle, out, {"model.onnx": graph})


def unguarded(bundle: Bundle, backend: GraphBackend) -> Engine:
    """Open a bundle's graph in an engine without checks; open_engine would refuse it."""
    manifest = bundle.manifest
    source = GraphSource(
        name=str(bundle.path),
        data=bundle.read("model.onnx"),
        precision=manifest.precision,
        output=manifest.output,
        num_views=len(manifest.views.crops),
    )
    return open_graph(source, backend)
