"""Images of saved web pages."""

from pathlib import Path

import pytest

from alexnet_deploy.train.gather.pages import images_in

SAVED = "<!-- saved from url=(0028)https://a.org/gallery/cats -->\n"
BASE = "https://a.org/gallery/"


def images(html: str, tmp_path: Path) -> list[str]:
    page = tmp_path / "cats.html"
    page.write_text(SAVED + html, encoding="utf-8")
    address, found = images_in(page)
    assert address == "https://a.org/gallery/cats"
    return [url.removeprefix(BASE) for url in found]


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ("<img src='a.jpg'><IMG SRC=b.jpg><img src=' a.jpg '><img><img src=''>", ["a.jpg", "b.jpg"]),
        ("<img src=a.jpg srcset='a1.jpg, a2.jpg 2x, a15.jpg 1.5x'>", ["a2.jpg"]),
        ("<img src=a.jpg srcset='s.jpg 300w,l,1.jpg 900w,m.jpg 600w'>", ["l,1.jpg"]),
        ("<img src=a.jpg srcset='b.jpg 1.2.3x'>", ["b.jpg"]),
        ("<img src=a.jpg srcset=' , '>", ["a.jpg"]),
        ("<a href='/full/b.JPG?w=1'><img src=thumb.jpg></a>", ["https://a.org/full/b.JPG?w=1"]),
        ("<a href='page.html'><b><img src=c.png></b></a>", ["c.png"]),
        ("<a href='//cdn.org/d.webp'>d</a><a href=e.pdf>e</a><a>f</a>", ["https://cdn.org/d.webp"]),
        ("<img src='data:image/gif;base64,R0lGOD'><img src='DATA:x'>", []),
        ("<a href='http://[bad/a.jpg'>a</a><img src='http://[bad/b'>", ["http://[bad/b"]),
        ("<picture><source srcset=a.avif><img src=a.jpg></picture>", ["a.jpg"]),
        ("<div><img src=a.jpg<p>", ["a.jpg<p"]),
    ],
)
def test_images_are_links_and_the_largest_of_each_img(html: str, found: list[str], tmp_path: Path) -> None:
    assert images(html, tmp_path) == found


def test_a_page_that_says_nothing_of_itself_keeps_relative_urls(tmp_path: Path) -> None:
    page = tmp_path / "cats.html"
    for head, address, first in (
        ("", None, "a.jpg"),
        ("<base href='https://b.org/x/'>", None, "https://b.org/x/a.jpg"),
        ("<link rel=canonical href='https://b.org/c/d'>", "https://b.org/c/d", "https://b.org/c/a.jpg"),
        ("<link rel=canonical href='/c/d'>", None, "a.jpg"),
        ("<base href='/x/'><link rel=canonical href='https://b.org/c'>", "https://b.org/c", "https://b.org/x/a.jpg"),
    ):
        page.write_text(f"{head}<img src=a.jpg>")
        assert images_in(page) == (address, [first])


def test_pages_of_other_encodings_and_xhtml_are_read(tmp_path: Path) -> None:
    page = tmp_path / "cats.html"
    page.write_bytes("<meta charset=iso-8859-1><img src='é.jpg'>".encode("latin-1"))
    assert images_in(page) == (None, ["é.jpg"])
    page.write_text('<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><img src="a.jpg"/></html>')
    assert images_in(page) == (None, ["a.jpg"])
    page.write_bytes(b"<div>" * 5_000 + b"<img src=a.jpg>")
    assert images_in(page) == (None, ["a.jpg"])
