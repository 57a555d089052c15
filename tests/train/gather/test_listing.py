"""Lists of URLs in every format, and what is wrong with them."""

import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from alexnet_deploy.core.errors import DataError, UsageError
from alexnet_deploy.train.gather.listing import Entry, read_list

CAT = Entry(url="https://a.org/1,2.jpg", label="cat", licence="CC0", page="https://a.org/")
DOG = Entry(url="https://b.org/ü.jpg", label="hot dog")


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_every_format_gives_the_same_list(tmp_path: Path) -> None:
    rows = [
        {"url": one.url, "class": one.label, "license": one.licence or None, "page": one.page or None, "id": 7}
        for one in (CAT, DOG)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    csv = '\ufeffURL,Class,id,License,page\r\n"https://a.org/1,2.jpg",cat,7,CC0,https://a.org/\r\n\r\n'
    for path in (
        written(tmp_path / "a.csv", f"{csv} https://b.org/ü.jpg ,hot dog,,,\r\n"),
        written(
            tmp_path / "a.tsv", f"class\turl\tlicence\tpage\ncat\t{CAT.url}\tCC0\t{CAT.page}\nhot dog\t{DOG.url}\t\t"
        ),
        written(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n"),
        tmp_path / "a.parquet",
    ):
        assert read_list(path) == [CAT, DOG], path


def test_an_invalid_url_is_an_entry_of_the_list(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "url,class\nnot a url,cat\n")
    assert read_list(path) == [Entry(url="not a url", label="cat")]


def test_a_page_is_a_class_and_a_folder_holds_pages(tmp_path: Path) -> None:
    page = "<base href='https://a.org/x/'><img src=1.jpg>"
    for name in ("cat.html", "dog/one.HTM", "dog/two.html", "cat_files/frame.html", ".hidden/a.html"):
        (tmp_path / "pages" / name).parent.mkdir(parents=True, exist_ok=True)
        written(tmp_path / "pages" / name, page)
    written(tmp_path / "pages/notes.txt", "no page")
    found = read_list(tmp_path / "pages")
    assert [(one.label, Path(one.page).name, one.url) for one in found] == [
        ("cat", "cat.html", "https://a.org/x/1.jpg"),
        ("dog", "one.HTM", "https://a.org/x/1.jpg"),
        ("dog", "two.html", "https://a.org/x/1.jpg"),
    ]
    assert read_list(tmp_path / "pages/cat.html") == found[:1]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "", "has no column 'url'; its columns are none"),
        ("a.csv", "link,class\nb,c\n", "has no column 'url'; its columns are link, class"),
        ("a.csv", "url,label\nb,c\n", "has no column 'class'; its columns are url, label"),
        ("a.csv", "url,class,URL\na,b,c\n", "has 2 columns 'url'"),
        ("a.csv", "url,class\n", "holds no URL"),
        ("a.csv", "url,class\na,b\nc\n", "line 3 has 1 cells, not 2"),
        ("a.csv", "url,class\na,\n", "line 2: has no class"),
        ("a.csv", "url,class\n ,b\n", "line 2: has no url"),
        ("a.csv", 'url,class\n"a"b,c\n', "line 2 is not csv: "),
        ("a.jsonl", '{"url": "a", "class": "b"}\n{"url": "a"}\n', "line 2: class is missing"),
        ("a.jsonl", '{"url": 7, "class": "b"}\n', "line 1: url must be a string, got an integer"),
        ("a.jsonl", "{\n", "line 1 is not JSON: "),
        ("a.parquet", "PAR1", "cannot be read as parquet: "),
        ("a.html", "<p>nothing</p>", "holds no URL"),
        ("a.csv", "url,class\na,../b\n", "URL 1: the class '../b' cannot be the name of a folder"),
        ("a.csv", "url,class\na,c\na,b/c\n", "URL 2: the class 'b/c' cannot be the name of a folder"),
        ("a.csv", "url,class\na,.b\n", "URL 1: the class '.b' cannot be the name of a folder"),
        ("a.csv", "url,class\na,b \n", "URL 1: the class 'b ' begins or ends with a space"),
        ("a.csv", 'url,class\na,"b\nc"\n', "URL 1: the class 'b\\nc' is not one line of printable text"),
        ("a.csv", "url,class\na,b\x1b[2J\n", "URL 1: the class 'b\\x1b[2J' is not one line of printable text"),
        ("a.csv", f"url,class\na,{'ü' * 128}\n", "has more than 255 bytes"),
        ("a.csv", f"url,class\na,b\n{'u' * 65_537},b\n", "URL 2 has a text of 65,537 characters, the limit is 65,536"),
        ("a.csv", "url,class\na,Cat\na,cat\n", "the classes 'Cat' and 'cat' differ only in case"),
        ("a.csv", "url,class\na,caf\u00e9\na,cafe\u0301\n", "differ only in case; use one spelling"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_its_line(name: str, text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_list(written(tmp_path / name, text))
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert words in str(caught.value)


def test_a_list_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"its extension is not one of \.csv, \.tsv, "):
        read_list(written(tmp_path / "a.txt", "https://a.org/1.jpg\n"))
    (tmp_path / "a.csv").write_bytes(b"url,class\na,caf\xe9\n")
    with pytest.raises(DataError, match="is not UTF-8: "):
        read_list(tmp_path / "a.csv")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_list(tmp_path / "b.csv")
    numbers = pyarrow.Table.from_pylist([{"url": "a", "class": 7}])
    pyarrow.parquet.write_table(numbers, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="line 1: class must be a text, got 7"):
        read_list(tmp_path / "a.parquet")
