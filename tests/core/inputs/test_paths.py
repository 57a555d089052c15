import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.core.errors import ImageErrorCode, UsageError
from alexnet_deploy.core.fs import patience
from alexnet_deploy.core.inputs.paths import Input, find_inputs


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")


def found(*names: str) -> list[str]:
    """The paths, with a ! after each input that has an error."""
    return [os.fspath(item.path) + ("!" if item.error else "") for item in find_inputs(names)]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Folders


def test_a_file_stands_for_itself_and_need_not_exist() -> None:
    touch("a.jpg", ".hidden.jpg")
    assert found("nothing.jpg", "a.jpg", ".hidden.jpg") == ["nothing.jpg", "a.jpg", ".hidden.jpg"]


def test_a_folder_gives_its_files_in_the_order_of_their_bytes() -> None:
    names = [os.fsdecode(name) for name in (b"10", b"9", b"B", b"a", b"\xc3\xa9", b"\xf0\x9f\x90\x88", b"\xff")]
    touch(*(f"d/{name}" for name in reversed(names)))
    assert found("d") == [f"d/{name}" for name in names]


def test_folders_are_entered_where_their_name_sorts() -> None:
    touch("d/b.jpg", "d/a/z.jpg", "d/a.jpg", "d/a/b/c/d.jpg", "d/c/a.jpg")
    assert found("d") == ["d/a/b/c/d.jpg", "d/a/z.jpg", "d/a.jpg", "d/b.jpg", "d/c/a.jpg"]


def test_hidden_files_and_folders_are_skipped() -> None:
    touch("d/.DS_Store", "d/.git/a.jpg", "d/a.jpg", "d/e/.thumb.jpg")
    assert found("d") == ["d/a.jpg"]


def test_an_empty_folder_gives_nothing() -> None:
    Path("d").mkdir()
    assert found("d") == []


def test_an_empty_name_is_missing_and_not_the_working_folder() -> None:
    touch("a.jpg")
    (item,) = find_inputs([""])
    assert item.error is not None
    assert item.error[0] == ImageErrorCode.MISSING


def test_what_is_named_twice_is_given_twice() -> None:
    touch("d/a.jpg")
    assert found("d", "d/a.jpg", "d") == ["d/a.jpg"] * 3


def test_a_folder_nested_deeper_than_pythons_calls_is_walked() -> None:
    depth = 1100
    for level in range(1, depth + 1):
        Path("/".join("d" * level)).mkdir()
    deepest = "/".join("d" * depth)
    touch(f"{deepest}/a.jpg")
    try:
        assert found("d") == [f"{deepest}/a.jpg"]
    finally:
        Path(f"{deepest}/a.jpg").unlink()
        for level in range(depth, 0, -1):
            Path("/".join("d" * level)).rmdir()


# Links


def test_links_to_folders_are_followed() -> None:
    touch("elsewhere/a.jpg", "d/b.jpg")
    Path("d/one").symlink_to("../elsewhere")
    Path("d/two").symlink_to("../elsewhere")
    assert found("d") == ["d/b.jpg", "d/one/a.jpg"]
    assert found("d/one", "d/two") == ["d/one/a.jpg", "d/two/a.jpg"]


@pytest.mark.parametrize("target", [".", "..", "../../d"])
def test_a_link_back_is_passed_over(target: str) -> None:
    touch("d/e/a.jpg")
    Path("d/e/loop").symlink_to(target)
    assert found("d") == ["d/e/a.jpg"]


def test_a_folder_has_its_own_name_whichever_links_come_before_it() -> None:
    touch("d/real/sub/a.jpg", "d/.hidden/b.jpg")
    Path("d/alias").symlink_to("real")
    Path("d/deep").symlink_to("real/sub")
    # A hidden folder is not walked under its own name.
    Path("d/shown").symlink_to(".hidden")
    assert found("d") == ["d/real/sub/a.jpg", "d/shown/b.jpg"]
    # A link that is itself the input is followed.
    assert found("d/alias") == ["d/alias/sub/a.jpg"]
    Path("way").symlink_to("d")
    assert found("way") == ["way/real/sub/a.jpg", "way/shown/b.jpg"]


