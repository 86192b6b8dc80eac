"""Which statement of a server stands behind the name a client gave it?

In transaction mode a client's next transaction may run on another backend, and two clients may give the same name to
different statements. So a statement is known by its content, its text and parameter types, and by the settings that
give them their meaning, under one name on every backend that has it.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from secrets import token_hex
from typing import Final
from weakref import WeakValueDictionary

from tenantproxy.wire.commands import WATCHED, is_of_a_moment, word_of
from tenantproxy.wire.frames import CLOSE, HEADER, PARSE, frame
from tenantproxy.wire.leftovers import leftovers
from tenantproxy.wire.session_texts import sets_untracked
from tenantproxy.wire.settings import NO_SETTINGS

__all__ = ["NAME_PREFIX", "Definitions", "ServerStatements", "Statement", "Statements", "new_statement"]

NAME_PREFIX: Final = b"tp_"
MAX_PREPARED: Final = 500  # on one backend; a plan costs the server some ten kilobytes
MAX_PREPARED_BYTES: Final = 32 * 1024 * 1024  # of texts on one backend, and of one client
_MAX_WATCHED: Final = 65_536  # of a SET, RESET or DEALLOCATE that is looked at


class Statement:
    """A text and its parameter types, as a Parse message holds them behind the name. Equal only to itself.

    The text is here while a client has a name for it (`names`, see `memory.TenantMemory`): then alone it may have to be
    prepared. On backends it may stay prepared for longer, and is found again by its content. `meaning`: see
    `session_settings.KeptSettings`.
    """

    __slots__ = ("__weakref__", "close", "content", "leaves", "meaning", "name", "names", "parse", "size", "watched")

    def __init__(self, name: bytes, body: bytes, meaning: object = NO_SETTINGS, content: bytes = b"") -> None:
        self.name = name
        self.names = 0  # of clients
        self.content = content  # what it is found by, with its meaning
        self.meaning = meaning
        self.parse = frame(PARSE, name + b"\0" + body)
        self.size = len(self.parse)
        self.close = frame(CLOSE, b"S" + name + b"\0")
        text = body[: body.find(b"\0")]
        is_watched = word_of(body, 0) in WATCHED
        self.leaves = leftovers(text) | (sets_untracked(text) if is_watched else 0)
        self.watched = text if is_watched and len(text) <= _MAX_WATCHED else b"" if is_watched else None
        """Its text, where that sets something that the session keeps; None where it is known to set nothing."""

    @property
    def body(self) -> bytes:
        """What its Parse message holds behind the name, while a client has a name for it."""
        return self.parse[HEADER + len(self.name) + 1 :]

    def forget_text(self) -> None:
        """No client has a name for it any more."""
        self.parse = b""

    def know_text(self, body: bytes) -> None:
        """A client comes with it again."""
        if not self.parse:
            self.parse = frame(PARSE, self.name + b"\0" + body)

    @property
    def text(self) -> bytes:
        """Its SQL."""
        return self.body.partition(b"\0")[0]

    def __repr__(self) -> str:
        return f"<Statement {self.name.decode()}>"  # a text may hold what only its tenant should see


class Definitions:
    """The tables, types and functions of one database, for all pools that have connections to it.

    `generation`: how often they have changed, as far as is known here. `is_delayed`: a change may be in a transaction
    that was prepared, and holds from a COMMIT PREPARED on.
    """

    __slots__ = ("__weakref__", "generation", "is_delayed")

    def __init__(self) -> None:
        self.generation = 0
        self.is_delayed = False


class Statements:
    """All statements that the clients and backends of one pool know: one object per content and meaning.

    A statement keeps the types of its parameters on a server for good, so what is prepared after a change of
    `definitions` is another one. Their names tell nothing, and the same text has another one elsewhere: who prepared
    what is not for others to know.
    """

    def __init__(self, definitions: Definitions | None = None) -> None:
        self.definitions = Definitions() if definitions is None else definitions
        self._generation = self.definitions.generation  # of what is known
        self._known: WeakValueDictionary[tuple[bytes, object], Statement] = WeakValueDictionary()

    def of(self, body: bytes, meaning: object = NO_SETTINGS) -> Statement:
        """The statement with this content, prepared where it means this."""
        if self._generation != self.definitions.generation:
            self._generation = self.definitions.generation
            self._known = WeakValueDictionary()
        content = blake2b(body, digest_size=32).digest()  # not the text itself, which is kept once
        if is_of_a_moment(body):
            return Statement(_fresh_name(), body, meaning, content)
        statement = self._known.get((content, meaning))
        if statement is None:
            statement = self._known[content, meaning] = Statement(_fresh_name(), body, meaning, content)
        else:
            statement.know_text(body)
        return statement

    def nothing(self) -> Statement:
        """An empty one, under a name that no other has."""
        return new_statement(b"\0\0\0")

    def renew(self, statement: Statement) -> None:
        """Give the next client that prepares the content of `statement` another one."""
        known = statement.content, statement.meaning
        if self._known.get(known) is statement:
            del self._known[known]

    def __len__(self) -> int:
        return len(self._known)


def _fresh_name() -> bytes:
    return NAME_PREFIX + token_hex(8).encode()


def new_statement(body: bytes) -> Statement:
    """One that no other is equal to, under a name that no other has."""
    return Statement(_fresh_name(), body)


class ServerStatements:
    """What is prepared on one backend, the least recently used first. Changed by the holder of the backend."""

    __slots__ = ("_distrusted", "_limit", "_prepared", "_since", "_size", "is_doubtful")

    def __init__(self, limit: int = MAX_PREPARED) -> None:
        self.is_doubtful = False  # there may be more than is known here
        self._limit = limit
        self._prepared: OrderedDict[Statement, bytes | None] = OrderedDict()  # and what the server says of it
        self._since: dict[Statement, float] = {}  # of those that are trusted for a time alone
        self._size = 0  # bytes of their texts, which the server keeps
        self._distrusted: set[Statement] = set()

    def use(self, statement: Statement) -> bool:
        """Whether `statement` is prepared; then it is the last that will have to make room."""
        if statement not in self._prepared:
            return False
        self._prepared.move_to_end(statement)
        return True

    def serves(self, statement: Statement, told: bytes | None) -> bool:
        """As `use`, where the server says of it what a client was `told`; None: it was told nothing."""
        prepared = self._prepared
        if statement not in prepared or (told is not None and prepared[statement] != told):
            return False
        prepared.move_to_end(statement)
        return True

    def description(self, statement: Statement) -> bytes | None:
        """What the server says of its parameters and rows; None: it was not asked, or it is not there."""
        return self._prepared.get(statement)

    def describe(self, statement: Statement, description: bytes) -> None:
        """The server has said what its parameters and rows are."""
        if statement in self._prepared:
            self._prepared[statement] = description

    def use_since(self, statement: Statement) -> float | None:
        """As `use`: when `add` was told that it is prepared; None: it is not, or was not told."""
        found = self._since.get(statement)
        if found is not None:
            self._prepared.move_to_end(statement)
        return found

    def add(self, statement: Statement, *, at: float | None = None) -> list[Statement]:
        """`statement` is being prepared; those returned must be closed before, to make room. `at`: for `use_since`."""
        out = []
        self._size += statement.size
        while self._prepared and (len(self._prepared) >= self._limit or self._size > MAX_PREPARED_BYTES):
            oldest = self._prepared.popitem(last=False)[0]
            self._size -= oldest.size
            self._since.pop(oldest, None)
            out.append(oldest)
        self._prepared[statement] = None
        if at is not None:
            self._since[statement] = at
        self._distrusted.discard(statement)
        return out

    def put_back(self, statement: Statement) -> None:
        """It was not closed after all."""
        if statement not in self._prepared:
            self._size += statement.size
            self._prepared[statement] = None

    def forget(self, statement: Statement) -> None:
        """It is not prepared, or not any more."""
        if statement in self._prepared:
            del self._prepared[statement]
            self._size -= statement.size
            self._since.pop(statement, None)

    def distrust(self, statement: Statement) -> None:
        """What is prepared there may be of another meaning."""
        self.forget(statement)
        self._distrusted.add(statement)
        if len(self._distrusted) > self._limit:
            self.doubt()

    def may_have(self, statement: Statement) -> bool:
        """Whether it may be there although it is not known to be: it must be closed before it is prepared."""
        return self.is_doubtful or statement in self._distrusted

    def clear(self) -> None:
        """Nothing is prepared."""
        self._prepared.clear()
        self._since.clear()
        self._distrusted.clear()
        self._size = 0

    def doubt(self) -> None:
        """Perhaps nothing is prepared, perhaps everything."""
        self.clear()
        self.is_doubtful = True

    def __len__(self) -> int:
        return len(self._prepared)
