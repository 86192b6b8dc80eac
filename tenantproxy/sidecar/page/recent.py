"""What happened a moment ago, and to which tenants was nothing lent? An observer with a short memory."""

from __future__ import annotations

import re
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, Final

from tenantproxy.events import ConnectionClosed, ConnectionOpened, Event, Exhausted

__all__ = ["RecentEvents"]

_KEPT: Final = 300
_MAX_TENANTS: Final = 1000  # and causes
_MAX_TEXT: Final = 200
_FREQUENT: Final = (ConnectionOpened, ConnectionClosed)
_UNTOLD: Final = frozenset(("statement",))  # without its literals too: each reader sees all tenants' events
_WORD: Final = re.compile(r"(?<!^)(?=[A-Z])")


class RecentEvents:
    """Keeps the last events, and counts exhaustions by tenant and cause: those of most, where there are too many."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._events: deque[dict[str, Any]] = deque(maxlen=_KEPT)
        self._exhausted: Counter[tuple[str, str]] = Counter()
        self.last = 0
        """The number of the last event."""

    def __call__(self, event: Event) -> None:
        """Keep it, unless there are too many of its kind."""
        if isinstance(event, _FREQUENT):
            return
        if isinstance(event, Exhausted):
            self._count(event.tenant, event.cause)
        values = {each.name: _shown(getattr(event, each.name)) for each in fields(event) if each.name not in _UNTOLD}
        self.add(_WORD.sub("_", type(event).__name__).lower(), values, at=round(self._clock(), 3))

    def add(self, kind: str, values: Mapping[str, object], *, at: float) -> None:
        """Keep what is told of one; `at`: unix time."""
        self.last += 1
        self._events.append({"n": self.last, "at": at, "kind": kind, "fields": values})

    def _count(self, tenant: str, cause: str) -> None:
        if (tenant, cause) not in self._exhausted and len(self._exhausted) >= _MAX_TENANTS:
            self._exhausted = Counter(dict(self._exhausted.most_common(_MAX_TENANTS // 2)))
        self._exhausted[tenant, cause] += 1

    def since(self, number: int) -> list[dict[str, Any]]:
        """Those behind `number` that are still known, the oldest first."""
        return [each for each in self._events if each["n"] > number]

    def starved(self, most: int) -> list[tuple[str, str, int]]:
        """Tenant, cause and how often, the most frequent first."""
        return [(tenant, cause, count) for (tenant, cause), count in self._exhausted.most_common(most)]


def _shown(value: object) -> object:
    """What JSON takes, and no longer than a line."""
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    if isinstance(value, tuple):  # of what an operator acted upon
        return "; ".join(map(_told, value))[:_MAX_TEXT]
    return value if isinstance(value, int | float | bool) or value is None else str(value)[:_MAX_TEXT]


def _told(thing: object) -> str:
    """One of them: the name of its number, and what is known of it."""
    if not isinstance(thing, Mapping):
        return str(thing)
    name = next(iter(thing), "")
    return " ".join([str(name), *(str(value) for value in thing.values() if value not in ("", 0, None))])
