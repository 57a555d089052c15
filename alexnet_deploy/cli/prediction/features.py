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


def refuse_same_file(place: Path | None, output: Path | None) -> None:
    """Raise UsageError if the file of features is --output too; before the format of the rows is chosen by its name."""
    if place is not None and output is not None and output.resolve() == place.resolve():
        raise UsageError(f"{place}: is --output too; choose another --features")


def check_features(place: Path, of_classes: Sequence[str], *, resume: bool) -> None:
    """Raise UsageError for a file that cannot be written, or beside options that are about classes."""
    from alexnet_deploy.predict.features.feature_file import check_feature_file

    if of_classes:
        verb, it = ("applies", "it") if len(of_classes) == 1 else ("apply", "them")
        raise UsageError(f"{', '.join(of_classes)} {verb} to classes, but --features writes none; leave {it} out")
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


def can_resume(features: Path | None) -> bool:
    """Return whether an interrupted run with this file of features, None for none, can be resumed."""
    from alexnet_deploy.predict.features import feature_file

    return features is None or feature_file.can_resume(features)


def with_features(
    extractions: "Generator[Extraction]", place: Path, engine: "Engine", rows: "RowSink"
) -> "Generator[Prediction]":
    """Write the features of each input to the file, and yield its row; the file is complete at the end.

    If `rows` are a file, an interrupted run can be resumed; see open_feature_file.
    """
    from alexnet_deploy.predict.features.feature_file import open_feature_file
    from alexnet_deploy.predict.sink import RowFile

    beside = rows if isinstance(rows, RowFile) and can_resume(place) else None
    with closing(extractions), open_feature_file(place, engine.output.size, beside) as file:
        for extraction in extractions:
            file.write(extraction)
            yield extraction.row
