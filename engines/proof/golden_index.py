"""golden/index.txt: a description of the golden vectors, for proving an engine with another program.

All numbers are from the manifest. engines/proof/parity.py defines the comparisons.
"""

import math
from collections.abc import Iterator
from pathlib import PurePosixPath

from alexnet_deploy.core.bundle.contract import IMAGES
from alexnet_deploy.core.bundle.manifest import Manifest
from alexnet_deploy.core.bundle.store import LABELS
from alexnet_deploy.core.golden.files import descriptions
from alexnet_deploy.core.golden.record import AnyTolerance, FeatureTolerance, GoldenFiles, TensorFile
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.engines.proof.parity import INT8_TIE, LOG_FLOOR, TIE, least_agreement

_BYTES = {"uint8": 1, "float32": 4}


def golden_index(manifest: Manifest) -> bytes:
    """Return the index of a bundle's golden vectors, UTF-8: each file, and how to compare an engine with it."""
    return ("\n".join(_lines(manifest)) + "\n").encode()


def _lines(manifest: Manifest) -> Iterator[str]:
    golden = manifest.golden
    num_images, output = golden.images.shape[0], manifest.output
    what = f"{counted(output.size, 'class', 'classes')} in the order of ../{LABELS}"
    if output.layer is not None:
        what = f"{counted(output.size, 'feature')} of {output.layer}"
    yield (
        f"Golden vectors of {manifest.architecture.name}, {manifest.precision}, {manifest.views.name} views: "
        f"{counted(num_images, 'image')}, {what}."
    )
    yield "Every .u8 and .f32 file is raw binary: no header, little-endian, row-major."
    yield ""
    yield from _table(manifest)
    yield ""
    yield f"To prove an engine, run the images as its input `{IMAGES}` and compare its output `{output.name}`:"
    if golden.graph is None:
        yield _limits(golden.expected, golden.allowed, TIE, num_images)
    else:
        graph = golden.graph
        yield _limits(graph.expected, graph.allowed, TIE, num_images) + "; this proves the engine"
        bound = _limits(golden.expected, golden.allowed, INT8_TIE, num_images)
        yield f"{bound}; this bounds the error of int8 itself, and is too wide to prove an engine"
    if isinstance(golden.files, GoldenFiles):
        yield from _about_files(manifest, golden.files)
    if output.layer is not None:
        yield (
            "p is the engine's feature, q the file's, both as float64; max |q| is over the whole file, the cosine "
            "distance is 1 - p.q / (|p| |q|) of a row. NaN fails."
        )
    else:
        yield (
            f"p is the engine's probability, q the file's, both as float64; ln clamps its argument to at least "
            f"{LOG_FLOOR:g}. NaN fails."
        )


def _table(manifest: Manifest) -> Iterator[str]:
    golden = manifest.golden
    files = [
        (golden.images, f"input: {manifest.contract.input.meaning}"),
        (golden.expected, "reference: output of the trained network, in float32"),
    ]
    if golden.graph is not None:
        files.append((golden.graph.expected, "reference: output of this graph, by ONNX's definition of its operators"))
    if isinstance(golden.files, GoldenFiles):
        source = "the trained network, in float32" if golden.graph is None else "this graph"
        files += [
            (golden.files.pixels, "what a decoder must make of files/"),
            (golden.files.expected, f"reference: output of {source}, for these pixels"),
        ]
    for tensor, meaning in files:
        shape = " x ".join(map(str, tensor.shape))
        num_bytes = math.prod(tensor.shape) * _BYTES[tensor.dtype]
        yield f"{_name(tensor):<24} {tensor.dtype:<7}  {shape:<17}  {num_bytes:>9} bytes  {meaning}"


def _about_files(manifest: Manifest, files: GoldenFiles) -> Iterator[str]:
    """Describe the proof that begins at a file's bytes."""
    golden = manifest.golden
    number, about = len(files.names), descriptions()
    policy = manifest.preprocessing.image_policy
    yield ""
    yield (
        f"To prove a decoder, decode each file of files/ in this order, resize {policy.resize}, decode "
        f"{policy.decode}: the pixels must equal {_name(files.pixels)} to the bit."
    )
    for name in files.names:
        file = PurePosixPath(name).name
        yield f"  files/{file:<18} {about.get(file, '')}".rstrip()
    yield f"Run these pixels as the engine's input `{IMAGES}`, and compare:"
    tolerance = golden.allowed if golden.graph is None else golden.graph.allowed
    yield _limits(files.expected, tolerance, TIE, number)


def _limits(reference: TensorFile, tolerance: AnyTolerance, tie: float, num_images: int) -> str:
    if isinstance(tolerance, FeatureTolerance):
        return (
            f"  {_name(reference):<24} |p - q| <= {tolerance.error:g} max |q|, cosine distance <= "
            f"{tolerance.cosine_distance:g} in every row"
        )
    num_same = math.ceil(num_images * least_agreement(tolerance.top1_agreement, num_images) - 1e-9)
    return (
        f"  {_name(reference):<24} |p - q| <= {tolerance.probability:g}, "
        f"|ln p - ln q| <= {tolerance.log_probability:g}, "
        f"q of the engine's top-1 class within {tie:g} of the row's largest in at least {num_same} of "
        f"{counted(num_images, 'row')}"
    )


def _name(tensor: TensorFile) -> str:
    return PurePosixPath(tensor.file).name
