"""How does the last statement of a lease take the reset along that follows it?"""

from __future__ import annotations

import re
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from tenantproxy.driver.beginning import BeginningConnection
from tenantproxy.driver.behind import ResetBehind
from tenantproxy.isolation.turn import SOFT, Asked

__all__ = ["LeavingConnection"]

_MANY: Final = 100  # rows that are looked at one by one to find their end, which is dearer than another round trip
_REMEMBERED: Final = 200  # statements of which a connection remembers that their rows are many

# Behind one of these no reset can be read as anything else, and nothing is left open but by a function's will.
_PLAIN: Final = re.compile(r"\s*(?:select|insert|update|delete|merge|with|values|table)\b", re.IGNORECASE)


class LeavingConnection(BeginningConnection):
    """A connection whose last statement of a lease goes out in one write with a reset.

    `is_last`: the next statement is the last one, and `last_reset` is due then. `behind`: the reset that went out.
    """

    __slots__ = ("_large", "behind", "is_last", "last_reset")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_last = False
        self.last_reset: Asked = SOFT
        self.behind: ResetBehind | None = None
        self._large: set[str] = set()  # texts whose answers have many rows

    @property
    def is_resetting(self) -> bool:
        """Whether the answer to a reset behind a statement is still to come."""
        return self.behind is not None and self.behind.is_awaited

    def _execute(
        self,
        query: str,
        args: Sequence[object],
        limit: int,
        timeout: float | None,
        **options: Any,
    ) -> Any:
        if not self.is_last:
            return super()._execute(query, args, limit, timeout, **options)
        self.is_last = False
        protocol = self._protocol
        if self.is_tainted or self._query_loggers or query in self._large or protocol._is_cancelling():
            return super()._execute(query, args, limit, timeout, **options)
        if _PLAIN.match(query) is None:
            return super()._execute(query, args, limit, timeout, **options)
        return self._execute_last(query, args, limit, timeout, **options)

    async def _execute_last(
        self,
        query: str,
        args: Sequence[object],
        limit: int,
        timeout: float | None,
        *,
        return_status: bool = False,
        **options: Any,
    ) -> Any:
        """As asyncpg's `_execute`, with a reset in the same write as the statement."""

        def run(state: Any, left: float | None) -> Any:
            conversation = self._protocol.bind_execute(state, args, "", limit, return_status, left)
            if self.behind is None:
                return self._with_reset(conversation)
            self.behind.is_stale = True  # the driver tries again, with the statement prepared again
            return conversation

        with self._stmt_exclusive_section:
            result, _ = await self._do_execute(query, run, self._protocol._get_timeout(timeout), **options)
        if not limit and len(result[0] if return_status else result) > _MANY:
            if len(self._large) >= _REMEMBERED:
                self._large.clear()
            self._large.add(query)
        return result

    def _last(self, conversation: Coroutine[Any, Any, Any]) -> Coroutine[Any, Any, Any]:
        is_last, self.is_last = self.is_last, False
        return self._with_reset(conversation) if is_last and not self.is_tainted else conversation

    async def _with_reset(self, conversation: Coroutine[Any, Any, Any]) -> Any:
        """Run `conversation` of the driver, which writes at once, if at all: a reset goes out with it."""
        behind = ResetBehind(self._wire.real, self.last_reset)
        self._wire.behind = self.behind = behind
        try:
            return await conversation
        finally:
            if not behind.is_sent:  # the driver refused, and wrote nothing
                self._wire.behind = self.behind = None
