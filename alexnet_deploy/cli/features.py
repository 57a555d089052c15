"""`alexnet-deploy predict --features`: the file of features beside the rows."""

from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.core.errors import UsageError

if TYPE_CHECKING:
    from alexnet_deploy.core.bundle.store import Bundle
    from alexnet_deploy.engines.engine import Engine
    from alexnet_deploy.predict.features.extraction import Extraction
    from alexnet_deploy.predict.prediction import Prediction
    from alexnet_deploy.predict.sink import RowSink


def check_features(place: Path, output: Path | None, of_classes: Sequence[str], *, resume: bool) -> None:
    """Raise UsageError for a file that cannot be written, or beside options that are about classes."""
    from alexnet_deploy.predict.features.feature_file import check_feature_file

    if of_classes:
        verb, it = ("applies", "it") if len(of_classes) == 1 else ("apply", "them")
        raise UsageError(f"{', '.join(of_classes)} {verb} to classes, but --features writes none; leave {it} out")
    if output is not None and output.resolve() == place.resolve():
        raise UsageError(f"{place}: is --output too; choose another --features")
    check_feature_file(place, resume=resume)


def refuse_other_output(bundle: "Bundle", *, wants_features: bool) -> None:
    """Raise UsageError for a bundle of probabilities where features are wanted, or the other way round."""
    output = bundle.manifest.output
    if wants_features and output.layer is None:
        raise UsageError(
            f"{bundle.path}: returns probabilities, but --features needs a bundle that `alexnet-deploy export "
            "--output-layer LAYER` made"
        )
    if not wants_features and output.layer is not None:
        raise UsageError(
            f"{bundle.path}: returns {output.words}; pass --features FILE to write them, or export without "
            "--output-layer to classify images"
        )


def confirm(place: Path, bundle: "Bundle", num_rows: int) -> None:
    """Raise UsageError unless the file is complete, with as many rows as --output."""
    from alexnet_deploy.predict.features.feature_file import confirm_features

    confirm_features(place, bundle.manifest.output.size, num_rows)


def with_features(
    extractions: "Generator[Extraction]", place: Path, engine: "Engine", depends_on: str | None, rows: "RowSink"
) -> "Generator[Prediction]":
    """Write the features of each input to the file, and yield its row; the file is complete at the end.

    With `depends_on` an interrupted run can be resumed, and `rows` are the ones to resume; see open_feature_file.
    """
    from alexnet_deploy.predict.features.feature_file import can_resume, open_feature_file

    num_kept = rows.outcomes.total() if depends_on is not None and can_resume(place) else None
    with (
        closing(extractions),
        open_feature_file(place, engine.output.size, depends_on or "", num_kept=num_kept) as file,
    ):
        for extraction in extractions:
            file.write(extraction)
            yield extraction.row
