import errno
import json
import os
from pathlib import Path

import pytest
from commands import Run

from alexnet_deploy.core.fs import patience
from alexnet_deploy.core.fs.patience import Patience


@pytest.mark.parametrize(
    ("arguments", "waits"), [((), [0.1, 0.5, 2.0]), (("--retries", 0), []), (("--retries", 1), [0.1])]
)
def test_retries_of_unreadable_files_are_limited_by_the_option(
    arguments: tuple[object, ...],
    waits: list[float],
    run: Run,
    latest: Path,
    images: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(patience, "PATIENCE", Patience(wait=waited.append))
    opened = os.open

    def stale(path: object, *others: object, **options: object) -> int:
        if str(path).endswith("c.jpg"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return opened(path, *others, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", stale)
    outcome = run("predict", images, "--format", "jsonl", *arguments)
    assert outcome.code == 1
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [row["error"]["code"] for row in rows if not row["ok"]] == ["unreadable"]
    assert len(rows) == 12
    assert waited == waits
