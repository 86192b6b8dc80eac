"""What does a budget ask of a fleet, which says how much of a server this process may use?"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Quota"]


class Quota(Protocol):
    """This process's part of one server now. `total`: permits taken; `closing`: of them, on their way back."""

    @property
    def is_of_whole(self) -> bool:
        """Whether all processes share by it, so that a part which this one was given besides does not count."""
        ...

    @property
    def limit(self) -> int:
        """The most permits."""
        ...

    @property
    def reserve(self) -> int:
        """How many of them are the main database's own."""
        ...

    def may_open(self, total: int, opening: int) -> bool:
        """Whether one more connect may begin now, while `opening` are under way."""
        ...

    def is_over(self, total: int) -> bool:
        """Whether a connect that has just finished, counted in `total`, came too late."""
        ...

    def excess(self, total: int, closing: int) -> int:
        """How many connections are to be closed as soon as they are idle; not more than 0: none."""
        ...

    def wants(self) -> None:
        """A pool wants a permit that it cannot have, so main should hear of it soon. Must not re-enter the budget."""
        ...

    def closed(self, total: int) -> None:
        """A permit came back: the limit may come down with it. Must not re-enter the budget."""
        ...
