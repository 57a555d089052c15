import os
from pathlib import Path

import pytest

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.core.fs import hidden
from alexnet_deploy.core.fs.files import write_atomically
from alexnet_deploy.core.fs.hidden import hidden_beside, temporary_prefix

NAMES = ["a", "n" * 255, "é" * 127, "🐈" * 63, "n" * 254 + "m", os.fsdecode(b"\xff" * 255)]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_hidden_name_is_no_longer_than_a_name_may_be(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    ending = f".{'0' * 12}.again.partial"
    beside = hidden_beside(place, ending)
    assert beside == hidden_beside(place, ending)
    assert beside.name.startswith(f".{name[:10]}")
    assert beside.name.endswith(ending)
    beside.touch()
    write_atomically(place, b"whole")
    assert place.read_bytes() == b"whole"


def test_long_names_that_begin_alike_have_hidden_names_of_their_own(tmp_path: Path) -> None:
    places = [hidden_beside(tmp_path / name, ".partial") for name in NAMES]
    assert len(set(places)) == len(NAMES)


def test_a_short_name_is_kept_whole(tmp_path: Path) -> None:
    assert hidden_beside(tmp_path / "rows.csv", ".partial") == tmp_path / ".rows.csv.partial"
    assert temporary_prefix(tmp_path / "rows.csv") == ".rows.csv."


def test_a_file_system_of_shorter_names_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # eCryptfs limits names to 143 bytes.
    monkeypatch.setattr(os, "pathconf", lambda path, name: 143)
    assert len(hidden_beside(tmp_path / ("n" * 143), ".partial").name) == 143
    monkeypatch.undo()
    assert len(hidden_beside(tmp_path / "nowhere" / ("n" * 255), ".partial").name) == hidden._USUAL_LIMIT


def test_a_bundle_of_a_long_name_is_published(bundle: Bundle, tmp_path: Path) -> None:
    from networks import republished

    out = tmp_path / ("b" * 248 + ".bundle")
    assert republished(bundle, out, {}).path == out
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
