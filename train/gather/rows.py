"""One row for each URL of a list: which pictures are kept, on which side, and why others are not.

Everything here depends on the list and on the outcome of each URL, and not on the order in which the outcomes came.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec import Struct

from alexnet_deploy.core.csv_text import csv_line
from alexnet_deploy.core.inputs.remote.urls import masked
from alexnet_deploy.train.gather.listing import Entry
from alexnet_deploy.train.gather.pictures import Fingerprints, Picture

KEPT, DUPLICATE = "kept", "duplicate"
TRAIN, VALIDATION = "train", "val"

COLUMNS = (
    *("url", "class", "final_url", "status", "message", "split", "file", "bytes", "sha256", "width", "height"),
    *("licence", "page"),
)


class Found(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a URL gave."""

    url: str
    """The URL of the list."""
    final_url: str | None = None
    """The last URL that was asked for; None if none was."""
    error: str | None = None
    """Error code; None for a picture that can be used."""
    message: str = ""
    """Why it cannot be used."""
    picture: Picture | None = None
    """The picture; None if there is none. One that is too small has an error too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of gathered.csv."""

    entry: Entry
    """The URL and its class."""
    found: Found
    """What it gave."""
    status: str
    """KEPT, DUPLICATE or an error code."""
    message: str = ""
    """Why it is not kept."""
    split: str = ""
    """TRAIN or VALIDATION; empty unless it is kept."""

    @property
    def file(self) -> str:
        """Path of the picture in the data folder; empty unless it is kept."""
        if self.status != KEPT:
            return ""
        assert self.found.picture is not None
        return f"{self.split}/{self.entry.label}/{file_name(self.found.picture)}"

    def line(self) -> str:
        """Return its line of csv, with the line end."""
        picture = self.found.picture
        facts = (
            ("", "", "", "") if picture is None else (picture.num_bytes, picture.sha256, picture.width, picture.height)
        )
        return csv_line(
            (
                masked(self.entry.url),
                self.entry.label,
                self.found.final_url or "",
                self.status,
                self.message,
                self.split,
                self.file,
                *facts,
                self.entry.licence,
                self.entry.page,
            )
        )


def file_name(picture: Picture) -> str:
    """Return the name of a picture's file: the digest of its bytes, and the ending of its format."""
    return f"{picture.sha256}{picture.ending}"


def rows_of(entries: Sequence[Entry], found: Mapping[str, Found], validation_share: float) -> Iterator[Row]:
    """Yield the row of each entry, in order; of equal or nearly equal pictures, the first one is kept.

    `found` has the outcome of each URL.
    """
    originals = _originals(entries, found)
    kept = [number for number, original in enumerate(originals) if original is not None and original.number == number]
    splits = _splits([(entries[number].label, _digest(found, entries[number])) for number in kept], validation_share)
    rows = {
        number: Row(entry=entries[number], found=found[entries[number].url], status=KEPT, split=split)
        for number, split in zip(kept, splits, strict=True)
    }
    for number, (entry, original) in enumerate(zip(entries, originals, strict=True)):
        outcome = found[entry.url]
        if original is None:
            yield Row(entry=entry, found=outcome, status=outcome.error or "", message=outcome.message)
        elif original.number == number:
            yield rows[number]
        else:
            file, bits = rows[original.number].file, original.differing_bits
            words = f"the same bytes as {file}" if bits is None else f"looks like {file}: {bits} of 256 bits differ"
            yield Row(entry=entry, found=outcome, status=DUPLICATE, message=words)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Original:
    """The entry whose picture is kept for another."""

    number: int
    """Its number in the list; the entry's own if its picture is kept."""
    differing_bits: int | None = None
    """Of the fingerprints; None if the bytes are equal."""


def _originals(entries: Sequence[Entry], found: Mapping[str, Found]) -> list[_Original | None]:
    """Return the original of each entry; None for one without a picture that can be used."""
    kept: list[int] = []
    by_digest: dict[str, int] = {}
    fingerprints = Fingerprints()
    originals: list[_Original | None] = []
    for number, entry in enumerate(entries):
        picture = found[entry.url].picture
        if found[entry.url].error is not None or picture is None:
            originals.append(None)
        elif (same := by_digest.get(picture.sha256)) is not None:
            originals.append(_Original(number=same))
        elif (near := fingerprints.nearest(picture.fingerprint)) is not None:
            originals.append(_Original(number=kept[near[0]], differing_bits=near[1]))
        else:
            originals.append(_Original(number=number))
            kept.append(number)
            by_digest[picture.sha256] = number
            fingerprints.keep(picture.fingerprint)
    return originals


def _digest(found: Mapping[str, Found], entry: Entry) -> str:
    picture = found[entry.url].picture
    assert picture is not None
    return picture.sha256


def _splits(pictures: Sequence[tuple[str, str]], validation_share: float) -> list[str]:
    """Return the side of each picture, given by its class and its digest.

    The side depends on the digest and the share alone, except in a class of two or more with one side empty: there the
    picture with the nearest digest changes sides, because `train` needs both.
    """
    limit = f"{min(int(validation_share * 16**16), 16**16 - 1):016x}"
    splits = [VALIDATION if digest < limit else TRAIN for _, digest in pictures]
    by_class: dict[str, list[int]] = {}
    for number, (label, _) in enumerate(pictures):
        by_class.setdefault(label, []).append(number)
    for numbers in by_class.values():
        if len(numbers) > 1 and len({splits[number] for number in numbers}) == 1:
            ranked = sorted(numbers, key=lambda number: pictures[number][1])
            if splits[ranked[0]] == TRAIN:
                splits[ranked[0]] = VALIDATION
            else:
                splits[ranked[-1]] = TRAIN
    return splits
