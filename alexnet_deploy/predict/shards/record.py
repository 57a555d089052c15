"""What a complete file of rows holds, as a record: which shard, of which inputs, and what gave its rows."""

from typing import Annotated, Literal, Self, TypeAlias

from msgspec import Meta, Struct

from alexnet_deploy.core.images.decode import DecodeLimits
from alexnet_deploy.core.model.preprocessing import DECODING_VERSION
from alexnet_deploy.core.records import Sha256
from alexnet_deploy.engines.engine import EngineInfo
from alexnet_deploy.predict.row_formats import RowWriter
from alexnet_deploy.predict.shards.inputs import Shard

VERSIONS = (1,)
"""Format versions that this program reads; the last is the one that it writes."""

_Number: TypeAlias = Annotated[int, Meta(ge=0)]


class Origin(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the rows of an input depend on, apart from their form."""

    bundle_sha256: str | None
    """Digest of the bundle's manifest."""
    backend: str
    arithmetic: str
    limits: str
    """Limits on an image, in words."""
    decoding_version: int

    @classmethod
    def of(cls, info: EngineInfo, limits: DecodeLimits) -> Self:
        """Return what the rows of an engine depend on."""
        return cls(
            bundle_sha256=info.bundle_sha256,
            backend=info.backend,
            arithmetic=info.arithmetic,
            limits=str(limits),
            decoding_version=DECODING_VERSION,
        )

    @property
    def words(self) -> str:
        """All of it as one text."""
        return f"{self.bundle_sha256} {self.backend} {self.arithmetic} {self.limits} decoding {self.decoding_version}"


class RowForm(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The form of the rows."""

    row_format: Literal["jsonl", "csv"]
    topk: _Number
    """Classes of a row."""
    reject: float | None
    """Threshold of confidence."""

    @classmethod
    def of(cls, writer: RowWriter) -> Self:
        """Return the form of a writer's rows, jsonl or csv."""
        row_format, topk, *reject = writer.form
        assert row_format != "table"
        return cls(row_format=row_format, topk=topk, reject=reject[0] if reject else None)

    @property
    def header(self) -> bytes:
        """What comes before the rows."""
        return self.writer().header().encode()

    def writer(self, labels: tuple[str, ...] = ()) -> RowWriter:
        """Return a writer of such rows, which checks earlier rows against `labels`."""
        return RowWriter(self.row_format, self.topk, labels=labels, reject=self.reject)


class InputList(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The inputs of all shards together."""

    num_inputs: _Number
    sha256: Sha256
    """Digest of their names, see ShardInputs."""


class RowFacts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A complete file of rows."""

    sha256: Sha256
    outcomes: dict[str, _Number]
    """Number of rows that are `ok`, and number of rows per error code."""
    num_rejected: _Number
    """Number of rows that are marked as rejected; they are `ok` too."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return sum(self.outcomes.values())


class ShardRecord(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a complete file of rows holds."""

    format: Literal["shard of rows"] = "shard of rows"
    format_version: int = VERSIONS[-1]
    number: Annotated[int, Meta(ge=1)]
    """Number of the shard, 1..count."""
    count: Annotated[int, Meta(ge=1)]
    """Number of shards."""
    origin: Origin
    form: RowForm
    inputs: InputList
    rows: RowFacts
    earlier: RowFacts | None
    """The complete file that these rows replace, which may still be in place; None if there was none."""
    sha256: str = ""
    """Digest of this record with this field empty."""

    def __post_init__(self) -> None:
        """Raise ValueError for a number or a number of rows that cannot be this shard's."""
        if self.number > self.count:
            raise ValueError(f"shard {self.number} is not in 1..{self.count}")
        needed = self.shard.num_rows(self.inputs.num_inputs)
        for rows in (self.rows, self.earlier):
            if rows is not None and rows.num_rows != needed:
                raise ValueError(f"it has {rows.num_rows:,} rows, but shard {self.shard} has {needed:,} inputs")

    @property
    def shard(self) -> Shard:
        """Which shard it is."""
        return Shard(number=self.number, count=self.count)

    def rows_of(self, sha256: str) -> RowFacts | None:
        """Return the complete file with this digest, now or before a retry; None for any other file."""
        known = (rows for rows in (self.rows, self.earlier) if rows is not None)
        return next((rows for rows in known if rows.sha256 == sha256), None)
