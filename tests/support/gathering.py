"""A web server with pictures and with everything that goes wrong, and the list of its URLs."""

import io
from functools import cache
from pathlib import Path

from PIL import Image
from web import (
    Answer,
    Site,
    endless,
    endless_headers,
    redirects,
    refuses,
    resets,
    sends,
    unsized,
)

from alexnet_deploy.core.images.drawing import DRAWN_CLASSES, draw_image

CLASSES = ("balloon", "ship")


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


@cache
def drawn(seed: int, *, side: int = 96, quality: int = 90) -> bytes:
    image = draw_image(DRAWN_CLASSES[seed % len(DRAWN_CLASSES)], seed)
    return jpeg(image.resize((side, side), Image.Resampling.BICUBIC), quality)


def put_all(site: Site, num_pictures: int) -> dict[str, str]:
    """Fill a site; return the status of each URL in the list, in its order."""
    statuses: dict[str, str] = {}

    def put(path: str, status: str, *answers: Answer) -> None:
        statuses[site.put(path, *answers)] = status

    for seed in range(num_pictures):
        put(f"/{seed}.jpg", "kept", sends(drawn(seed)))
    put("/unsized.jpg", "kept", unsized(drawn(100)))
    put("/moved.jpg", "kept", redirects("/there.jpg"))
    site.put("/there.jpg", sends(drawn(101)))
    put("/same.jpg", "duplicate", sends(drawn(0)))
    put("/again.jpg", "duplicate", sends(drawn(1, side=256, quality=40)))
    put("/moved-same.jpg", "duplicate", redirects("/0.jpg"))
    put("/tiny.jpg", "too_small", sends(drawn(102, side=40)))
    put("/broken.jpg", "truncated", sends(drawn(103)[:-900]))
    put("/page.jpg", "not_an_image", sends(b"<html>no image</html>", Content_Type="image/jpeg"))
    put("/drawing.jpg", "unsupported_format", sends(b"<svg xmlns='http://www.w3.org/2000/svg'/>"))
    put("/empty.jpg", "empty", sends(b""))
    put("/circle.jpg", "redirects", redirects("/circle2.jpg"))
    site.put("/circle2.jpg", redirects("/circle.jpg"))
    put("/huge.jpg", "too_large", sends(b"x", length=10**12))
    put("/endless.jpg", "too_large", endless())
    put("/gone.jpg", "http_404", refuses(404))
    put("/no/a.jpg", "robots", sends(drawn(104)))
    put("/odd.jpg", "invalid_url", redirects("file:///etc/passwd"))
    statuses["ftp://127.0.0.1/a.jpg"] = statuses["a.jpg"] = "invalid_url"
    statuses["http://127.0.0.1:1/a.jpg"] = "unreachable"
    site.put("/robots.txt", sends(b"User-agent: *\nDisallow: /no/\n"))
    return statuses


def put_unsteady(site: Site) -> dict[str, str]:
    """Add answers that are asked for again, with a rest of a second or more each time."""
    return {
        site.put("/later.jpg", sends(b"", status=429, Retry_After="1"), sends(drawn(105))): "kept",
        site.put("/error.jpg", refuses(500), sends(drawn(106))): "kept",
        site.put("/down.jpg", refuses(503)): "http_503",
        site.put("/reset.jpg", resets): "connection",
        site.put("/bomb.jpg", endless_headers): "connection",
        site.put("/cut.jpg", sends(drawn(107), length=10**5)): "connection",
    }


def write_list(path: Path, statuses: dict[str, str]) -> Path:
    """Write a csv of the URLs; classes alternate."""
    lines = [f"{url},{CLASSES[number % 2]},CC-{number}\n" for number, url in enumerate(statuses)]
    path.write_text("url,class,licence\n" + "".join(lines))
    return path
