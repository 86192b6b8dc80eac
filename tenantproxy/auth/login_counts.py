"""What is counted of logins: read at scrape, changed by the login service alone."""

from __future__ import annotations

from typing import Final, Literal

from tenantproxy.auth.hashes import KINDS, Kind
from tenantproxy.events import Histogram

__all__ = ["RESULTS", "LoginCounts", "Result"]

Result = Literal["ok", "selection", "refused", "throttled", "unavailable", "error"]
RESULTS: Final[tuple[Result, ...]] = ("ok", "selection", "refused", "throttled", "unavailable", "error")

_SEARCHED_BUCKETS: Final = (0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0)


class LoginCounts:
    """Attempts by result, their seconds without padding, how many databases each searched beyond the directory, and
    stored hashes that could not be used, by kind.
    """

    def __init__(self) -> None:
        self.results: dict[Result, int] = dict.fromkeys(RESULTS, 0)
        self.seconds: dict[Result, Histogram] = {result: Histogram() for result in RESULTS}
        self.searched = Histogram(_SEARCHED_BUCKETS)
        self.unusable: dict[Kind, int] = dict.fromkeys(KINDS, 0)

    def observe(self, result: Result, seconds: float, searched: int) -> None:
        """Count one attempt."""
        self.results[result] += 1
        self.seconds[result].observe(seconds)
        self.searched.observe(searched)
