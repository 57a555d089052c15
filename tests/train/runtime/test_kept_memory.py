from pathlib import Path

import pytest
from commands import Run

from alexnet_deploy.core.process import memory as host_memory
from alexnet_deploy.train import run as training


def test_the_command_keeps_memory_once_the_images_have_been_looked_over(
    run: Run, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    look_over = training.look_over

    def trained(*arguments: object, **options: object) -> None:
        done.append("trained")
        raise KeyboardInterrupt

    def looked_over(*arguments: object, **options: object) -> object:
        done.append("looked over")
        return look_over(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "look_over", looked_over)
    monkeypatch.setattr(host_memory, "keep_freed_memory", lambda: done.append("kept"))
    monkeypatch.setattr(training, "train", trained)
    run("train", drawn, "--arch", "tiny", "--device", "cpu")
    assert done == ["looked over", "kept", "trained"]
