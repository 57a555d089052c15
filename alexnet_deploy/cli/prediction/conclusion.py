"""The last words of `alexnet-deploy predict` and `merge`: how many inputs were predicted, and why others failed."""

from typing import TYPE_CHECKING

import typer

from alexnet_deploy.core.process.say import counted

if TYPE_CHECKING:
    from alexnet_deploy.predict.sink import Tally


def conclude(outcomes: "Tally", reject: float | None, done: str = "predicted") -> None:
    """Print how many inputs were predicted or extracted, rejected, and how many failed; exit with 1 if any failed."""
    from alexnet_deploy.cli.terminal import say

    num_good = outcomes.pop("ok", 0)
    rejected = "" if reject is None else f", {outcomes.num_rejected:,} of them rejected: below {reject:g}"
    say(f"{num_good:,} {done}{rejected}")
    if outcomes:
        reasons = ", ".join(f"{code} {number:,}{_endings(code, outcomes)}" for code, number in outcomes.most_common())
        say(f"{outcomes.total():,} could not be read: {reasons}")
        raise typer.Exit(1)


def _endings(code: str, outcomes: "Tally") -> str:
    """Return the extensions of the inputs that are no images, in brackets; empty for another code."""
    if code != "not_an_image" or not outcomes.endings:
        return ""
    endings = ", ".join(f"{number:,} {ending}" for ending, number in outcomes.endings.most_common(5))
    others = len(outcomes.endings) - 5
    more = f", and {counted(others, 'other extension')}" if others > 0 else ""
    return f" ({endings}{more})"
