"""The command `gather`."""

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from commands import HANGS_AFTER_S, Run, wait_until
from gathering import put_all, write_list
from web import Site, sends, serving

from alexnet_deploy.core.process.installation import install_command

WITHOUT = """
import importlib.machinery, sys
find_spec = importlib.machinery.PathFinder.find_spec
def find_others(name, path=None, target=None):
    return None if name.partition(".")[0] in ("httpx", "httpcore", "bs4", "protego") else find_spec(name, path, target)
importlib.machinery.PathFinder.find_spec = find_others
from alexnet_deploy.cli import main
main()
"""


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as site:
        yield site


def test_images_are_gathered_and_the_next_command_is_named(run: Run, site: Site) -> None:
    urls = write_list(Path("urls.csv"), put_all(site, 12))
    done = run("gather", urls, "my data", "--allow-private", "--delay", 0, "--val", 0.3, "--max-bytes", 10**5)
    assert (done.code, done.out) == (1, "my data\n")
    first, kept, failed, last = done.err.splitlines()
    assert first == "urls.csv: 31 URLs, 2 classes"
    assert kept.startswith("14 images: ")
    assert kept.endswith(" for validation; 3 duplicates")
    assert failed == (
        "14 URLs gave no image: invalid_url 3, too_large 2, empty 1, http_404 1, not_an_image 1, redirects 1, "
        "robots 1, too_small 1, truncated 1, unreachable 1, unsupported_format 1"
    )
    assert last == "next: alexnet-deploy train 'my data'"
    assert run("gather", urls, "my data").refused(2) == "my data: already exists; choose another directory"


def test_a_list_without_failures_ends_with_0(run: Run, site: Site) -> None:
    good = {url: status for url, status in put_all(site, 8).items() if status in ("kept", "duplicate")}
    done = run("gather", write_list(Path("urls.csv"), good), "out", "--allow-private", "--delay", 0)
    assert done.code == 0, done.err


def test_a_folder_that_train_cannot_use_is_said_so(run: Run, site: Site) -> None:
    Path("urls.csv").write_text(f"url,class\n{site.url}/a,cat\n")
    done = run("gather", "urls.csv", "out", "--delay", 0)
    assert done.code == 1
    assert done.err.splitlines()[1:3] == [
        "0 images: 0 for training, 0 for validation; 0 duplicates",
        "1 URL gave no image: private_address 1",
    ]
    assert done.err.splitlines()[3].startswith("train cannot use it yet: out: 0 class folders, but a classifier needs")


def test_wrong_use_is_one_sentence(run: Run) -> None:
    assert run("gather", "urls.csv", "out").refused(2) == "urls.csv: there is no such file or folder"
    Path("urls.txt").write_text("a\n")
    assert "its extension is not one of .csv, .tsv, .jsonl" in run("gather", "urls.txt", "out").refused(2)
    Path("urls.csv").write_text("a,b\n")
    assert "has no column 'url'" in run("gather", "urls.csv", "out").refused(3)
    assert "above 0 and below 1, got 1.5" in run("gather", "urls.csv", "out", "--val", 1.5).refused(2)
    assert {path.name for path in Path().iterdir()} == {"urls.txt", "urls.csv"}


def test_a_missing_library_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "gather", tmp_path, tmp_path / "out"],
        capture_output=True,
        check=False,
        timeout=HANGS_AFTER_S,
        text=True,
    )
    assert done.returncode == 3
    words = f"this command needs protego, which is not installed; `{install_command('gather')}` installs it"
    assert done.stderr == f"error: {words}\n"


def test_a_signal_ends_it_in_two_lines_and_the_same_command_resumes(run: Run, site: Site) -> None:
    statuses = {url: status for url, status in put_all(site, 6).items() if status in ("kept", "duplicate")}
    held = threading.Event()

    def hold(handler: BaseHTTPRequestHandler) -> None:
        held.set()
        site.quit.wait()

    statuses[site.put("/held.jpg", hold, sends(b"no image"))] = "not_an_image"
    urls = write_list(Path("urls.csv"), statuses)
    arguments = ["gather", str(urls), "out", "--allow-private", "--delay", "0", "--timeout", "600"]
    program = "from alexnet_deploy.__main__ import main; main()"
    with subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, text=True) as process:
        journal = Path(".out.partial/journal.jsonl")
        wait_until(
            lambda: held.is_set() and journal.exists() and journal.read_text().count("\n") == len(statuses) - 1, process
        )
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-2:] == ["interrupted; repeat the command to resume", "interrupted by SIGINT"]
    assert "Traceback" not in said
    assert not Path("out").exists()
    done = run(*arguments)
    assert f"resuming after {len(statuses) - 1} of {len(statuses)} URLs" in done.err
    assert "1 URL gave no image: not_an_image 1" in done.err
    assert {path.name for path in Path().iterdir()} == {"urls.csv", "out"}
