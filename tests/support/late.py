"""What can be awaited of a lent connection, and of what it hands out? Every method, with what it is called with."""

from __future__ import annotations

import asyncio
import inspect
import io
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import asyncpg
from asyncpg.cursor import Cursor, CursorFactory, CursorIterator
from asyncpg.prepared_stmt import PreparedStatement
from asyncpg.transaction import Transaction

from tenantproxy.driver.guard import Guard
from tests.support.waiting import until

Call = Callable[[], Awaitable[object]]
Prepare = Callable[[Guard], Awaitable[Call]]

OWN: Final = "SELECT name FROM projects"
BY_ID: Final = "SELECT name FROM projects WHERE id > $1"
DOMAIN, WHERE = "sql_identifier", "information_schema"  # a type that the driver does not know by itself
PLAIN: Final = "late_copies"
PLAIN_TABLE: Final = f"CREATE TABLE {PLAIN} (name text); GRANT SELECT, INSERT ON {PLAIN} TO PUBLIC"
"""A table without policies, for COPY into a table; who makes the world makes it."""

_ON_CONNECTION: Final[dict[str, Callable[[Guard], Awaitable[object]]]] = {
    "add_listener": lambda conn: conn.add_listener("late", _hear),
    "close": lambda conn: conn.close(),
    "copy_from_query": lambda conn: conn.copy_from_query(BY_ID, 0, output=io.BytesIO()),
    "copy_from_table": lambda conn: conn.copy_from_table(PLAIN, output=io.BytesIO()),
    "copy_records_to_table": lambda conn: conn.copy_records_to_table(PLAIN, records=[("late",)]),
    "copy_to_table": lambda conn: conn.copy_to_table(PLAIN, source=io.BytesIO(b"late\n")),
    "execute": lambda conn: conn.execute(OWN),
    "executemany": lambda conn: conn.executemany(BY_ID, [(0,), (1,)]),
    "fetch": lambda conn: conn.fetch(OWN),
    "fetchmany": lambda conn: conn.fetchmany(BY_ID, [(0,), (1,)]),
    "fetchrow": lambda conn: conn.fetchrow(OWN),
    "fetchval": lambda conn: conn.fetchval(OWN),
    "prepare": lambda conn: conn.prepare(OWN),
    "prepare_kept": lambda conn: conn.prepare_kept(OWN),
    "reload_schema_state": lambda conn: conn.reload_schema_state(),
    "remove_listener": lambda conn: conn.remove_listener("late", _hear),
    "reset": lambda conn: conn.reset(),
    "reset_type_codec": lambda conn: conn.reset_type_codec(DOMAIN, schema=WHERE),
    "run_kept": lambda conn: conn.run_kept(OWN, ()),
    "set_builtin_type_codec": lambda conn: conn.set_builtin_type_codec("hstore", codec_name="pg_contrib.hstore"),
    "set_type_codec": lambda conn: conn.set_type_codec(DOMAIN, schema=WHERE, encoder=str, decoder=str),
}
_ON_STATEMENT: Final[dict[str, Callable[[PreparedStatement[Any]], Awaitable[object]]]] = {
    "executemany": lambda statement: statement.executemany([(0,), (1,)]),
    "explain": lambda statement: statement.explain(0, analyze=True),
    "fetch": lambda statement: statement.fetch(0),
    "fetchmany": lambda statement: statement.fetchmany([(0,), (1,)]),
    "fetchrow": lambda statement: statement.fetchrow(0),
    "fetchval": lambda statement: statement.fetchval(0),
}
_ON_CURSOR: Final[dict[str, Callable[[Cursor[Any]], Awaitable[object]]]] = {
    "fetch": lambda cursor: cursor.fetch(1),
    "fetchrow": lambda cursor: cursor.fetchrow(),
    "forward": lambda cursor: cursor.forward(1),
}
_ON_TRANSACTION: Final[dict[str, Callable[[Transaction], Awaitable[object]]]] = {
    "__aenter__": lambda transaction: transaction.__aenter__(),
    "__aexit__": lambda transaction: transaction.__aexit__(None, None, None),
    "commit": lambda transaction: transaction.commit(),
    "rollback": lambda transaction: transaction.rollback(),
    "start": lambda transaction: transaction.start(),
}

KNOWN: Final = {
    asyncpg.Connection: _ON_CONNECTION.keys() - {"prepare_kept", "run_kept"},
    PreparedStatement: _ON_STATEMENT.keys(),
    Cursor: _ON_CURSOR.keys(),
    CursorIterator: {"__anext__"},
    CursorFactory: {"__await__"},
    Transaction: _ON_TRANSACTION.keys(),
}
"""By class of asyncpg: the methods that are tried. Those of `Guard` alone are tried too."""

