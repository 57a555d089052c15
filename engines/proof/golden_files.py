"""The proof that begins at a file's bytes: a bundle's golden files, through a decoder and through an engine.

A decoder must reproduce the stored pixels to the bit. An engine runs the stored pixels, so that its row shows its own
error; together both prove the way from the file to the probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import msgspec
import numpy as np

from alexnet_deploy.core.bundle.manifest import GOLDEN_FILES_SET, ParityRow
from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.errors import BundleError, ImageError, WrongAnswerError
from alexnet_deploy.core.golden.files import decoder_version
from alexnet_deploy.core.golden.record import GoldenFiles
from alexnet_deploy.core.images.decode import decode_image
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION, Decoding
from alexnet_deploy.core.process.say import counted
from alexnet_deploy.engines.engine import Engine
from alexnet_deploy.engines.proof.parity import compare, wrong_answer_row
from alexnet_deploy.engines.proof.tolerances import engine_tolerance

_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderRow:
    """One decoder's agreement with the pixels of the golden files."""

    decoder: str
    """Its name and version, or the command that runs it."""
    num_files: int
    num_exact: int
    """Files whose pixels are equal to the bit."""
    max_error: int | None
    """Largest difference of a value, in levels of 0..255; None if nothing could be compared."""
    mean_error: float | None
    """Mean difference of a value over all compared files."""
    failures: tuple[str, ...]
    """What is wrong; empty if all files are equal to the bit."""

    @property
    def passed(self) -> bool:
        """True if all files are equal to the bit."""
        return not self.failures and self.num_exact == self.num_files


def golden_pixels(bundle: Bundle) -> dict[str, np.ndarray]:
    """Return the pixels that must come of each golden file, uint8 (256, 256, 3), by its path inside the bundle.

    Raises BundleError for a bundle without golden files, IntegrityError for damaged ones.
    """
    files = bundle.manifest.golden.files
    if not isinstance(files, GoldenFiles):
        raise BundleError(
            f"{bundle.path}: holds no golden files: its manifest is of format version "
            f"{bundle.manifest.format_version}; export again"
        )
    return dict(zip(files.names, bundle.read_tensor(files.pixels), strict=True))


def prove_decoder(bundle: Bundle) -> DecoderRow:
    """Decode a bundle's golden files with this program's decoder and compare the pixels; raises as golden_pixels."""
    expected = golden_pixels(bundle)
    actual, failures = {}, []
    for name in expected:
        try:
            actual[name] = decode_image(bundle.read(name), bundle.manifest.preprocessing.image_policy)
        except ImageError as error:
            failures.append(f"{file_name(name)}: cannot be decoded: {error}")
    failures += [difference for name in actual if (difference := pixel_difference(name, expected[name], actual[name]))]
    recorded = bundle.manifest.decoding
    if failures and isinstance(recorded, Decoding) and recorded.version != DECODING_VERSION:
        failures.append(
            f"the bundle was made with decoding policy {recorded.version}, this program's is {DECODING_VERSION}"
        )
    return decoder_row(decoder_version(), expected, actual, tuple(failures))


def decoder_row(
    decoder: str, expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray], failures: tuple[str, ...]
) -> DecoderRow:
    """Return the agreement of decoded pixels with the expected ones; `actual` may lack files that failed."""
    errors = [np.abs(pixels.astype(np.int16) - expected[name]) for name, pixels in actual.items()]
    return DecoderRow(
        decoder=decoder,
        num_files=len(expected),
        num_exact=sum(not error.any() for error in errors),
        max_error=max(int(error.max()) for error in errors) if errors else None,
        mean_error=float(np.mean([error.mean() for error in errors])) if errors else None,
        failures=failures,
    )


def pixel_difference(name: str, expected: np.ndarray, actual: np.ndarray) -> str:
    """Return how the pixels of one file differ, as text; empty if they are equal to the bit."""
    errors = np.abs(actual.astype(np.int16) - expected)
    if not errors.any():
        return ""
    return (
        f"{file_name(name)}: {(errors > 0).mean():.1%} of the values differ, by {errors.mean():.2g} on average and "
        f"{errors.max()} at most"
    )


def file_name(name: str) -> str:
    """Return the last part of a path inside the bundle."""
    return PurePosixPath(name).name


def prove_files(engine: Engine, bundle: Bundle) -> tuple[ParityRow, ...]:
    """Run the pixels of a bundle's golden files on an engine and compare the outputs.

    One row; none if the bundle has no golden files or, in int8, if the engine runs another graph: an int8 graph is
    compared with its own exact outputs, because images unlike the calibration images round far away from the trained
    network. An output that breaks the contract is a failed row. Raises IntegrityError for damaged files.
    """
    files = bundle.manifest.golden.files
    if not isinstance(files, GoldenFiles):
        return ()
    precision = engine.info.precision
    is_int8 = bundle.manifest.precision == "int8"
    if is_int8 and precision != "int8":
        return ()
    expected = bundle.read_tensor(files.expected)
    pixels = bundle.read_tensor(files.pixels)
    try:
        actual = engine.run_all(np.split(pixels, range(_BATCH_SIZE, len(pixels), _BATCH_SIZE)))
    except WrongAnswerError as error:
        return (wrong_answer_row(error, engine, GOLDEN_FILES_SET, len(pixels)),)
    tolerance = engine_tolerance(precision, len(bundle.manifest.views.crops), engine.output)
    row = compare(expected, actual, engine, GOLDEN_FILES_SET, tolerance=tolerance)
    return (msgspec.structs.replace(row, against="graph") if is_int8 else row,)


def describe_row(row: DecoderRow) -> str:
    """Return a decoder's row as one line of text."""
    verdict = "passed" if row.passed else "FAILED"
    errors = "" if row.max_error is None else f", max error {row.max_error}, mean error {row.mean_error:.2g}"
    files = f"{row.num_exact} of {counted(row.num_files, 'golden file')}"
    return f"decoder {row.decoder}: {files} equal to the bit{errors}: {verdict}"
