"""PNG files that C++ and Python once answered differently; found by tests/fuzz/compare_cpp.py."""

import numpy as np
import pytest
from compare_cpp import main
from cpp_library import difference, outcome
from png_and_jpeg import sound_files

from alexnet_deploy.core.model.preprocessing import WARP

KEYED = sorted(name for name in sound_files() if name.startswith("png") and name.endswith("-key"))


@pytest.mark.parametrize("name", KEYED)
def test_a_last_piece_is_cut_off(name: str) -> None:
    data = sound_files()[name]
    end = data.rindex(b"IDAT") + 4
    # The last piece holds the checksum of the pixels, and at most their end.
    for length in range(end, min(end + 44, len(data))):
        assert difference(data[:length], WARP)[1] is None, length


def test_pixels_that_are_complete_are_decoded_though_the_last_piece_is_cut_off() -> None:
    # 26 bytes of the second piece: its checksum is missing.
    data = sound_files()["png-0-2-plain-key"]
    assert isinstance(outcome(data[: data.rindex(b"IDAT") + 30 - 1], WARP), np.ndarray)


@pytest.mark.parametrize("name", [name for name in KEYED if name.startswith(("png-0", "png-2"))])
def test_a_text_before_the_header_does_not_change_the_transparent_colour(name: str) -> None:
    data = sound_files()[name]
    text = next(file for file in sound_files().values() if b"tEXtComment" in file)
    place = text.index(b"tEXtComment") - 4
    moved = data[:8] + text[place : place + 25] + data[8:]
    found = outcome(moved, WARP)
    assert isinstance(found, np.ndarray)
    np.testing.assert_array_equal(found, outcome(data, WARP))
    assert difference(moved, WARP) == ("pixels", None)


def test_three_hundred_damaged_files_have_the_same_outcome(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["compare_cpp.py", "3", "0", "300"])
    main()
    (counts,) = capsys.readouterr().out.splitlines()
    assert '"files": 300, "different": 0' in counts
