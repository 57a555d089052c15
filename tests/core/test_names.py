"""Names of runs and bundles in an empty working directory: what each stands for, and the commands that errors name."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet_deploy.core import names
from alexnet_deploy.core.errors import BundleError, UsageError, WeightsError
from alexnet_deploy.core.fs.files import sha256


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made(path: str, content: bytes = b"") -> Path:
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return place


def run(name: str, *files: str) -> Path:
    for file in files or (names.WEIGHTS,):
        made(f"runs/{name}/{file}")
    return Path("runs", name)


def bundle(name: str) -> Path:
    return made(f"bundles/{name}/manifest.json").parent


def refused(call: Callable[..., object], *arguments: object) -> str:
    with pytest.raises((UsageError, WeightsError, BundleError)) as caught:
        call(*arguments)
    return f"{type(caught.value).__name__}: {caught.value}"


def aged(path: Path, seconds: int) -> Path:
    os.utime(path, (seconds, seconds))
    return path


def test_a_bare_name_is_searched_in_both_folders() -> None:
    in_runs, in_bundles = run("a"), bundle("a.bundle")
    assert names.find_entry(Path("a")) == in_bundles
    assert names.find_entry(Path("a"), first=names.RUNS) == in_runs
    assert names.find_entry(Path("a.bundle"), first=names.RUNS) == in_bundles
    assert names.find_entry(Path("b")) is None
    beside = made("a.bundle/manifest.json").parent
    assert names.find_entry(Path("a")) == beside
    # A run comes before it only where runs come first.
    assert names.find_entry(Path("a"), first=names.RUNS) == in_runs
    here = made("a")
    assert names.find_entry(Path("a")) == names.find_entry(Path("a"), first=names.RUNS) == here
    # Only a bare name is searched.
    assert names.find_entry(Path("x/a")) is None
    made("x/a.bundle/manifest.json")
    assert names.find_entry(Path("x/a")) == Path("x/a.bundle")


def test_latest_names_an_entry_by_its_path_and_bare() -> None:
    newest = run("b")
    made("runs/latest", b"b\n")
    assert names.find_entry(Path("runs/latest")) == newest
    assert names.find_entry(Path("latest")) == newest
    # A file of this name elsewhere is one too, and a folder is not.
    made("other/b/x")
    made("other/latest", b"b\n")
    assert names.find_entry(Path("other/latest")) == Path("other/b")
    made("third/latest/x")
    assert names.find_entry(Path("third/latest")) == Path("third/latest")


def test_a_link_in_the_place_of_latest_is_refused_in_our_folders_alone() -> None:
    run("b")
    Path("runs/latest").symlink_to("b")
    assert refused(names.find_entry, Path("runs/latest")).startswith("UsageError: runs/latest: is a link, but must be")
    Path("other/b").mkdir(parents=True)
    Path("other/latest").symlink_to("b")
    assert names.find_entry(Path("other/latest")) == Path("other/latest")


def test_a_bundle_is_found_or_refused_with_a_command() -> None:
    assert refused(names.find_bundle, Path("a")) == "UsageError: a: there is no such bundle"
    found = bundle("a.bundle")
    assert names.find_bundle(Path("a")) == found
    made("bundles/latest", b"a.bundle\n")
    assert names.find_bundle() == names.latest_bundle() == found
    assert refused(names.find_bundle, Path("b")) == "UsageError: b: there is no such bundle; bundles/ holds a.bundle"
    words = "BundleError: {}: this is a file, but a bundle is a directory; {}"
    made("my file.txt")
    made("my w.safetensors")
    expected = words.format("my file.txt", "pass the directory with manifest.json")
    assert refused(names.find_bundle, Path("my file.txt")) == expected
    command = "`alexnet-deploy export 'my w.safetensors'` makes one from weights"
    assert refused(names.find_bundle, Path("my w.safetensors")) == words.format("my w.safetensors", command)
    place = run("r")
    command = f"`alexnet-deploy export {place}` makes one from it"
    assert refused(names.find_bundle, place) == f"BundleError: {place}: this is a run, not a bundle; {command}"


def test_weights_are_found_or_refused_with_a_command() -> None:
    assert refused(names.find_weights, Path("a")) == "UsageError: a: there is no such weights file or run"
    place = run("a")
    assert names.find_weights(Path("a")) == place / names.WEIGHTS
    made("runs/latest", b"a\n")
    assert names.find_weights() == names.latest_weights() == place / names.WEIGHTS
    assert refused(names.find_weights, Path("b")).endswith("there is no such weights file or run; runs/ holds a")
    other = made("w.safetensors")
    assert names.find_weights(other) == other
    begun = run("begun", names.CHECKPOINT)
    assert refused(names.find_weights, begun) == (
        f"WeightsError: {begun}: this run has no weights yet; `alexnet-deploy train --resume --out {begun}` resumes it"
    )
    assert refused(names.find_weights, bundle("c.bundle")).endswith(
        "this is a bundle, not a run; name the run that it was exported from"
    )
    empty = made("empty/x").parent
    assert refused(names.find_weights, empty).endswith("this is not a run: the directory holds no weights.safetensors")


def test_entries_are_named_newest_first_and_five_of_them() -> None:
    for number in range(5):
        aged(bundle(f"b{number}"), 1000 + number)
    made("bundles/.hidden/x")
    made("bundles/file")
    words = "; bundles/ holds b4, b3, b2, b1, b0"
    assert refused(names.find_bundle, Path("x")).endswith(words)
    aged(bundle("b5"), 1005)
    assert refused(names.find_bundle, Path("x")).endswith("; bundles/ holds b5, b4, b3, b2, b1, and 1 more")
    # Of one moment: by name, the last one first.
    for number in range(6):
        aged(Path(f"bundles/b{number}"), 1000)
    assert refused(names.find_bundle, Path("x")).endswith("; bundles/ holds b5, b4, b3, b2, b1, and 1 more")
    aged(run("r"), 5)
    assert refused(names.find_anything, Path("x")).endswith("and 1 more; runs/ holds r")
    assert names.find_anything(Path("r")) == Path("runs/r")


def test_new_names_are_not_latest() -> None:
    names.check_new_place(None)
    names.check_new_place(Path("runs/mine"))
    assert refused(names.check_new_place, Path("runs/latest")).startswith(
        "UsageError: runs/latest: a file called latest"
    )
    assert names.new_bundle("tiny", "fp16").match("bundles/tiny-fp16-????????-??????.bundle")
    assert names.new_import("caffe").match("runs/caffe-imported-????????-??????")


def test_only_entries_of_our_folders_become_the_default() -> None:
    place, found, other = run("a"), bundle("b.bundle"), made("else/c/x").parent
    for entry in (place, found, other):
        names.note_latest(entry)
    assert Path("runs/latest").read_text().strip() == "a"
    assert Path("bundles/latest").read_text().strip() == "b.bundle"
    assert not Path("else/latest").exists()


def test_what_the_command_line_names_must_exist() -> None:
    names.check_exists(made("a"), "file")
    Path("dangling").symlink_to("nowhere")
    names.check_exists(Path("dangling"), "file")
    assert refused(names.check_exists, Path("b"), "image") == "UsageError: b: there is no such image"
    names.check_data_exists(Path("a"))
    assert refused(names.check_data_exists, Path("b")) == "UsageError: b: there is no such file or folder"
    run("r")
    words = "UsageError: r: DATA is a folder of images; to resume this run, pass --out runs/r"
    assert refused(names.check_data_exists, Path("r")) == words
    # An entry that is no run does not count.
    bundle("c.bundle")
    assert refused(names.check_data_exists, Path("c")) == "UsageError: c: there is no such file or folder"


def test_own_runs_and_bundles_are_not_foreign() -> None:
    names.check_is_foreign(made("a"))
    place, found = run("r"), bundle("b.bundle")
    assert refused(names.check_is_foreign, place).startswith(
        f"WeightsError: {place}: this is a run, which needs no imp"
    )
    assert refused(names.check_is_foreign, found).startswith(f"WeightsError: {found}: this is a bundle, which is ready")


def test_the_next_command_names_images_that_are_there() -> None:
    found = bundle("b.bundle")
    assert names.next_prediction(found, None) is None
    assert names.next_prediction(found, "data") is None
    made("data/cat/a.jpg")
    assert names.next_prediction(found, "data") == "alexnet-deploy predict data/ --bundle bundles/b.bundle"
    assert names.next_prediction(found, None) is None
    # A folder without folders is no folder of classes, and a hidden folder is none.
    made("packed/.x/a")
    made("packed/pictures.u8")
    assert names.next_prediction(found, "packed") is None
    made("data/val/cat/a.jpg")
    assert names.next_prediction(found, "data") == "alexnet-deploy predict data/val/ --bundle bundles/b.bundle"
    made("drawn/val/a.jpg")
    assert names.next_prediction(found, "data") == "alexnet-deploy predict drawn/val/ --bundle bundles/b.bundle"
    made("images/.hidden")
    assert names.next_prediction(found, "data") == "alexnet-deploy predict drawn/val/ --bundle bundles/b.bundle"
    made("images/a.jpg")
    names.note_latest(found)
    assert names.next_prediction(found, "data") == "alexnet-deploy predict images/"
    elsewhere = names.prediction_of(Path("/a b"), found)
    assert elsewhere == "alexnet-deploy predict '/a b/'"


def test_a_run_is_known_by_its_weights_or_its_checkpoint() -> None:
    assert names.is_run(run("a"))
    assert names.is_run(run("b", names.CHECKPOINT))
    assert not names.is_run(bundle("c.bundle"))
    assert names.resume_words(Path("runs/b")) == "`alexnet-deploy train --resume --out runs/b` resumes it"
    assert names.resume_words(Path("runs/a")).startswith("training cannot be resumed: there is no checkpoint")


def test_the_run_of_the_newest_checkpoint_is_resumed() -> None:
    words = "UsageError: there is no runs/*/checkpoint.safetensors yet; `alexnet-deploy train` makes one"
    assert refused(names.find_run).partition(" yet")[2] == words.partition(" yet")[2]
    for name, seconds in (("a", 30), ("b", 40), ("c", 20)):
        aged(run(name, names.CHECKPOINT) / names.CHECKPOINT, seconds)
    made("runs/latest", b"a\n")
    assert names.find_run() == names.latest_checkpoint() == Path("runs/b")
    assert names.find_run(Path("c")) == Path("runs/c")
    assert refused(names.find_run, Path("d")).startswith("UsageError: d: there is no such run; runs/ holds ")


def test_weights_are_found_by_their_digest_the_newest_first() -> None:
    for name, content, seconds in (("a", b"1", 30), ("b", b"1", 40), ("c", b"2", 50)):
        aged(made(f"runs/{name}/{names.WEIGHTS}", content), seconds)
    assert names.weights_with(sha256(b"1")) == Path("runs/b") / names.WEIGHTS
    assert names.weights_with(sha256(b"2")) == Path("runs/c") / names.WEIGHTS
    assert names.weights_with(sha256(b"3")) is None
    made(f"runs/d/{names.WEIGHTS}/x")
    assert refused(names.weights_with, sha256(b"3")).startswith("WeightsError: runs/d/weights.safetensors: cannot be r")
