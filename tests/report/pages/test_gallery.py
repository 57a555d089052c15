"""The gallery: self-contained, filtered without a script, and hostile names stay text."""

import re

from report_pages import IMAGES, Page, check_self_contained

from alexnet_deploy.report.page import Thumbnail
from alexnet_deploy.report.pages.gallery import Unread, render_gallery

HOSTILE = '<img src=x onerror="alert(1)">'


def shown(label: str, confidence: float, name: str = "a.jpg") -> Thumbnail:
    return Thumbnail(
        caption=name, image=IMAGES[0], predictions=((label, confidence), ("other", 1 - confidence)), truth=None
    )


def page_of(*images: Thumbnail, unread: tuple[Unread, ...] = (), num_inputs: int = 0) -> bytes:
    return render_gallery(
        title="my.bundle", images=images, unread=unread, num_inputs=num_inputs or len(images) + len(unread), tools={}
    )


def test_images_come_by_falling_confidence_and_failures_last() -> None:
    failed = Unread(caption="b.txt", code="not_an_image", message="no decoder recognises its header")
    page = page_of(shown("cat", 0.6, "low.jpg"), shown("dog", 0.9, "high.jpg"), unread=(failed,))
    check_self_contained(page)
    text = Page(page).text
    assert text.index("high.jpg") < text.index("low.jpg") < text.index("b.txt")
    assert "3 inputs, by falling confidence; inputs that could not be read are at the end." in text


def test_each_filter_keeps_the_images_that_it_counts() -> None:
    images = [*[shown("cat", 0.5 + number / 100) for number in range(3)], shown("dog", 0.9)]
    page = page_of(*images, unread=(Unread(caption="b", code="cat", message="its code is a label, too"),)).decode()
    filters = re.findall(r'id="(f\d+)"> <bdi>(.*?)</bdi> <small>(\d+)</small>', page)
    assert [(name, number) for _, name, number in filters] == [("cat", "3"), ("dog", "1"), ("cat", "1")]
    for key, _, number in filters:
        assert len(re.findall(rf'<figure class="{key}[" ]', page)) == int(number)
        assert f"body:has(#{key}:checked) figure:not(.{key}) {{ display: none; }}" in page


def test_a_sample_is_called_a_sample() -> None:
    assert (
        "1 input, an even sample of 1,000, by falling confidence." in Page(page_of(shown("a", 1), num_inputs=1000)).text
    )


def test_hostile_names_stay_text() -> None:
    unread = Unread(caption=HOSTILE, code="truncated", message=HOSTILE)
    page = page_of(shown(HOSTILE, 0.9, HOSTILE), unread=(unread,))
    check_self_contained(page)
    assert b"<img src=x" not in page
    assert Page(page).text.count(HOSTILE) >= 4


def test_nothing_at_all_renders() -> None:
    page = page_of()
    assert "0 inputs" in Page(page).text
    assert b"fieldset" not in page.partition(b"</style>")[2]
