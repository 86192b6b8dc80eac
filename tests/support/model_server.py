"""What would a PostgreSQL server answer? A model of one session: statements, portals, errors, transactions, COPY.

Pure: bytes in, bytes out. A query is a list of commands with `;` between: `rows N`, `begin`, `commit`, `rollback`,
`fail` (when run), `bad` (when parsed), `copy in`, `copy out`, `trap` (a COPY that fails before it reads), `inner` (a
function fails when it is bound, as a stale plan does), and DEALLOCATE, DISCARD ALL, SET, LISTEN as everywhere. What
stands before a `:` is a label, which rows and errors carry.

A statement_timeout strikes when it is due (`pass_time`) and the next message is read, as in PostgreSQL. That the model
answers as PostgreSQL does is tried in tests/integration/test_model_server.py.
"""

from __future__ import annotations

from tenantproxy.wire import frames
from tenantproxy.wire.frames import HEADER, frame, length_of

G = frame(frames.COPY_IN, b"\0\0\0")
NAMES_END = b"\0"


def query(sql: bytes) -> bytes:
    """A simple query."""
    return frame(frames.QUERY, sql + b"\0")


def parse(name: bytes, sql: bytes) -> bytes:
    """Prepare `sql`."""
    return frame(frames.PARSE, name + b"\0" + sql + b"\0\0\0")


def bind(name: bytes, *, portal: bytes = b"", values: bytes = b"\0\0\0\0\0\0") -> bytes:
    """A portal of the statement."""
    return frame(frames.BIND, portal + b"\0" + name + b"\0" + values)


def execute(portal: bytes = b"") -> bytes:
    """Run a portal."""
    return frame(frames.EXECUTE, portal + b"\0\0\0\0\0")


def describe(name: bytes) -> bytes:
    """Ask what a statement is."""
    return frame(frames.DESCRIBE, b"S" + name + b"\0")


def shown(name: bytes) -> bytes:
    """Bind, ask for the shape of the rows, and execute."""
    return bind(name) + frame(frames.DESCRIBE, b"P\0") + execute()


def close(name: bytes) -> bytes:
    """Forget a statement."""
    return frame(frames.CLOSE, b"S" + name + b"\0")


def run(name: bytes = b"") -> bytes:
    """Bind and execute."""
    return bind(name) + execute()


SYNC = frame(frames.SYNC)
FLUSH = frame(frames.FLUSH)
DONE = frame(frames.COPY_DONE)
TERMINATE = frame(frames.TERMINATE)


def data(line: bytes = b"1\n") -> bytes:
    """A piece of COPY."""
    return frame(frames.COPY_DATA, line)


def fail(reason: bytes = b"enough") -> bytes:
    """End a COPY."""
    return frame(frames.COPY_FAIL, reason + b"\0")


def function() -> bytes:
    """A function call."""
    return frame(frames.FUNCTION_CALL, b"\0\0\0\1\0\0\0\0\0\1")


def error(
    sqlstate: bytes, *, severity: bytes = b"ERROR", routine: bytes = b"model", text: bytes = b"it failed"
) -> bytes:
    """As a server says it."""
    fields = b"S%b\0V%b\0C%b\0M%b\0R%b\0\0" % (severity, severity, sqlstate, text, routine)
    return frame(frames.ERROR, fields)


def tag(text: bytes) -> bytes:
    """A command was completed."""
    return frame(frames.COMMAND_COMPLETE, text + b"\0")


def row(text: bytes) -> bytes:
    """One row of one column."""
    return frame(frames.DATA_ROW, b"\0\1" + len(text).to_bytes(4, "big") + text)


def shape(name: bytes) -> bytes:
    """Rows of one column of text."""
    return frame(frames.ROW_DESCRIPTION, b"\0\1" + name + b"\0" + bytes(9) + b"\x19\xff\xff" + b"\xff" * 4 + b"\0\0")


def command_of(sql: bytes) -> bytes:
    """Without its label."""
    return sql.strip().rpartition(b":")[2]


