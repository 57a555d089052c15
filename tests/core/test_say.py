from alexnet_deploy.core.say import counted, lines_about_excluded


def test_one_is_no_plural() -> None:
    said = [counted(number, "image") for number in (0, 1, 2, 1024)]
    assert said == ["0 images", "1 image", "2 images", "1,024 images"]
    assert counted(1, "class", "classes") == "1 class"
    assert counted(2, "class", "classes") == "2 classes"


def test_a_few_are_named_and_many_are_counted() -> None:
    few = [(f"{number}.jpg", "truncated") for number in range(10)]
    assert list(lines_about_excluded([])) == []
    assert list(lines_about_excluded(few)) == [f"left out, truncated: {number}.jpg" for number in range(10)]
    many = few + 290 * [("notes.txt", "not_an_image")] + 1000 * [("a.jpg", "empty")]
    assert list(lines_about_excluded(many))[10:] == ["left out: 1,290 more (empty 1,000, not_an_image 290)"]
