import json
from pathlib import Path

import pytest

from alexnet_deploy.core.process import installation
from alexnet_deploy.core.process.installation import install_command

COMMIT = "87917bf" * 5


def said_of(origin: dict[str, object] | None, monkeypatch: pytest.MonkeyPatch) -> str:
    class Distribution:
        def __init__(self, text: str | None) -> None:
            self.text = text

        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return self.text

    # The first is metadata that a build leaves in a checkout.
    found = [Distribution(None), *([] if origin is None else [Distribution(json.dumps(origin))])]
    monkeypatch.setattr(installation, "distributions", lambda name: found)
    return install_command("train")


def test_checkout_is_named_by_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "my checkout"
    place.mkdir()
    url = place.as_uri()
    editable = {"url": url, "dir_info": {"editable": True}}
    assert said_of(editable, monkeypatch) == f"pip install -e '{place}[train]'"
    assert said_of({"url": url, "dir_info": {}}, monkeypatch) == f"pip install '{place}[train]'"
    place.rmdir()
    assert said_of(editable, monkeypatch) == "cd CHECKOUT && pip install '.[train]'"


def test_repository_is_named_by_its_url_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    vcs = {"vcs": "git", "commit_id": COMMIT}
    url = "https://example.org/alexnet-deploy.git"
    assert said_of({"url": url, "vcs_info": vcs}, monkeypatch) == (
        f"pip install 'alexnet-deploy[train] @ git+{url}@{COMMIT}'"
    )
    assert said_of({"url": url, "vcs_info": vcs, "subdirectory": "python"}, monkeypatch) == (
        f"pip install 'alexnet-deploy[train] @ git+{url}@{COMMIT}#subdirectory=python'"
    )


def test_wheel_is_named_by_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    origin = {"url": "file:///a/b.whl", "archive_info": {}}
    assert said_of(origin, monkeypatch) == "pip install 'alexnet-deploy[train] @ file:///a/b.whl'"


def test_package_from_an_index_is_named_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert said_of(None, monkeypatch) == "pip install 'alexnet-deploy[train]'"


def test_this_installation_names_this_checkout() -> None:
    root = Path(__file__).parents[2]
    assert install_command("cpu") in (f"pip install -e '{root}[cpu]'", f"pip install '{root}[cpu]'")
