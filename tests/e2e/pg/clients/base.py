"""What do the common checks ask of a client? One word for each thing that people do with it, in its own idiom."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Protocol

from tests.e2e.pg.seats import Seat

__all__ = ["Client", "Session", "with_placeholders"]

Row = tuple[Any, ...]


class Session(Protocol):
    """One connection of a client. Statements have `$1`, `$2`; outside begin..commit each is a transaction."""

    async def rows(self, sql: str, *values: object) -> list[Row]:
        """Run one statement as the client usually does; its rows, [] where there are none."""
        ...

    async def prepared(self, sql: str, *values: object) -> list[Row]:
        """The same with a statement that the client prepares on the server and uses again."""
        ...

    async def begin(self) -> None:
        """Begin a transaction."""
        ...

    async def commit(self) -> None:
        """End it."""
        ...

    async def rollback(self) -> None:
        """Undo it, whether it failed or not."""
        ...

    async def copy_in(self, table: str, bodies: Sequence[str]) -> None:
        """COPY table (body) FROM STDIN."""
        ...

    async def copy_out(self, query: str) -> bytes:
        """COPY (query) TO STDOUT, as text."""
        ...

    async def listen(self, channel: str) -> None:
        """LISTEN, in the client's way."""
        ...

    async def notified(self) -> str:
        """The payload of the next notification."""
        ...

    async def cancel(self) -> None:
        """Ask the server to cancel what this session runs now, whatever that is."""
        ...

    async def size(self, query: str) -> int:
        """Read a big result in the client's streaming way: how many characters its first column has in all."""
        ...

    async def close(self) -> None:
        """Leave in order."""
        ...


class Client(Protocol):
    """A driver or library."""

    @property
    def name(self) -> str:
        """For messages."""
        ...

    @property
    def lacks(self) -> frozenset[str]:
        """Checks that the client has no means for."""
        ...

    async def connect(self, seat: Seat, tenant: str, *, user: str = "") -> Session:
        """As `seat.user`, or another."""
        ...

    def state(self, error: BaseException) -> str | None:
        """The SQLSTATE in an error of the client's; None where it has none."""
        ...


def with_placeholders(sql: str, form: str) -> str:
    """`sql` with `form` (in which {} is the number) for each `$n`, which must come in order."""
    return re.sub(r"\$(\d+)", lambda found: form.format(found[1]), sql)
