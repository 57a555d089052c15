"""Keras's archives (.keras): a zip of config.json, metadata.json and model.weights.h5, none of them compressed."""

import zipfile
import zlib
from dataclasses import dataclass
from io import BufferedReader

from alexnet_deploy.export.importing.readers.keras.contents import KerasError
from alexnet_deploy.export.importing.readers.zip_directory import ZipPart, check_apart, open_zip, stored_part

CONFIG, WEIGHTS, _METADATA = "config.json", "model.weights.h5", "metadata.json"
_ASSETS = "assets/"
_MOST_CONFIG_BYTES = 8 << 20
_PIECE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """What an archive holds."""

    config: bytes
    """The network's layers, JSON."""
    weights: ZipPart
    """Where the HDF5 file lies."""


def read_archive(file: BufferedReader) -> Archive:
    """Return the config of an open archive, and where its weights are.

    Raises KerasError for an archive that Keras did not write: compressed, encrypted, overlapping, doubled or other
    entries, or bytes that do not match their checksum.
    """
    try:
        with open_zip(file) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            if len(entries) != len(archive.infolist()):
                raise KerasError("is not an archive of Keras: two of its entries have one name")
            for name in entries:
                if name not in (CONFIG, WEIGHTS, _METADATA) and not name.startswith(_ASSETS):
                    raise KerasError(f"is not an archive of Keras: it also holds {name[:100]!r}, which is not opened")
            missing = [name for name in (CONFIG, WEIGHTS) if name not in entries]
            if missing:
                raise KerasError(f"is not an archive of Keras: {missing[0]} is missing")
            parts = {name: stored_part(file, entry) for name, entry in entries.items()}
            check_apart(list(parts.values()))
            if parts[CONFIG].num_bytes > _MOST_CONFIG_BYTES:
                raise KerasError(f"its {CONFIG} has {parts[CONFIG].num_bytes:,} bytes")
            file.seek(parts[CONFIG].begin)
            config = file.read(parts[CONFIG].num_bytes)
            for name in (CONFIG, WEIGHTS):
                _check_sum(file, parts[name], entries[name])
    except zipfile.BadZipFile as error:
        raise KerasError(f"is not an archive of Keras, or is damaged: {error}") from error
    except (ValueError, NotImplementedError, OverflowError) as error:
        raise KerasError(f"is a damaged archive of Keras: {error}") from error
    return Archive(config=config, weights=parts[WEIGHTS])


def _check_sum(file: BufferedReader, part: ZipPart, entry: zipfile.ZipInfo) -> None:
    file.seek(part.begin)
    left, found = part.num_bytes, 0
    while left and (piece := file.read(min(left, _PIECE_BYTES))):
        left -= len(piece)
        found = zlib.crc32(piece, found)
    if found != entry.CRC:
        raise zipfile.BadZipFile(f"the checksum of {entry.filename} does not match its bytes")
