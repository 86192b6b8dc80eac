"""What runs on the backends that a tenant holds? Their server is asked, while someone looks, and at no other time.

Nothing of a statement is kept for this: pg_stat_activity has the text, and of it a fingerprint alone is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import asyncpg

from tenantproxy.auth.share import KeyedSlots
from tenantproxy.config import Settings
from tenantproxy.connect.failures import LOST, describe
from tenantproxy.errors import ConfigurationError, TenantProxyError
from tenantproxy.lifecycle.access import admin_connection
from tenantproxy.wire.fingerprint import fingerprint

__all__ = ["Activity", "ActivityLook", "NotSeen"]

_TIMEOUT: Final = 3.0
_DATABASE: Final = "postgres"
_HIDDEN: Final = "<insufficient privilege>"
_ASK: Final = (
    "SELECT a.pid, a.state, a.application_name, a.query,"
    " pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.state_change) AS seconds"
    " FROM pg_catalog.pg_stat_get_activity(NULL) a WHERE a.pid = ANY ($1::pg_catalog.int4[])"
)


class NotSeen(TenantProxyError):
    """The server could not be asked what runs there; the detail says why."""

    http_status, sqlstate, code, retryable = 503, "55000", "activity_not_seen", True


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """A backend as its server sees it: `statement` runs, or ran last, for `seconds` in this `state`.

    `statement` is a fingerprint; None: the user that asks may not see it.
    """

    state: str
    seconds: float
    application_name: str
    statement: str | None


class ActivityLook:
    """Asks servers, as their admin user, or as their own where none is configured. `settings`: those of now.

    One connection to a server at a time, outside of its budget, which is closed behind the answer: however many look,
    they cost a server one connection.
    """

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings
        self._slots = KeyedSlots(1)

    async def seen(self, server: str, pids: Callable[[], Iterable[int]]) -> Mapping[int, Activity]:
        """What the backends do, without those that are gone. Raises NotSeen; cancelled, the connection is closed.

        `pids` is called when the server can be asked at once: who holds a backend then mostly still does at the answer.
        """
        settings = self._settings()
        try:
            async with asyncio.timeout(_TIMEOUT), self._slots.hold(server):
                async with admin_connection(settings, server, _database(settings, server), reading=True) as conn:
                    rows = await conn.fetch(_ASK, list(pids()), timeout=_TIMEOUT)
        except ConfigurationError as exc:
            raise NotSeen("the server cannot be asked what runs there", detail=exc.message) from exc
        except (TimeoutError, *LOST) as exc:
            raise NotSeen("the server cannot be asked what runs there", detail=describe(exc)) from exc
        return {row["pid"]: _activity(row) for row in rows}


def _database(settings: Settings, server: str) -> str:
    if server == settings.main.server:
        return settings.main.database
    return settings.servers[server].probe_database or _DATABASE


def _activity(row: asyncpg.Record) -> Activity:
    text: str | None = row["query"]
    return Activity(
        state=row["state"] or "",
        seconds=round(max(0.0, row["seconds"] or 0.0), 3),
        application_name=row["application_name"] or "",
        statement=None if text is None or text == _HIDDEN else fingerprint(text),
    )