STALE_PLAN = error(b"0A000", routine=b"RevalidateCachedQuery")
_STALE_INSIDE = STALE_PLAN[:-1] + b"Wa function\0\0"
STALE_INSIDE = frame(frames.ERROR, _STALE_INSIDE[HEADER:])
"""The same, of a function that the client called."""

_STARTS = frozenset((frames.PARSE, frames.BIND, frames.DESCRIBE, frames.EXECUTE))
_SIMPLE = (frames.QUERY, frames.FUNCTION_CALL)
_COPYING = (frames.COPY_DATA, frames.COPY_DONE, frames.COPY_FAIL)


class _Failed(Exception):
    """A command ended with this answer."""


class ModelServer:
    """One session. `input` is what of a message has come, `ran` what was run.

    `is_18`: it leaves a transaction open behind an Execute, a Query and a Sync, as PostgreSQL 18 does.
    """

    def __init__(self, *, is_18: bool = False) -> None:
        self.input = b""
        self.is_18 = is_18
        self.is_open = False  # a command was started that no Sync has ended
        self.is_armed = self.is_due = False  # statement_timeout runs, has run out
        self._is_executed = False  # since the last Sync
        self._is_implicit = False  # the pipeline is a transaction block
        self._is_left_open = False  # it is idle as it says, and is not
        self.ran: list[bytes] = []
        self.statements: dict[bytes, bytes] = {}
        self.stale: set[bytes] = set()  # texts with stale plans
        self.columns: dict[bytes, bytes] = {}  # of texts whose column is not called as they are
        self.status = b"I"
        self.is_closed = False
        self.is_skipping = False
        self.copied: int | None = None  # lines, while it reads COPY data
        self._unnamed: bytes | None = None
        self._portals: dict[bytes, bytes] = {}
        self._left: list[bytes] | None = None  # of a simple query that is being run
        self._out: list[bytes] = []

    @property
    def is_quiet(self) -> bool:
        """Whether it waits for a message, and nothing is begun."""
        is_amid = self.input or self.is_skipping or self._is_busy or self.is_open
        return self.status == b"I" and not (is_amid or self._is_implicit or self._is_left_open or self.is_closed)

    def pass_time(self) -> None:
        """A statement_timeout that runs, runs out."""
        self.is_due = self.is_armed

    def die(self) -> bytes:
        """It is told to end: what it says."""
        self._out = []
        self._say(error(b"57P01", severity=b"FATAL"))
        self.is_closed = True
        return self._out[0]

    @property
    def _is_busy(self) -> bool:
        return self.copied is not None or self._left is not None

    def feed(self, received: bytes) -> bytes:
        """The answer to what came."""
        self.input += received
        self._out = []
        while not self.is_closed and len(self.input) >= HEADER:
            length = length_of(self.input, 0)
            if len(self.input) < length:
                break
            message, self.input = self.input[:length], self.input[length:]
            self._take(message[0], message[HEADER:])
        return b"".join(self._out)

    def _take(self, kind: int, payload: bytes) -> None:
        is_simple = kind in _SIMPLE
        if self.copied is not None:
            self._copy(kind, payload)
        elif self.is_due and kind != frames.TERMINATE:
            self._fail(error(b"57014"), is_simple=is_simple or kind == frames.SYNC or kind in _COPYING)
        elif kind == frames.SYNC:
            self._sync(payload)
        elif kind == frames.TERMINATE:
            self.is_closed = True
        elif not self.is_skipping:
            try:
                self._start(kind)
                self._obey(kind, payload)
            except _Failed as failed:
                self._fail(failed.args[0], is_simple=is_simple)
            except ValueError:  # a message that is not what its kind says
                self._fail(error(b"08P01"), is_simple=is_simple)

    def _start(self, kind: int) -> None:
        if kind not in _STARTS and kind not in _SIMPLE:
            return
        if self._is_left_open:
            self._is_left_open = False
            raise _Failed(error(b"XX000"))
        self.is_armed = True
        if kind in _STARTS:
            self.is_open = True

    def _sync(self, payload: bytes) -> None:
        self.is_skipping = self.is_armed = False
        self._is_left_open = self._is_left_open or (self._is_implicit and not self.is_open)
        self.is_open = self._is_executed = self._is_implicit = False
        if payload:
            self._say(error(b"08P01"))
        self._ready()

    def _obey(self, kind: int, payload: bytes) -> None:  # noqa: C901 - a branch for each kind
        if kind == frames.QUERY:
            self._unnamed = None
            texts = payload[:-1].split(b";")
            if any(command_of(text) == b"bad" for text in texts):  # all of it is parsed before any of it runs
                raise _Failed(error(b"42601"))
            self._left = [text for text in texts if text.strip()] or [b""]
            if self.is_18 and self._is_executed and len(self._left) == 1:
                self._is_implicit = self.status == b"I"
            self._run_left()
        elif kind == frames.PARSE:
            self._parse(payload)
        elif kind == frames.BIND:
            portal, name = payload.split(NAMES_END)[:2]
            text = self._text(name)
            if command_of(text) == b"inner":
                self.ran.append(text)
                raise _Failed(STALE_INSIDE)
            self._portals[portal] = text
            self._say(frame(frames.BIND_COMPLETE))
        elif kind == frames.DESCRIBE:
            if payload[:1] == b"S":
                text = self._text(payload[1:-1], is_told=True)
                self._say(frame(frames.PARAMETER_DESCRIPTION, b"\0\0") + self._shape(text))
            elif payload[1:-1] in self._portals:
                self._say(self._shape(self._portals[payload[1:-1]]))
            else:
                raise _Failed(error(b"34000"))
        elif kind == frames.EXECUTE:
            portal = payload.split(NAMES_END)[0]
            if portal not in self._portals:
                raise _Failed(error(b"34000"))
            self._run(self._portals[portal])
            command = command_of(self._portals[portal])
            if command:
                self.is_armed = self.copied is not None
                self._is_executed = command not in (b"begin", b"commit", b"rollback")
        elif kind == frames.CLOSE:
            if payload[:1] == b"S":
                if payload[1:-1]:
                    self.statements.pop(payload[1:-1], None)
                else:
                    self._unnamed = None
            self._say(frame(frames.CLOSE_COMPLETE))
        elif kind == frames.FUNCTION_CALL:
            if self.status == b"E":
                raise _Failed(error(b"25P02"))
            self._say(frame(frames.FUNCTION_RESULT, b"\xff\xff\xff\xff"))
            self.is_open = self.is_armed = self._is_executed = False
            self._ready()
        elif kind == frames.FLUSH and payload:
            raise ValueError("a Flush with a body")
        elif kind != frames.FLUSH and kind not in _COPYING:
            self._die()

    def _parse(self, payload: bytes) -> None:
        name, sql = payload.split(NAMES_END)[:2]
        if not name:
            self._unnamed = None
        if self.status == b"E" and command_of(sql) not in (b"rollback", b"commit", b""):
            raise _Failed(error(b"25P02"))
        if command_of(sql) == b"bad":
            raise _Failed(error(b"42601"))
        if not name:
            self._unnamed = sql
        elif name in self.statements:
            raise _Failed(error(b"42P05", text=b'prepared statement "%b" already exists' % name))
        else:
            self.statements[name] = sql
            self.stale.discard(sql)
        self._say(frame(frames.PARSE_COMPLETE))

    def _text(self, name: bytes, *, is_told: bool = False) -> bytes:
        found = self.statements.get(name) if name else self._unnamed
        if found is None:
            raise _Failed(error(b"26000", text=b'prepared statement "%b" does not exist' % name))
        if found in self.stale:
            raise _Failed(STALE_PLAN)
        is_possible = command_of(found) in (b"rollback", b"commit") or (is_told and b"rows" not in found)
        if self.status == b"E" and not is_possible:
            raise _Failed(error(b"25P02"))
        return found

    def _shape(self, sql: bytes) -> bytes:
        return shape(self.columns.get(sql, sql))

    def _run_left(self) -> None:
        while self._left:
            self._run(self._left.pop(0).strip())
            if self.copied is not None:
                return
        self._left = None
        self.is_open = self.is_armed = self._is_executed = False
        self._ready()

    def _run(self, sql: bytes) -> None:
        label, sql = sql, command_of(sql)
        if self.status == b"E" and sql not in (b"rollback", b"commit", b""):
            raise _Failed(error(b"25P02"))
        self.ran.append(label)
        word, _, rest = sql.partition(b" ")
        if sql in (b"fail", b"bad"):
            raise _Failed(error(b"22012", text=label))
        if word == b"rows":
            for n in range(min(int(rest), 10)):
                self._say(row(b"%b %d" % (label, n)))
            self._say(tag(b"SELECT " + rest))
        elif sql in (b"begin", b"commit", b"rollback"):
            self._transaction(sql)
        elif sql in (b"copy in", b"trap"):
            self._say(G)
            if sql == b"trap":
                raise _Failed(error(b"P0001"))
            self.copied = 0
        elif sql == b"copy out":
            self._say(frame(frames.COPY_OUT, b"\0\0\0") + data(label) + DONE + tag(b"COPY 1"))
        elif word in (b"DEALLOCATE", b"DISCARD"):
            self._deallocate(word, rest)
        elif not sql:
            self._say(frame(frames.EMPTY_QUERY))
        else:
            self._say(tag(word))

    def _transaction(self, sql: bytes) -> None:
        is_failed = self.status == b"E"
        self._is_implicit = False
        self.status = b"T" if sql == b"begin" else b"I"
        self._say(tag(b"ROLLBACK" if is_failed else sql.upper()))

    def _deallocate(self, word: bytes, name: bytes) -> None:
        if name == b"ALL":
            self.statements.clear()
            self._say(tag(word + b" ALL"))
        elif self.statements.pop(name, None) is None:
            raise _Failed(error(b"26000"))
        else:
            self._say(tag(word))

    def _copy(self, kind: int, payload: bytes) -> None:
        assert self.copied is not None
        if kind in (frames.SYNC, frames.FLUSH):
            return
        if kind == frames.COPY_DATA and self.is_due:
            self.copied = None
            self._fail(error(b"57014"), is_simple=self._left is not None)
        elif kind == frames.COPY_DATA and payload != b"wrong\n":
            self.copied += 1
        elif kind in (frames.COPY_DATA, frames.COPY_FAIL):
            self.copied = None
            self._fail(error(b"22P04"), is_simple=self._left is not None)
        elif kind == frames.COPY_DONE:
            self._say(tag(b"COPY %d" % self.copied))
            self.copied = None
            self.is_armed = self.is_due = False
            if self._left is not None:
                try:
                    self._run_left()
                except _Failed as failed:
                    self._fail(failed.args[0], is_simple=True)
                except ValueError:
                    self._fail(error(b"08P01"), is_simple=True)
        else:
            self._die()

    def _fail(self, answer: bytes, *, is_simple: bool) -> None:
        self._say(answer)
        if self.status == b"T":
            self.status = b"E"
        self._left = None
        self.is_open = self.is_armed = self.is_due = self._is_implicit = self._is_executed = False
        if is_simple:
            self._ready()
        else:
            self.is_skipping = True

    def _die(self) -> None:
        if self.copied is not None:  # the error of the COPY, and then of the connection
            self._say(error(b"08P01"))
        self._say(error(b"08P01", severity=b"FATAL"))
        self.is_closed = True

    def _ready(self) -> None:
        if self.status == b"I":
            self._portals.clear()
        self._say(frame(frames.READY, b"T" if self._is_implicit else self.status))

    def _say(self, message: bytes) -> None:
        self._out.append(message)
