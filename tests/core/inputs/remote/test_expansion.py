import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from archives import tar_of
from fsspec.implementations.memory import MemoryFileSystem

from alexnet_deploy.core.errors import ImageError, UsageError
from alexnet_deploy.core.fs import patience
from alexnet_deploy.core.images.decode import DecodeLimits
from alexnet_deploy.core.inputs.lists import find_listed
from alexnet_deploy.core.inputs.paths import Input, find_inputs, input_of
from alexnet_deploy.core.inputs.remote import urls, zip_file

LIMITS = DecodeLimits()


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """An empty file system in memory, and an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(patience, "PATIENCE", patience.Patience(wait=lambda _: None))
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def put(system: MemoryFileSystem, *paths: str) -> None:
    for path in paths:
        system.pipe(path, path.encode())


def row(item: Input | None) -> str | None:
    return item and (f"{item.name} {item.error[0]}" if item.error else item.name)


def found(*names: str) -> list[str | None]:
    return [row(item) for item in find_inputs(names)]


def contents(*names: str) -> dict[str, bytes]:
    return {item.name: item.file.read(LIMITS) for item in find_inputs(names) if item.file is not None}


TREE = ("/d/b.jpg", "/d/a/z.jpg", "/d/a.jpg", "/d/a/b/c/d.JPG", "/d/é.png", "/d/.git/x.jpg", "/d/a/.x.jpg", "/d/B")


def test_a_folder_gives_its_files_in_the_order_of_their_bytes(memory: MemoryFileSystem) -> None:
    put(memory, *TREE)
    names = ["d/B", "d/a/b/c/d.JPG", "d/a/z.jpg", "d/a.jpg", "d/b.jpg", "d/é.png"]
    for given, prefix in (("memory://d", "memory://"), ("memory://d/", "memory://"), ("memory:///d", "memory:///")):
        assert found(given) == [f"{prefix}{name}" for name in names]
        assert contents(given) == {f"{prefix}{name}": f"/{name}".encode() for name in names}
    assert found("memory://d/b.jpg", "memory://d/.git/x.jpg") == ["memory://d/b.jpg", "memory://d/.git/x.jpg"]


@pytest.mark.parametrize(
    ("pattern", "below"),
    [
        ("*.jpg", ["a.jpg", "b.jpg"]),
        ("*", ["B", "a/b/c/d.JPG", "a/z.jpg", "a.jpg", "b.jpg", "é.png"]),
        ("a*", ["a/b/c/d.JPG", "a/z.jpg", "a.jpg"]),
        ("**/*.jpg", ["a/b/c/d.JPG", "a/z.jpg", "a.jpg", "b.jpg"]),
        ("**", ["B", "a/b/c/d.JPG", "a/z.jpg", "a.jpg", "b.jpg", "é.png"]),
        ("?/**/d.jpg", ["a/b/c/d.JPG"]),
        ("[ab].jpg", ["a.jpg", "b.jpg"]),
        ("*/*/c", ["a/b/c/d.JPG"]),
        (".g*", [".git/x.jpg"]),
    ],
)
def test_a_pattern_matches_as_it_does_on_disk(pattern: str, below: list[str], memory: MemoryFileSystem) -> None:
    put(memory, *TREE)
    assert found(f"memory://d/{pattern}") == [f"memory://d/{name}" for name in below]
    for path in TREE:
        Path(f".{path}").parent.mkdir(parents=True, exist_ok=True)
        Path(f".{path}").write_bytes(b"")
    assert sorted(item.name for item in find_inputs([f"d/{pattern}"])) == sorted(f"d/{name}" for name in below)


def test_a_pattern_that_the_store_calls_invalid_is_a_pattern(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(memory, *TREE)
    info = MemoryFileSystem.info

    def strict(self: MemoryFileSystem, path: str, **options: object) -> dict[str, object]:
        if "*" in path:
            raise ValueError("Invalid bucket name")
        return info(self, path, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(MemoryFileSystem, "info", strict)
    assert found("memory://*/b.jpg") == ["memory://d/b.jpg"]


def test_a_name_that_exists_is_no_pattern(memory: MemoryFileSystem) -> None:
    put(memory, "/d/photo[12].jpg", "/d/photo1.jpg")
    assert found("memory://d/photo[12].jpg") == ["memory://d/photo[12].jpg"]


def test_what_is_not_there_is_one_missing_input(memory: MemoryFileSystem) -> None:
    put(memory, "/d/a.jpg")
    for name in ("memory://no", "memory://no/a.jpg", "memory://d/*.png", "memory://no/*/x", "memory://no.tar"):
        assert found(name, "after.jpg") == [f"{name} missing", "after.jpg"]


def test_a_name_in_a_list_is_a_file_and_asks_nobody(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    put(memory, "/d/a.jpg", "/d/*.jpg")
    memory.pipe("/d/t.tar", tar_of({"0.jpg": b"x"}))
    listed = [b"memory://d/\n", b"memory://d/a.jpg\n", b"memory://d/*.jpg\r\n", None, b"memory://d/t.tar\n"]
    names = ["memory://d/*.jpg", "memory://d/a.jpg", "memory://d/t.tar/0.jpg"]
    rest = ["memory://d/a.jpg", "memory://d/*.jpg", None, "memory://d/t.tar/0.jpg"]
    assert [row(item) for item in find_listed(["-"], listed)] == names + rest
    (folder,) = find_listed(["-"], [b"memory://d\n"])
    assert folder is not None
    assert folder.file is not None
    with pytest.raises(ImageError, match="it is a folder; in a list, the name of a folder must end with /"):
        folder.file.read(LIMITS)
    monkeypatch.setattr(MemoryFileSystem, "info", None)
    assert [row(item) for item in find_listed(["-"], [b"memory://d/a.jpg\n"])] == ["memory://d/a.jpg"]


@pytest.mark.parametrize("error", [OSError("no"), ValueError("no"), KeyError("type"), PermissionError(13, "Denied")])
def test_a_folder_that_cannot_be_listed_is_one_input(
    error: Exception, memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(memory, "/d/a/x.jpg", "/d/b/x.jpg", "/d/c/x.jpg")
    listing = MemoryFileSystem.ls

    def ls(self: MemoryFileSystem, path: str, **options: object) -> list[dict[str, object]]:
        if path == "/d/b":
            raise error
        return listing(self, path, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    assert found("memory://d") == ["memory://d/a/x.jpg", "memory://d/b unreadable", "memory://d/c/x.jpg"]


def test_objects_that_name_their_folder_and_names_with_two_slashes(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(memory, "/d/a.jpg", "/d/b.jpg")
    listing = MemoryFileSystem.ls

    def ls(self: MemoryFileSystem, path: str, **options: object) -> list[dict[str, object]]:
        # As S3 lists the keys d/ and d//x.jpg.
        folder = {"name": "/d/", "size": 0, "type": "directory"}
        return [{"name": "/d", "size": 0, "type": "file"}, folder, *listing(self, path, **options)]

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    assert found("memory://d") == ["memory://d/ unreadable", "memory://d/a.jpg", "memory://d/b.jpg"]


def test_folders_are_listed_when_they_are_reached(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    put(memory, "/d/a/x.jpg", "/d/b/x.jpg")
    listing = MemoryFileSystem.ls
    listed: list[str] = []

    def ls(self: MemoryFileSystem, path: str, **options: object) -> list[dict[str, object]]:
        listed.append(path)
        return listing(self, path, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr(MemoryFileSystem, "ls", ls)
    items = find_inputs(["memory://d"])
    assert next(items).name == "memory://d/a/x.jpg"
    assert listed == ["/d", "/d/a"]


def test_an_archive_in_a_store_expands_to_its_files(memory: MemoryFileSystem) -> None:
    memory.pipe("/d/b.tar", tar_of({"0.jpg": b"zero", "0.cls": b"1", "1.jpg": bytes(2 << 20), "2.jpg": b"two"}))
    put(memory, "/d/a.jpg", "/d/c.jpg")
    names = ["memory://d/b.tar/0.jpg", "memory://d/b.tar/1.jpg", "memory://d/b.tar/2.jpg"]
    assert list(contents("memory://d/b.tar").values()) == [b"zero", bytes(2 << 20), b"two"]
    assert found("memory://d") == ["memory://d/a.jpg", *names, "memory://d/c.jpg"]
    memory.pipe("/d/b.tar", memory.cat("/d/b.tar")[:1024])
    assert found("memory://d/*.tar") == ["memory://d/b.tar/0.jpg", "memory://d/b.tar truncated"]


# Zip archives


def write_zip(name: str, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(name, "w", zipfile.ZIP_DEFLATED) as file:
        for path, data in files.items():
            file.writestr(path, data)


def test_a_zip_archive_is_read_through_a_chain(memory: MemoryFileSystem) -> None:
    files = {"a.jpg": b"a", "d/b.JPG": b"b", "d/c.txt": b"c", "d/.x.jpg": b"x", "e.tar": tar_of({"0.jpg": b"x"})}
    write_zip("p.zip", files)
    memory.pipe("/p.zip", Path("p.zip").read_bytes())
    for place in ("p.zip", "memory://p.zip", f"file://{Path.cwd()}/p.zip"):
        # An archive in an archive is a file.
        assert found(f"zip://::{place}") == [
            f"zip://{name}::{place}" for name in ("a.jpg", "d/b.JPG", "d/c.txt", "e.tar")
        ]
        assert contents(f"zip://**/*.jpg::{place}") == {f"zip://a.jpg::{place}": b"a", f"zip://d/b.JPG::{place}": b"b"}
        assert contents(f"zip://d/b.JPG::{place}") == {f"zip://d/b.JPG::{place}": b"b"}
        assert found(f"zip://no.jpg::{place}") == [f"zip://no.jpg::{place} missing"]


def test_the_table_of_a_zip_archive_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    write_zip("once.zip", {f"{number}.jpg": b"x" for number in range(5)})
    opened: list[object] = []
    read_table = zipfile.ZipFile._RealGetContents  # type: ignore[attr-defined]

    def count(self: zipfile.ZipFile) -> None:
        opened.append(self)
        read_table(self)

    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", count)
    assert len(contents("zip://::once.zip", "zip://*.jpg::once.zip", "zip://0.jpg::once.zip")) == 5
    assert len(opened) == 1


@pytest.mark.parametrize("is_listed", [False, True])
def test_a_zip_archive_that_was_replaced_is_read_again(is_listed: bool) -> None:
    url = "zip://a.jpg::replaced.zip"
    for data in (b"one", b"two"):
        Path("replaced.zip").unlink(missing_ok=True)
        write_zip("replaced.zip", {"a.jpg": data})
        (item,) = find_listed(["-"], [url.encode()]) if is_listed else find_inputs([url])
        assert item is not None
        assert item.file is not None
        assert item.file.read(LIMITS) == data


def test_listings_are_not_kept() -> None:
    for url in ("memory://d", "https://host/a.jpg", "zip://::kept.zip"):
        write_zip("kept.zip", {"a.jpg": b"x"})
        system, _ = urls.file_system_of(url)
        system.dircache["/d"] = []
        assert "/d" not in system.dircache


@pytest.mark.parametrize(("content", "code"), [(b"no zip", "unreadable"), (None, "missing")])
def test_a_zip_archive_that_cannot_be_read_is_one_input(content: bytes | None, code: str) -> None:
    if content is not None:
        Path("q.zip").write_bytes(content)
    for name in ("zip://::q.zip", "zip://a.jpg::q.zip"):
        assert found(name, "after.jpg") == [f"{name} {code}", "after.jpg"]


def test_a_zip_bomb_is_too_large() -> None:
    write_zip("bomb.zip", {"a.jpg": bytes(20 << 20)})
    (item,) = find_inputs(["zip://a.jpg::bomb.zip"])
    assert item.file is not None
    with pytest.raises(ImageError, match="20,971,520 bytes, the limit is 1,000"):
        item.file.read(DecodeLimits(max_bytes=1000))


def test_a_zip_archive_whose_table_of_contents_is_endless_is_one_input(
    memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zip_file, "_MOST_TABLE_BYTES", 1 << 20)
    table = b"PK\1\2" * (1 << 20)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9, 9, len(table), 0, 0)
    memory.pipe("/large.zip", table + end)
    (item,) = find_inputs(["zip://*.jpg::memory://large.zip"])
    assert item.error == (
        "unreadable",
        "the table of contents of the zip archive has more than 1,048,576 bytes, the limit",
    )
    # The files in an archive may be larger.
    with zipfile.ZipFile("small.zip", "w") as file:
        file.writestr("a.jpg", bytes(3 << 20))
    memory.pipe("/small.zip", Path("small.zip").read_bytes())
    assert {len(data) for data in contents("zip://a.jpg::memory://small.zip").values()} == {3 << 20}


# What is not a URL, and what cannot be read here


def test_local_files_come_first_and_literal_names_stay_local(memory: MemoryFileSystem) -> None:
    put(memory, "/d/a.jpg")
    assert input_of("memory://d/a.jpg").file is None
    assert [item.file for item in find_inputs([Path("memory://d/a.jpg")])] == [None]
    Path("memory:/d").mkdir(parents=True)
    Path("memory:/d/a.jpg").write_bytes(b"local")
    assert [item.file for item in find_inputs(["memory://d/a.jpg"])] == [None]
    assert [item.file for item in find_listed(["-"], [b"memory://d/a.jpg\n"]) if item] == [None]


@pytest.mark.parametrize("name", ["ftp://host/*.jpg", "S3://b/a.jpg", "HTTPS://me:secret@host/a.jpg", "file:///a.jpg"])
@pytest.mark.parametrize("is_listed", [False, True])
def test_urls_of_other_schemes_are_missing_files_whose_rows_say_why(name: str, is_listed: bool) -> None:
    (item,) = find_listed(["-"], [name.encode()]) if is_listed else find_inputs([name])
    assert item is not None
    assert item.error is not None
    assert item.name == name.replace("secret", "***")
    code, words = item.error
    assert code == "missing"
    assert f"URLs of {name.partition(':')[0]}:// are not read, only of s3, " in words


def test_a_local_name_with_a_scheme_is_read() -> None:
    Path("ftp:/host").mkdir(parents=True)
    Path("ftp:/host/a.jpg").write_bytes(b"local")
    assert found("ftp://host/a.jpg", "s3:/b/a.jpg", "a b://c") == ["ftp://host/a.jpg", "s3:/b/a.jpg", "a b://c"]


@pytest.mark.parametrize("password", ["p@ss", "my pass", "a@b c@d", "p?a", "p#a", "p:a", ""])
def test_a_password_of_any_characters_is_masked(password: str) -> None:
    for url in (f"https://me:{password}@host:80/a@b.jpg", f"zip://a:b.jpg::https://me:{password}@host/p.zip"):
        masked = url.replace(f"me:{password}@", "me:***@")
        assert urls.masked(url) == masked
        assert urls.without_secrets(f"cannot connect to {url}") == f"cannot connect to {masked}"


def test_an_address_of_ipv6_is_no_chain() -> None:
    assert urls.is_web("http://[::1]:8080/a.jpg")
    assert not urls.is_web("http://[::1]/p.zip::memory://a")
    assert urls.file_system_of("https://[fe80::1]/a.jpg")[1] == "https://[fe80::1]/a.jpg"
    assert found("http://[::1]/a.jpg?x=.tar") == ["http://[::1]/a.jpg?x=.tar"]


@pytest.mark.parametrize(
    ("url", "module", "command"),
    [
        ("s3://bucket/a.jpg", "s3fs", "pip install s3fs"),
        ("gs://bucket/*.jpg", "gcsfs", "pip install gcsfs"),
        ("az://container/a.jpg", "adlfs", "pip install adlfs"),
        ("zip://*.jpg::s3://bucket/p.zip", "s3fs", "pip install s3fs"),
        ("https://host/a.jpg", "aiohttp", r"pip install .*\[remote\]'?"),
        ("memory://a.jpg", "fsspec", r"pip install .*\[remote\]'?"),
    ],
)
def test_a_missing_package_is_named_before_the_first_row(
    url: str, module: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = urls.find_spec
    monkeypatch.setattr(urls, "find_spec", lambda name: None if name == module else find_spec(name) or True)
    sentence = rf"needs {module}, which is not installed; `{command}` installs it$"
    with pytest.raises(UsageError, match=sentence):
        find_inputs(["a.jpg", url])
    with pytest.raises(UsageError, match=sentence):
        find_listed(["a.jpg", url], [])
    listed = find_listed(["-"], [b"a.jpg\n", url.encode()])
    assert row(next(listed)) == "a.jpg"
    with pytest.raises(UsageError, match=sentence):
        next(listed)