def test_a_link_to_a_folder_above_is_followed_once() -> None:
    touch("d/a.jpg", "beside.jpg")
    Path("d/up").symlink_to("..")
    assert found("d") == ["d/a.jpg", "d/up/beside.jpg"]


def test_links_that_lead_to_each_other_or_nowhere_are_inputs() -> None:
    Path("d").mkdir()
    for name, target in (("a", "b"), ("b", "a"), ("c", "nothing")):
        Path("d", name).symlink_to(target)
    assert found("d") == ["d/a", "d/b", "d/c"]


def test_two_folders_that_link_to_each_other_end() -> None:
    touch("d/a/1.jpg", "d/b/2.jpg")
    Path("d/a/to_b").symlink_to("../b")
    Path("d/b/to_a").symlink_to("../a")
    assert found("d") == ["d/a/1.jpg", "d/b/2.jpg"]


@contextmanager
def locked_folder() -> Iterator[Path]:
    """A folder that cannot be listed, even if the tests run as root, with a file beside it.

    Not a fixture: between the parts of a test, pytest-cov writes as the user who opened its file.
    """
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), os.geteuid()
        folder.chmod(0o755)
        touch(f"{name}/a/1.jpg", f"{name}/b.jpg")
        folder.joinpath("a").chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(user)
            folder.joinpath("a").chmod(0o755)


def test_a_folder_that_cannot_be_listed_is_one_input() -> None:
    with locked_folder() as locked:
        expected = [f"{locked}/a!", f"{locked}/b.jpg"]
        assert found(str(locked)) == expected
        assert found(f"{locked}/**/*.jpg") == expected
        assert found(f"{locked}/a/1.jpg") == [f"{locked}/a/1.jpg"]


# Patterns


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("?.png", ["a.png"]),
        ("[ab].jpg", ["a.jpg", "b.jpg"]),
        ("d/*.jpg", ["d/c.jpg"]),
        ("d*/e", ["d/e/f.jpg", "d/e/g.png"]),
        ("d/*", ["d/c.jpg", "d/e/f.jpg", "d/e/g.png"]),
        ("**/*.jpg", ["a.jpg", "b.jpg", "d/c.jpg", "d/e/f.jpg"]),
        ("d/**", ["d/c.jpg", "d/e/f.jpg", "d/e/g.png"]),
        ("[c-e]/**/*.jpg", ["d/c.jpg", "d/e/f.jpg"]),
        ("**/e/**/*.jpg", ["d/e/f.jpg"]),
        ("**/e", ["**/e"]),
        ("a.jpg/**", ["a.jpg/**"]),
        ("nothing*.jpg", ["nothing*.jpg"]),
        ("nothing/**/*.jpg", ["nothing/**/*.jpg"]),
        (".*", [".hidden.jpg"]),
    ],
)
def test_a_pattern_gives_what_it_matches_or_itself(pattern: str, expected: list[str]) -> None:
    touch("a.jpg", "b.jpg", "a.png", ".hidden.jpg", "d/c.jpg", "d/.h/i.jpg", "d/e/f.jpg", "d/e/g.png")
    assert found(pattern) == expected
    here = Path.cwd()
    assert found(f"{here}/{pattern}") == [f"{here}/{name}" for name in expected]


def test_a_file_whose_name_is_a_pattern_is_that_file() -> None:
    touch("[ab].jpg", "a.jpg", "a.png")
    Path("[ab].png").symlink_to("nothing")
    assert found("[ab].jpg", "[ab].png") == ["[ab].jpg", "[ab].png"]


