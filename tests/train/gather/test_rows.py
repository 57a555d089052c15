"""Which pictures are kept and on which side: by the list and the bytes alone."""

import csv
import io
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet_deploy.core.fs.files import sha256
from alexnet_deploy.train.gather.listing import Entry
from alexnet_deploy.train.gather.pictures import FINGERPRINT_BYTES, Picture
from alexnet_deploy.train.gather.rows import COLUMNS, DUPLICATE, KEPT, TRAIN, VALIDATION, Found, Row, rows_of


def picture(number: int, *, looks_like: int | None = None) -> Picture:
    seen = random.Random(number if looks_like is None else looks_like)
    return Picture(
        sha256=sha256(str(number).encode()),
        num_bytes=number,
        width=100,
        height=80,
        ending=".jpg",
        fingerprint=seen.randbytes(FINGERPRINT_BYTES),
    )


def found(url: str, picture: Picture | None = None, error: str | None = None) -> Found:
    return Found(url=url, final_url=url, picture=picture, error=error, message="" if error is None else "a message")


def entry(url: str, label: str = "cat") -> Entry:
    return Entry(url=url, label=label)


def rows(entries: list[Entry], outcomes: list[Found], share: float = 0.1) -> list[Row]:
    return list(rows_of(entries, {one.url: one for one in outcomes}, share))


def test_the_first_of_equal_pictures_is_kept_across_classes_and_sides() -> None:
    outcomes = [
        found("a", picture(1)),
        found("b", picture(2)),
        found("c", picture(1)),
        found("d", picture(4, looks_like=2)),
        found("e", error="http_404"),
        found("f", picture(6), error="too_small"),
    ]
    entries = [entry(one.url, "cat" if number < 2 else "dog") for number, one in enumerate(outcomes)]
    one, two, *others = rows(entries, outcomes)
    assert (one.status, two.status) == (KEPT, KEPT)
    assert [(row.status, row.message, row.file) for row in others] == [
        (DUPLICATE, f"the same bytes as {one.file}", ""),
        (DUPLICATE, f"looks like {two.file}: 0 of 256 bits differ", ""),
        ("http_404", "a message", ""),
        ("too_small", "a message", ""),
    ]
    last, *_ = rows(entries[::-1], outcomes)[2:]
    assert (last.entry.url, last.status) == ("d", KEPT)


def test_a_url_that_stands_twice_in_the_list_has_two_rows() -> None:
    one, two = rows([entry("a"), entry("a", "dog")], [found("a", picture(1))])
    assert (one.status, two.status) == (KEPT, DUPLICATE)


@settings(max_examples=15)
@given(st.sets(st.integers(0, 10**6), min_size=60, max_size=80), st.randoms(use_true_random=False))
def test_sides_depend_on_the_bytes_and_not_on_the_list(numbers: set[int], order: random.Random) -> None:
    shuffled = sorted(numbers)
    order.shuffle(shuffled)
    all_rows = rows([entry(str(one)) for one in shuffled], [found(str(one), picture(one)) for one in shuffled], 0.3)
    some = shuffled[: len(shuffled) // 2]
    some_rows = rows([entry(str(one)) for one in some], [found(str(one), picture(one)) for one in some], 0.3)
    sides = {row.entry.url: row.split for row in all_rows}
    assert {row.split for row in some_rows} == {TRAIN, VALIDATION}
    assert all(sides[row.entry.url] == row.split for row in some_rows)


def test_about_the_share_is_for_validation() -> None:
    numbers = range(1000)
    split = [row.split for row in rows([entry(str(n)) for n in numbers], [found(str(n), picture(n)) for n in numbers])]
    assert 60 < split.count(VALIDATION) < 140


def test_a_class_with_two_pictures_has_both_sides_whatever_the_share() -> None:
    for share in (1e-9, 1 - 1e-9):
        outcomes = [found(str(number), picture(number)) for number in range(5)]
        entries = [entry(one.url, "dog" if one.url == "4" else "cat") for one in outcomes]
        splits = [row.split for row in rows(entries, outcomes, share)]
        few = TRAIN if share > 0.5 else VALIDATION
        assert splits[:4].count(few) == 1
        assert splits[4] != few


def test_a_line_of_the_table_holds_everything_and_no_password() -> None:
    odd = Entry(url='http://me:secret@a.org/,"x', label="cat", licence="CC\r0", page="p\n2")
    (row,) = rows([odd], [found(odd.url, picture(1))])
    (cells,) = csv.reader(io.StringIO(row.line(), newline=""))
    values = dict(zip(COLUMNS, cells, strict=True))
    assert values["url"] == 'http://me:***@a.org/,"x'
    assert (values["licence"], values["page"], values["bytes"]) == ("CC\r0", "p\n2", "1")
    assert values["file"] == f"{row.split}/cat/{picture(1).sha256}.jpg"
