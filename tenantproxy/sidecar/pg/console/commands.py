"""Which command of the console is this? Text in, commands out; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tenantproxy.errors import NotSupported, ProtocolError, TenantProxyError
from tenantproxy.sidecar.pg.console.tables import TABLES, TEXT, Table

__all__ = ["FIXED", "Command", "CommandError", "parse", "tag_of", "unknown"]

_MAX_SQL: Final = 2048

# What drivers find out, or put right, of any session; the console keeps no session, and says what it always is.
FIXED: Final[Mapping[str, str]] = {
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "default_transaction_isolation": "read committed",
    "extra_float_digits": "1",
    "integer_datetimes": "on",
    "intervalstyle": "postgres",
    "server_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "timezone": "UTC",
    "transaction_isolation": "read committed",
}
_SESSION: Final = frozenset({*FIXED, "application_name", "client_min_messages", "characteristics", "all"})
_TAGS: Final[Mapping[str, str]] = {  # of what is taken, and does nothing
    "BEGIN": "BEGIN",
    "START": "START TRANSACTION",
    "COMMIT": "COMMIT",
    "END": "COMMIT",
    "ROLLBACK": "ROLLBACK",
    "ABORT": "ROLLBACK",
    "DISCARD": "DISCARD ALL",
}
_NOT_HERE: Final = frozenset({  # what PgBouncer has, in place of SHOW or behind it
    "DISABLE", "ENABLE", "RECONNECT", "SUSPEND", "SHUTDOWN", "WAIT_CLOSE", "KILL_CLIENT", "FDS", "SOCKETS", "TOTALS",
    "ACTIVE_SOCKETS", "MEM", "DNS_HOSTS", "DNS_ZONES", "PEERS", "PEER_POOLS",
})  # fmt: skip


class CommandError(ProtocolError):
    """Not a command of the console."""

    http_status, sqlstate, code = 400, "42601", "syntax_error"


@dataclass(frozen=True, slots=True)
class Command:
    """One statement: as it was written, its first word in capitals, and the words behind that."""

    text: str
    verb: str
    words: tuple[str, ...]

    @property
    def table(self) -> Table | None:
        """What it shows, if it shows a table."""
        return _shown(self.words[0]) if self.verb == "SHOW" and len(self.words) == 1 else None


_BLANK: Final = re.compile(r"(?:\s|--[^\n]*|/\*.*?\*/)*", re.DOTALL)
_TOKEN: Final = re.compile(r'[A-Za-z0-9_][\w.\-]*|"(?:[^"]|"")*"|\'(?:[^\']|\'\')*\'|.', re.DOTALL | re.ASCII)


def parse(sql: bytes) -> list[Command]:
    """The commands in `sql`, which semicolons separate."""
    if len(sql) > _MAX_SQL:
        raise ProtocolError("a command of the console is too long", detail=f"at most {_MAX_SQL} bytes")
    try:
        text = sql.decode()
    except UnicodeDecodeError:
        raise CommandError("invalid command, it is not UTF-8") from None
    commands: list[Command] = []
    begin, words = 0, list[str]()
    for at, token in _tokens(text):
        if not words:
            begin = at
        if token != ";":  # noqa: S105
            words.append(token)
        elif words:
            commands.append(_command(text[begin:at], words))
            words = []
    return [*commands, _command(text[begin:], words)] if words else commands


def _tokens(text: str) -> Iterator[tuple[int, str]]:
    at = 0
    while True:
        blank = _BLANK.match(text, at)
        token = _TOKEN.match(text, blank.end() if blank is not None else at)
        if token is None:
            return
        yield token.start(), token[0]
        at = token.end()


def _command(text: str, words: list[str]) -> Command:
    return Command(text.strip(), words[0].upper(), tuple(_unquoted(word) for word in words[1:]))


def _unquoted(word: str) -> str:
    quote = word[0]
    return word[1:-1].replace(quote * 2, quote) if quote in "\"'" and len(word) > 1 else word


def _shown(word: str) -> Table | None:
    value = FIXED.get(word.lower())
    if value is not None:
        return Table((word.lower(),), (TEXT,), lambda _, __: [(value,)])
    return TABLES.get(word.upper())


def tag_of(command: Command) -> str | None:
    """The tag of what drivers send to any session, and does nothing here; None: it is something else."""
    if command.verb not in ("SET", "RESET"):
        return _TAGS.get(command.verb)
    kept = [word.lower() for word in command.words if word.lower() not in ("local", "session")]
    return command.verb if kept and kept[0] in _SESSION else None


def unknown(command: Command) -> TenantProxyError:
    """Why it is no command of the console, in PgBouncer's words where it has them."""
    asked = command.words[0].upper() if command.verb == "SHOW" and command.words else command.verb
    if asked in _NOT_HERE:
        return NotSupported(f"{asked} is not available on this console", hint="SHOW HELP lists what is")
    if command.verb in ("SET", "RESET"):
        return NotSupported(
            "the console changes no settings", hint="change the configuration file, then RELOAD; SHOW CONFIG shows it"
        )
    return CommandError(f"invalid command '{command.text[:200]}', use SHOW HELP;")
