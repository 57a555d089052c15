"""The parity table on narrow terminals."""

import msgspec
import pytest

from alexnet_deploy.core.bundle.store import Bundle
from alexnet_deploy.inspection.describe import parity_table


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_parity_table_fits_a_terminal(width: int, bundle: Bundle) -> None:
    rows = [msgspec.structs.replace(row, latency_ms=12.5) for row in bundle.manifest.parity]
    whole = parity_table(rows)
    lines = parity_table(rows, width).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) == len(rows) + 1
    for kept in ("engine", "max error", "top-1", "ms"):
        assert kept in lines[0]
    assert all(line.endswith("passed") for line in lines[1:])
    assert (width < 200) or parity_table(rows, width) == whole
    assert parity_table(rows, None) == whole
