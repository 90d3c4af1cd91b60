"""What happens on which day of the year."""

from typing import NamedTuple

YEAR, WEEK = 365, 7
_UPDATE_DAY, _MONTH, _BAD_DAY, _MONTHS = 5, 30, 3, 12
BAD = (
    "a byte was changed on the way",
    "signed by a stranger",
    "older than what was installed",
    "expired",
    "computes something else than its maker said",
    "rejects every frame",
)
"""What is wrong with the monthly bad bundle, in turn."""


class Day(NamedTuple):
    """One day; each has an outage of the broker.

    Attributes:
        number: from 0.
        update: whether a good bundle is installed from afar.
        bad: what is wrong with the bundle that somebody tries to install, if anybody does.
    """

    number: int
    update: bool
    bad: str | None


def days(count: int) -> list[Day]:
    """List the first ``count`` days: an update each week, a bad bundle each of twelve months."""
    found = []
    for number in range(count):
        month, day = divmod(number, _MONTH)
        bad = BAD[month % len(BAD)] if day == _BAD_DAY and month < _MONTHS else None
        found.append(Day(number, number % WEEK == _UPDATE_DAY, bad))
    return found
