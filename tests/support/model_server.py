"""What would a PostgreSQL server answer? A model of one session: statements, portals, errors, transactions, COPY.

Pure: bytes in, bytes out. A query is a list of commands with `;` between: `rows N`, `begin`, `commit`, `rollback`,
`fail` (when run), `bad` (when parsed), `copy in`, `copy out`, `trap` (a COPY that fails before it reads), and
DEALLOCATE, DISCARD ALL, SET, LISTEN as everywhere.
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


STALE_PLAN = error(b"0A000", routine=b"RevalidateCachedQuery")


class _Failed(Exception):
    """A command ended with this answer."""


class ModelServer:
    """One session. `input` is what of a message has come, `ran` what was run."""

    def __init__(self) -> None:
        self.input = b""
        self.ran: list[bytes] = []
        self.statements: dict[bytes, bytes] = {}
        self.stale: set[bytes] = set()  # texts whose plans have to be made anew
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
        return self.status == b"I" and not (self.input or self.is_skipping or self._is_busy or self.is_closed)

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
        if self.copied is not None:
            self._copy(kind, payload)
            return
        if kind == frames.SYNC:
            self.is_skipping = False
            self._ready()
            return
        if kind == frames.TERMINATE:
            self.is_closed = True
            return
        if self.is_skipping:
            return
        try:
            self._obey(kind, payload)
        except _Failed as failed:
            self._fail(failed.args[0], is_simple=kind in (frames.QUERY, frames.FUNCTION_CALL))
        except ValueError:  # a message that is not what its kind says
            self._fail(error(b"08P01"), is_simple=kind in (frames.QUERY, frames.FUNCTION_CALL))

    def _obey(self, kind: int, payload: bytes) -> None:  # noqa: C901 - a branch for each kind
        if kind == frames.QUERY:
            self._unnamed = None
            self._left = payload[:-1].split(b";")
            self._run_left()
        elif kind == frames.PARSE:
            self._parse(payload)
        elif kind == frames.BIND:
            portal, name = payload.split(NAMES_END)[:2]
            self._portals[portal] = self._text(name)
            self._say(frame(frames.BIND_COMPLETE))
        elif kind == frames.DESCRIBE:
            if payload[:1] == b"S":
                text = self._text(payload[1:-1])
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
        elif kind == frames.CLOSE:
            if payload[:1] == b"S":
                if payload[1:-1]:
                    self.statements.pop(payload[1:-1], None)
                else:
                    self._unnamed = None
            self._say(frame(frames.CLOSE_COMPLETE))
        elif kind == frames.FUNCTION_CALL:
            self._say(frame(frames.FUNCTION_RESULT, b"\xff\xff\xff\xff"))
            self._ready()
        elif kind not in (frames.FLUSH, frames.COPY_DATA, frames.COPY_DONE, frames.COPY_FAIL):
            self._die()

    def _parse(self, payload: bytes) -> None:
        name, sql = payload.split(NAMES_END)[:2]
        if not name:
            self._unnamed = None
        if sql == b"bad":
            raise _Failed(error(b"42601"))
        if not name:
            self._unnamed = sql
        elif name in self.statements:
            raise _Failed(error(b"42P05"))
        else:
            self.statements[name] = sql
            self.stale.discard(sql)
        self._say(frame(frames.PARSE_COMPLETE))

    def _text(self, name: bytes) -> bytes:
        found = self.statements.get(name) if name else self._unnamed
        if found is None:
            raise _Failed(error(b"26000", text=b'prepared statement "%b" does not exist' % name))
        if found in self.stale:
            raise _Failed(STALE_PLAN)
        if self.status == b"E" and found not in (b"rollback", b"commit"):
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
        self._ready()

    def _run(self, sql: bytes) -> None:
        if self.status == b"E" and sql not in (b"rollback", b"commit"):
            raise _Failed(error(b"25P02"))
        self.ran.append(sql)
        word, _, rest = sql.partition(b" ")
        if sql in (b"fail", b"bad"):
            raise _Failed(error(b"22012"))
        if word == b"rows":
            for n in range(min(int(rest), 10)):
                self._say(row(b"%b %d" % (sql, n)))
            self._say(tag(b"SELECT " + rest))
        elif sql in (b"begin", b"commit", b"rollback"):
            self._transaction(sql)
        elif sql in (b"copy in", b"trap"):
            self._say(G)
            if sql == b"trap":
                raise _Failed(error(b"P0001"))
            self.copied = 0
        elif sql == b"copy out":
            self._say(frame(frames.COPY_OUT, b"\0\0\0") + data() + DONE + tag(b"COPY 1"))
        elif word in (b"DEALLOCATE", b"DISCARD"):
            self._deallocate(word, rest)
        elif not sql:
            self._say(frame(frames.EMPTY_QUERY))
        else:
            self._say(tag(word))

    def _transaction(self, sql: bytes) -> None:
        is_failed = self.status == b"E"
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
        if kind == frames.COPY_DATA and payload != b"wrong\n":
            self.copied += 1
        elif kind in (frames.COPY_DATA, frames.COPY_FAIL):
            self.copied = None
            self._fail(error(b"22P04"), is_simple=self._left is not None)
        elif kind == frames.COPY_DONE:
            self._say(tag(b"COPY %d" % self.copied))
            self.copied = None
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
        if is_simple:
            self._ready()
        else:
            self.is_skipping = True

    def _die(self) -> None:
        self._say(error(b"08P01", severity=b"FATAL"))
        self.is_closed = True

    def _ready(self) -> None:
        if self.status == b"I":
            self._portals.clear()
        self._say(frame(frames.READY, self.status))

    def _say(self, message: bytes) -> None:
        self._out.append(message)
