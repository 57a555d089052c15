from pathlib import Path

import pytest
from training import BLUE, GREEN, RED, paint


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of painted images: 24 to train on, and 6 to validate on."""
    return paint(tmp_path_factory.mktemp("painted") / "data", {"red": (RED,), "green": (GREEN,), "blue": (BLUE,)}, 8)
