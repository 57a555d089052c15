"""What `alexnet-deploy predict` is asked for, and which options contradict each other."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alexnet_deploy.cli.prediction.features import check_features
from alexnet_deploy.cli.prediction.sharding import check_shard
from alexnet_deploy.core.errors import UsageError

if TYPE_CHECKING:
    from alexnet_deploy.core.images.decode import DecodeLimits
    from alexnet_deploy.predict.predictor import LoadOptions
    from alexnet_deploy.predict.row_formats import RowFormat
    from alexnet_deploy.predict.shards.inputs import Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The options of `alexnet-deploy predict`, apart from its bundle."""

    images: list[str]
    engine: "LoadOptions"
    retries: int
    """Retries after a transient error of a read."""
    limits: "DecodeLimits"
    batch_size: int | None
    topk: int | None
    reject: float | None
    row_format: "RowFormat"
    output: Path | None
    """The file of rows; None for stdout."""
    resume: bool
    again: frozenset[str]
    """Codes of the errors whose inputs are predicted again."""
    allow_empty: bool
    gallery: Path | None
    features: Path | None
    shard: "Shard | None"
    ray: str | None
    """Address of a Ray cluster; None for this process."""

    @property
    def num_guesses(self) -> int:
        """Number of classes of a row; none beside a file of features."""
        return (self.topk or 5) if self.features is None else 0

    def check(self) -> None:
        """Raise UsageError for options that contradict each other, and files beside --output that cannot be written."""
        from alexnet_deploy.predict.output import check_output

        if self.gallery is not None:
            check_output(self.gallery, resume=False, option="--gallery")
            if self.resume:
                raise UsageError("--gallery shows the predictions of one run; leave out --resume")
        if self.features is not None:
            about_classes = self._given("--topk", "--reject", "--gallery", "--retry-failed")
            check_features(self.features, about_classes, resume=self.resume)
        if self.shard is not None:
            check_shard(self._rows_file("--shard", "for `alexnet-deploy merge`", "--gallery", "--features"))
        if self.ray is not None:
            self._rows_file("--ray", "", "--shard", "--gallery", "--features", "--retry-failed")
        if self.resume and (self.output is None or self.row_format == "table"):
            raise UsageError("--resume needs an --output whose --format is jsonl or csv")
        if self.again and not self.resume:
            raise UsageError("--retry-failed needs --resume, because it replaces rows of an earlier run")

    def _given(self, *names: str) -> list[str]:
        """Return which of these options were given."""
        values = {
            "--topk": self.topk,
            "--reject": self.reject,
            "--gallery": self.gallery,
            "--features": self.features,
            "--shard": self.shard,
            "--retry-failed": self.again or None,
        }
        return [name for name in names if values[name] is not None]

    def _rows_file(self, option: str, purpose: str, *others: str) -> Path:
        """Return the file of rows that an option needs; raises UsageError beside options that it does not go with."""
        if given := self._given(*others):
            raise UsageError(f"{option} writes rows only; leave out {' and '.join(given)}, or {option}")
        if self.output is None or self.row_format == "table":
            wanted = f", {purpose}" if purpose else ""
            raise UsageError(f"{option} needs an --output whose --format is jsonl or csv{wanted}")
        return self.output
