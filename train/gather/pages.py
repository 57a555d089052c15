"""The images of saved web pages."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from bs4 import BeautifulSoup, Comment, Tag, XMLParsedAsHTMLWarning

from alexnet_deploy.core.codecs.formats import USUAL_ENDINGS
from alexnet_deploy.core.fs.opening import MIB, read_file

_PAGES = (".html", ".htm")
_MOST_BYTES = 64 * MIB

# A comment that browsers write into saved pages.
_SAVED_FROM = re.compile(r"\s*saved from url=\(\d+\)(\S+)")

# A candidate of srcset: a URL, which may hold commas but not end with one, and its width or density. Source: HTML
# standard, 4.8.4.2.1.
_CANDIDATE = re.compile(r"(\S*[^\s,])(?:\s+([\d.]+)[wx])?\s*(?:,|$)")


def pages_in(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the pages of a folder, each with its class, sorted by name: CLASS.html, and CLASS/ANY.html.

    A browser's folder NAME_files beside NAME.html is passed over. Raises OSError.
    """
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    saved = {f"{entry.stem}_files" for entry in entries if _is_page(entry)}
    for entry in entries:
        if _is_page(entry):
            yield entry, entry.stem
        elif entry.is_dir() and entry.name not in saved:
            for page in sorted(entry.iterdir()):
                if _is_page(page) and not page.name.startswith("."):
                    yield page, entry.name


def _is_page(path: Path) -> bool:
    return path.suffix.lower() in _PAGES and path.is_file()


def images_in(page: Path) -> tuple[str | None, list[str]]:
    """Return the address of a saved page, None if it does not say, and the URLs of its images, each once, in its order.

    Images are links to image files, and `<img>`: the largest of `srcset`, else `src`. An `<img>` inside a link to an
    image file is a thumbnail, and inline images (data:) have no URL: both are passed over. URLs are relative to
    `<base>`, to the address that a browser wrote into the page, or to its canonical address; without one of these they
    stay relative. Raises OSError.
    """
    with warnings.catch_warnings():
        # XHTML is read like HTML.
        warnings.simplefilter("ignore", XMLParsedAsHTMLWarning)
        soup = BeautifulSoup(read_file(page, _MOST_BYTES), "html.parser")
    place = _address_of(soup)
    base = _joined(place, _attribute(soup.find("base"), "href"))
    found: dict[str, None] = {}
    for tag in soup.find_all(["a", "img"]):
        if (reference := _image_of(tag)) and not reference.lower().startswith("data:"):
            found[_joined(base, reference)] = None
    return place or None, list(found)


def _image_of(tag: Tag) -> str:
    """Return the reference of a tag to an image; empty if there is none."""
    if tag.name == "a":
        return link if _is_image(link := _attribute(tag, "href")) else ""
    if _is_image(_attribute(tag.find_parent("a"), "href")):
        return ""
    return _largest(_attribute(tag, "srcset")) or _attribute(tag, "src")


def _largest(srcset: str) -> str:
    """Return the URL of the widest or densest candidate, the first of equals; empty if there is none."""
    best, largest = "", -1.0
    for url, size in _CANDIDATE.findall(srcset):
        number = _number(size)
        if number > largest:
            best, largest = url, number
    return best


def _number(text: str) -> float:
    try:
        return float(text or 1)
    except ValueError:
        return 0.0


def _is_image(link: str) -> bool:
    try:
        return PurePosixPath(urlsplit(link).path).suffix.lower() in USUAL_ENDINGS
    except ValueError:
        return False


def _address_of(soup: BeautifulSoup) -> str:
    """Return the address that a page was saved from; empty if it does not say."""
    for comment in soup.find_all(string=lambda text: isinstance(text, Comment)):
        if (saved := _SAVED_FROM.match(comment)) is not None:
            return saved[1]
    canonical = soup.find("link", rel="canonical")
    address = _attribute(canonical, "href")
    return address if address.startswith(("http://", "https://")) else ""


def _joined(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference)
    except ValueError:
        # It is reported as an invalid URL.
        return reference


def _attribute(tag: object, name: str) -> str:
    """Return an attribute without spaces around it; empty if the tag or the attribute is missing."""
    value = tag.get(name) if isinstance(tag, Tag) else None
    return value.strip() if isinstance(value, str) else ""