NOT_AWAITED: Final = {
    asyncpg.Connection: {
        "add_log_listener", "add_query_logger", "add_termination_listener", "cursor", "get_reset_query",
        "get_server_pid", "get_server_version", "get_settings", "is_closed", "is_in_transaction", "query_logger",
        "remove_log_listener", "remove_query_logger", "remove_termination_listener", "terminate", "transaction",
    },
    PreparedStatement: {
        "cursor", "get_attributes", "get_name", "get_parameters", "get_query", "get_statusmsg",
    },
    Cursor: set(),
    CursorIterator: {"__aiter__"},
    CursorFactory: {"__aiter__"},
    Transaction: set(),
}  # fmt: skip
"""The other methods: they do what they do when they are called."""


def _hear(*_: object) -> None:
    pass


def methods_of(cls: type) -> tuple[set[str], set[str]]:
    """The names of what a class lets be awaited, and of its other methods."""
    awaited, others = set(), set()
    for name, method in inspect.getmembers(cls, inspect.isfunction):
        is_coroutine = inspect.iscoroutinefunction(inspect.unwrap(method))
        if name == "__await__" or (is_coroutine and (not name.startswith("_") or name.endswith("__"))):
            awaited.add(name)
        elif not name.startswith("_") or name == "__aiter__":
            others.add(name)
    return awaited, others


def _of_connection(name: str) -> Prepare:
    async def prepare(conn: Guard) -> Call:
        if name == "remove_listener":
            await conn.add_listener("late", _hear)
        return lambda: _ON_CONNECTION[name](conn)

    return prepare


def _of_statement(name: str) -> Prepare:
    async def prepare(conn: Guard) -> Call:
        statement = await conn.prepare(BY_ID)
        return lambda: _ON_STATEMENT[name](statement)

    return prepare


def _of_cursor(name: str) -> Prepare:
    async def prepare(conn: Guard) -> Call:
        await conn.transaction().start()
        cursor = await conn.cursor(OWN)
        return lambda: _ON_CURSOR[name](cursor)

    return prepare


def _of_transaction(name: str) -> Prepare:
    async def prepare(conn: Guard) -> Call:
        transaction = conn.transaction()
        if name == "__aexit__":
            await transaction.__aenter__()
        elif name in ("commit", "rollback"):
            await transaction.start()
        return lambda: _ON_TRANSACTION[name](transaction)

    return prepare


async def _first_row(conn: Guard) -> Call:
    await conn.transaction().start()
    return conn.cursor(OWN).__aiter__().__anext__


async def _row_after_the_first(conn: Guard) -> Call:
    await conn.transaction().start()
    rows = conn.cursor(OWN, prefetch=1).__aiter__()
    await anext(rows)
    return rows.__anext__


async def _row_of_a_statement(conn: Guard) -> Call:
    statement = await conn.prepare(OWN)
    await conn.transaction().start()
    return statement.cursor().__aiter__().__anext__


async def _a_cursor(conn: Guard) -> Call:
    await conn.transaction().start()
    return lambda: conn.cursor(OWN)


async def _a_cursor_of_a_statement(conn: Guard) -> Call:
    statement = await conn.prepare(OWN)
    await conn.transaction().start()
    return statement.cursor


async def _a_nested_transaction(conn: Guard) -> Call:
    await conn.transaction().start()
    return conn.transaction(isolation="read_committed").start  # asks for the level, then sets a savepoint


CALLS: Final[dict[str, Prepare]] = (
    {f"connection.{name}": _of_connection(name) for name in _ON_CONNECTION}
    | {f"statement.{name}": _of_statement(name) for name in _ON_STATEMENT}
    | {f"cursor.{name}": _of_cursor(name) for name in _ON_CURSOR}
    | {f"transaction.{name}": _of_transaction(name) for name in _ON_TRANSACTION}
    | {
        "rows.__anext__": _first_row,
        "rows.__anext__ again": _row_after_the_first,
        "rows.__anext__ of a statement": _row_of_a_statement,
        "factory.__await__": _a_cursor,
        "factory.__await__ of a statement": _a_cursor_of_a_statement,
        "transaction.start of a nested one": _a_nested_transaction,
    }
)
"""What is done in a lease first; the answer makes the awaitable. Every method of `KNOWN` is among them."""


async def awaiting(awaitable: Awaitable[object]) -> object:
    """A coroutine that awaits it."""
    return await awaitable


class ByHand:
    """A coroutine that goes on when it is told to, and not as soon as what it waits for is there."""

    def __init__(self, coroutine: Coroutine[Any, Any, object]) -> None:
        self._coroutine = coroutine
        self._future: asyncio.Future[object] | None = None
        self.result: Any = None
        self.error: Exception | None = None
        self.is_done = False

    def go_on(self) -> None:
        """One step: until it waits, or its end."""
        try:
            self._future = self._coroutine.send(None)
        except StopIteration as end:
            self.is_done = True
            self.result = end.value
        except Exception as exc:  # noqa: BLE001 - the test asks for it
            self.is_done = True
            self.error = exc
        else:
            assert self._future is not None
            self._future._asyncio_future_blocking = False

    async def answered(self) -> None:
        """What it waits for is there."""
        future = self._future
        assert future is not None
        await until(future.done, "what it waits for is there")

    async def finish(self) -> None:
        """All the steps that are left."""
        while not self.is_done:
            await self.answered()
            self.go_on()