def test_a_pattern_goes_once_around_a_loop() -> None:
    touch("d/a.jpg", "d/e/b.jpg")
    Path("d/e/loop").symlink_to("..")
    Path("d/e/other").symlink_to("..")
    assert found("d/**/*.jpg") == ["d/a.jpg", "d/e/b.jpg"]


def test_a_path_is_no_pattern() -> None:
    touch("d/photo1.jpg", "d/photo2.jpg")
    assert found("d/photo[12].jpg") == ["d/photo1.jpg", "d/photo2.jpg"]
    assert [item.name for item in find_inputs([Path("d/photo[12].jpg")])] == ["d/photo[12].jpg"]


def test_names_are_as_they_were_given() -> None:
    touch("d/a.jpg")
    assert [item.name for item in find_inputs(["./d//a.jpg", "./d/", "./*/*.jpg", "./**/*.jpg"])] == [
        "./d//a.jpg",
        "./d/a.jpg",
        "./d/a.jpg",
        "./d/a.jpg",
    ]


def test_a_dash_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match="the name - stands for a list of names"):
        find_inputs(["a.jpg", "-"])


# Transient file system errors


class Flaky:
    """Wrap an os function so that it fails this many times for names that end in `x`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, number: int, times: int) -> None:
        self.real, self.number, self.times = getattr(os, name), number, times
        monkeypatch.setattr(os, name, self)

    def __call__(self, path: object, *arguments: object, **options: object) -> object:
        if os.fsdecode(path).endswith("x") and self.times:  # type: ignore[arg-type]
            self.times -= 1
            raise OSError(self.number, os.strerror(self.number))
        return self.real(path, *arguments, **options)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays that were requested; the tests do not wait."""
    waits: list[float] = []
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(wait=waits.append))
    return waits


@pytest.mark.parametrize("call", ["stat", "listdir", "lstat"])
def test_a_folder_that_is_away_for_a_moment_is_asked_again(
    call: str, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    touch("d/x/a.jpg", "d/b.jpg")
    flaky = Flaky(monkeypatch, call, errno.ESTALE, 3)
    assert found("d/x", "d/b.jpg") == ["d/x/a.jpg", "d/b.jpg"]
    assert flaky.times == 0
    assert waits == [0.1, 0.5, 2.0]
    Flaky(monkeypatch, call, errno.ESTALE, 99)
    (item, *_) = find_inputs(["d/x"])
    assert item.name == "d/x"


def test_what_will_not_pass_is_not_waited_for(waits: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    touch("d/x/a.jpg")
    Flaky(monkeypatch, "listdir", errno.EACCES, 1)
    (item,) = find_inputs(["d/x"])
    assert item.error == (ImageErrorCode.UNREADABLE, "Permission denied")
    assert waits == []


@pytest.mark.parametrize(
    ("name", "text"),
    [(b"a b.jpg", "a b.jpg"), ("é🐈.jpg".encode(), "é🐈.jpg"), (b"caf\xe9\xff.jpg", r"caf\xe9\xff.jpg")],
    ids=["ascii", "utf-8", "neither"],
)
def test_the_text_of_a_path_can_be_written_in_utf_8(name: bytes, text: str) -> None:
    item = Input(name=os.fsdecode(name))
    assert item.text == text
    assert item.text.encode("utf-8").decode() == text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("\ud800.jpg", r"\ud800.jpg"),
        (Path("é\udfff"), r"é\udfff"),
        ("\ud800/*", r"\ud800/*"),
        ("**/\udbff\udce9", r"**/\udbff\udce9"),
        ("\ud800/**/*.jpg", r"\ud800/**/*.jpg"),
    ],
    ids=ascii,
)
def test_text_that_is_no_name_is_an_input_that_is_missing(name: str | Path, text: str) -> None:
    touch("a.jpg", "d/a.jpg")
    (item,) = find_inputs([name])
    assert (item.text, item.error) == (text, (ImageErrorCode.MISSING, "the name is not valid for a file"))
    assert item.text.encode("utf-8").decode() == text


# Laws

