import os

import pytest

from alexnet_deploy.core.process.say import counted, lines_about_excluded, printable, printable_lines


def test_one_is_no_plural() -> None:
    said = [counted(number, "image") for number in (0, 1, 2, 1024)]
    assert said == ["0 images", "1 image", "2 images", "1,024 images"]
    assert counted(1, "class", "classes") == "1 class"
    assert counted(2, "class", "classes") == "2 classes"


def test_a_few_are_named_and_many_are_counted() -> None:
    few = [(f"{number}.jpg", "truncated") for number in range(10)]
    assert list(lines_about_excluded([])) == []
    assert list(lines_about_excluded(few)) == [f"skipped, truncated: {number}.jpg" for number in range(10)]
    many = few + 290 * [("notes.txt", "not_an_image")] + 1000 * [("a.jpg", "empty")]
    assert list(lines_about_excluded(many))[10:] == ["skipped: 1,290 more (empty 1,000, not_an_image 290)"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, \u00e9, \u4e2d and \U0001f600", "plain, \u00e9, \u4e2d and \U0001f600"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b31m\x90\x7f\x08", r"\x9b31m\x90\x7f\x08"),
        ("\u202egpj.exe\u2066\u200f", r"\u202egpj.exe\u2066\u200f"),
        ("a\nerror: forged\r\u2028\u2029\x85", r"a\nerror: forged\r\u2028\u2029\x85"),
        (os.fsdecode(b"caf\xe9\x9b"), r"caf\xe9\x9b"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_could_steer_a_terminal_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(shown) == shown
    assert printable_lines(f"{text}\nb".replace("a\n", "a")) == f"{shown}\nb".replace(r"a\n", "a")
