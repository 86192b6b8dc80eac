"""Which statements of SQL over HTTP stay prepared on the backends of their pool, and under which names?

Those whose text a tenant sends again. State: the texts of each pool that came last; changed by requests alone.
What is prepared on a backend is in `ServerStatements`, together with what the clients of the port have there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final
from weakref import WeakKeyDictionary

from tenantproxy.model import Route, TenantId
from tenantproxy.pools.pool import Pool
from tenantproxy.raw.backend import RawBackend
from tenantproxy.wire.statements import Definitions, ServerStatements, Statement, new_statement

__all__ = ["TRUSTED_SECONDS", "PoolTexts", "SqlTexts", "preparing"]

TRUSTED_SECONDS: Final = 2.0
"""For how long a statement stays prepared, until it is parsed again.

A server keeps the types of its parameters for good: a column that has another type since, by a change that came past
this process, is known so late at most. So is what code of the same tenant has put under the same name.
"""
_MOST: Final = 1000  # texts of one pool
_MOST_BYTES: Final = 256 * 1024
_OF_EACH: Final = 600  # bytes that a text takes here next to itself, which is kept twice


class PoolTexts:
    """The texts of one pool, by tenant: what one of them asks tells another nothing, not even by a name."""

    __slots__ = ("_definitions", "_generation", "_known", "_size")

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._generation = definitions.generation  # of what is known
        self._known: OrderedDict[tuple[TenantId, bytes], Statement | None] = OrderedDict()  # None: it came once
        self._size = 0

    def of(self, tenant: TenantId, text: bytes) -> Statement | None:
        """The statement under which `text` may stay prepared for `tenant`; None: it comes for the first time."""
        if self._generation != self._definitions.generation:
            self._generation = self._definitions.generation
            self._known.clear()
            self._size = 0
        key = tenant, text
        found = self._known.get(key)
        if found is not None:
            self._known.move_to_end(key)
        elif key in self._known:
            self._known.move_to_end(key)
            found = self._known[key] = new_statement(text + b"\0\0\0")
        else:
            self._known[key] = None
            self._size += _size(text)
            while self._size > _MOST_BYTES or len(self._known) > _MOST:
                self._size -= _size(self._known.popitem(last=False)[0][1])
        return found

    def changed(self, *, is_delayed: bool = False) -> None:
        """Tables, types or functions may mean something else from now on, or once a transaction is that is prepared."""
        self._definitions.generation += 1
        self._definitions.is_delayed = self._definitions.is_delayed or is_delayed

    def __len__(self) -> int:
        return len(self._known)


class SqlTexts:
    """Those of all pools. `definitions`: of the database that a route leads to, which the port's clients change too."""

    def __init__(self, definitions: Callable[[Pool[RawBackend], Route], Definitions]) -> None:
        self._definitions = definitions
        self._pools: WeakKeyDictionary[Pool[RawBackend], PoolTexts] = WeakKeyDictionary()

    def of(self, pool: Pool[RawBackend], route: Route) -> PoolTexts:
        """Of one of them."""
        known = self._pools.get(pool)
        if known is None:
            known = self._pools[pool] = PoolTexts(self._definitions(pool, route))
        return known


def preparing(server: ServerStatements, statement: Statement, now: float) -> bytes | None:
    """What has to be sent ahead, so that `statement` is prepared on the backend of `server`; None: it is already.

    It counts as prepared from then on: who sends this calls `forget` where the server has not acknowledged it.
    """
    since = server.use_since(statement)
    if since is not None and now - since < TRUSTED_SECONDS:
        return None
    is_there = server.use(statement) or server.may_have(statement)
    before = statement.close if is_there else b""
    server.forget(statement)
    for out in server.add(statement, at=now):
        before += out.close
    return before + statement.parse


def _size(text: bytes) -> int:
    return 2 * len(text) + _OF_EACH