Tree: TypeAlias = "dict[str, Tree | None]"
NAMES = st.text(alphabet="ab.[é\udcff", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
TREES = st.dictionaries(
    NAMES, st.recursive(st.none(), lambda inner: st.dictionaries(NAMES, inner, max_size=4), max_leaves=20), max_size=4
)


def grow(folder: Path, tree: Tree) -> Iterator[Path]:
    """Create the tree; yield its files that are not hidden by a leading dot."""
    folder.mkdir(exist_ok=True)
    for name, inner in tree.items():
        path = folder / name
        below = [path] if inner is None else list(grow(path, inner))
        if inner is None:
            path.write_bytes(b"")
        if not name.startswith("."):
            yield from below


@settings(max_examples=60)
@given(tree=TREES)
def test_every_file_that_is_not_hidden_is_given_exactly_once(tree: Tree) -> None:
    with tempfile.TemporaryDirectory() as name:
        files = list(grow(Path(name), tree))
        walked = found(name)
        assert sorted(walked) == sorted(map(os.fspath, files))
        assert found(f"{name}/**") == (walked or [f"{name}/**"])
        assert walked == sorted(walked, key=lambda path: os.fsencode(path).split(b"/"))


@pytest.mark.parametrize("pattern", ["new/*.jpg", "new/**/*.jpg", "new/*.JPG", "n?w/**/?.Jpg", "new/[ab].jpg"])
def test_the_ending_of_a_pattern_fits_any_case(pattern: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("new").mkdir()
    for name in ("a.JPG", "b.jpg", "c.jpeg", "d.png", "jpg"):
        Path("new", name).touch()
    assert [found.name for found in find_inputs([pattern])] == ["new/a.JPG", "new/b.jpg"]


def test_only_the_ending_of_a_pattern_fits_any_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("New").mkdir()
    for name in ("A.jpg", "a.JPG", "a.jpgx"):
        Path("New", name).touch()
    for pattern, names in (
        ("new/*.jpg", ["new/*.jpg"]),
        ("New/a*.jpg", ["New/a.JPG"]),
        ("New/*.[j]pg", ["New/A.jpg"]),
        ("New/*.jp?", ["New/A.jpg"]),
        ("**/A.jpg", ["New/A.jpg"]),
    ):
        assert [found.name for found in find_inputs([pattern])] == names
    # A name that is not a pattern stands for itself.
    assert [found.name for found in find_inputs(["New/A.JPG"])] == ["New/A.JPG"]


def test_a_folder_is_gone_through_once_whatever_links_lead_to_it(tmp_path: Path) -> None:
    for level in range(23):
        (tmp_path / f"{level:02}").mkdir()
    for level in range(22):
        for name in "ab":
            (tmp_path / f"{level:02}" / name).symlink_to(tmp_path / f"{level + 1:02}")
    (tmp_path / "22/x.jpg").touch()
    (only,) = find_inputs([tmp_path / "00"])
    assert (only.name, only.error) == (f"{tmp_path}/00/{'/'.join('a' * 22)}/x.jpg", None)


def test_a_folder_that_two_matches_of_a_pattern_lead_to_is_gone_through_once(tmp_path: Path) -> None:
    (tmp_path / "a/real").mkdir(parents=True)
    (tmp_path / "a/real/x.jpg").touch()
    (tmp_path / "b").symlink_to(tmp_path / "a")
    found = list(find_inputs([f"{tmp_path}/*"]))
    assert [(item.name, item.error) for item in found] == [(f"{tmp_path}/a/real/x.jpg", None)]
    # A folder that is named twice is walked twice.
    assert [item.error for item in find_inputs([tmp_path / "a", tmp_path / "b"])] == [None, None]


def test_folders_side_by_side_of_one_parent_are_not_taken_for_one(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "same").mkdir(parents=True)
        (tmp_path / name / "same/x.jpg").touch()
    assert [item.error for item in find_inputs([tmp_path])] == [None, None]
