"""What robots.txt permits."""

import pytest

from alexnet_deploy.train.gather.web.robots import MOST_BYTES, robots_of

RULES = b"""\xef\xbb\xbfUser-agent: *
Disallow: /

User-agent: alexnet-deploy
Disallow: /private/
Allow: /private/open/
Disallow: /*.png$
Crawl-delay: 3
"""


def test_the_group_of_this_program_holds_and_the_longest_rule_wins() -> None:
    robots = robots_of(200, RULES)
    assert robots.delay_seconds == 3
    assert robots.refusal("http://a.org/b.jpg") is None
    assert robots.refusal("http://a.org/private/open/b.jpg") is None
    for url in ("http://a.org/private/b.jpg", "http://a.org/b.png"):
        assert robots.refusal(url) == "robots.txt forbids it"


def test_another_program_s_group_does_not_hold() -> None:
    assert robots_of(200, b"User-agent: other\nDisallow: /\n").refusal("http://a.org/b.jpg") is None
    assert robots_of(200, b"User-agent: *\nDisallow: /\n").refusal("http://a.org/b.jpg") is not None


@pytest.mark.parametrize("status", [404, 403, 401, 410, 204])
def test_no_file_means_no_rules(status: int) -> None:
    robots = robots_of(status, b"User-agent: *\nDisallow: /\n")
    assert (robots.refusal("http://a.org/b.jpg"), robots.delay_seconds) == (None, 0)


@pytest.mark.parametrize("status", [500, 503, 429])
def test_an_error_of_the_server_means_that_nothing_is_permitted(status: int) -> None:
    assert robots_of(status, b"").refusal("http://a.org/b.jpg") == (
        f"robots.txt cannot be read, the server answered {status}: nothing is permitted"
    )


def test_a_delay_that_would_never_end_is_a_refusal() -> None:
    refusal = robots_of(200, b"User-agent: *\nCrawl-delay: 86400\n").refusal("http://a.org/b.jpg")
    assert refusal == "robots.txt asks for 86,400 s between requests, the limit is 60"


def test_what_follows_half_a_mebibyte_is_not_read() -> None:
    long = b"User-agent: *\n" + b"#" * MOST_BYTES + b"\nDisallow: /\n"
    assert robots_of(200, long).refusal("http://a.org/b.jpg") is None
    assert robots_of(200, b"\xff\x00" * 1000).refusal("http://a.org/b.jpg") is None
