"""What robots.txt permits: RFC 9309, and Crawl-delay."""

from dataclasses import dataclass

from protego import Protego

from alexnet_deploy.train.gather.web.hosts import PRODUCT

MOST_BYTES = 512 * 1024
"""RFC 9309 asks for 500 KiB at least; what follows is not read."""

_LONGEST_DELAY_SECONDS = 60.0

_RULES = Protego.parse("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Robots:
    """The rules of one server for this program."""

    rules: Protego = _RULES
    """The parsed file; everything is permitted unless given."""
    forbids_all: str | None = None
    """Why nothing is permitted; None if the rules say it."""

    def refusal(self, url: str) -> str | None:
        """Return why a URL must not be asked for, as one sentence; None if it may be."""
        if self.forbids_all is not None:
            return self.forbids_all
        if self.delay_seconds > _LONGEST_DELAY_SECONDS:
            return (
                f"robots.txt asks for {self.delay_seconds:,.0f} s between requests, the limit is "
                f"{_LONGEST_DELAY_SECONDS:.0f}"
            )
        return None if self.rules.can_fetch(url, PRODUCT) else "robots.txt forbids it"

    @property
    def delay_seconds(self) -> float:
        """Time that the rules leave between two requests; 0 if they do not say."""
        return self.rules.crawl_delay(PRODUCT) or 0.0


def robots_of(status: int, data: bytes) -> Robots:
    """Return the rules in an answer: no file means no rules, an error of the server that nothing is permitted."""
    if status == 200:
        return Robots(rules=Protego.parse(data[:MOST_BYTES].decode("utf-8-sig", errors="replace")))
    if status == 429 or status >= 500:
        return Robots(forbids_all=f"robots.txt cannot be read, the server answered {status}: nothing is permitted")
    return Robots()
