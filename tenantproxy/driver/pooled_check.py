"""Is a fresh connection to a connection pooler one that may serve? Asked in a transaction, as tenants have them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import Any

from tenantproxy.connect.checks import CHECK, Answer
from tenantproxy.connect.opening import ADMIN_PROFILE, Opening
from tenantproxy.connect.pooler import entry_of, not_the_tenants
from tenantproxy.connect.reach import PIN_PATH
from tenantproxy.driver.pooled import PooledConnection
from tenantproxy.driver.state import DriverConnection
from tenantproxy.errors import IsolationError
from tenantproxy.pools.lingering import UNKNOWN
from tenantproxy.pools.pool import Pool

__all__ = ["check_pooled"]


async def check_pooled(
    opening: Opening, pool: Pool[DriverConnection], con: PooledConnection, *, inits: Iterable[Any]
) -> DriverConnection:
    """The backend, once it was looked at and each of `inits` (None: nothing) has run. Raises what says why not."""
    key = pool.key
    timeout = opening.server(key).connect_timeout
    con.entry, con.enter_timeout = entry_of(opening, key), timeout
    con.refused = partial(not_the_tenants, opening, key)
    async with con.transaction():
        now = time.time()
        row = await con.fetchrow(CHECK, key.shared, key.schema or "", "", timeout=timeout)
        if row is None:
            raise IsolationError("the server does not know the role we are logged in as")
        given: dict[str, Any] = dict(row)
        answer = Answer(**given)
        opening.judge(key, answer, pid=answer.pid, now=now, pins=opening.pins(key), is_last=True)
        questions = [] if key.profile == ADMIN_PROFILE else opening.reach.due(key)
        if questions:
            await con.simple(PIN_PATH, timeout)
        for question in questions:
            question.judge(await con.fetchval(question.sql, question.argument, timeout=timeout))
    con.signer = opening.signer(key)
    backend = DriverConnection(
        con, pool, process=UNKNOWN, offset=answer.server_now - now, version=answer.version, signer=con.signer
    )
    backend.entry_of = partial(entry_of, opening, key)
    for init in inits:
        if init is not None:
            await init(con)
    if not con.is_at_rest:
        raise IsolationError("what `init` ran left a transaction open")
    con.has_foreign_codecs = con.is_tainted = False
    return backend
