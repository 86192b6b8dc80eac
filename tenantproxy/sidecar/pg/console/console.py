"""What does the console answer? Messages of a client in, bytes out; what it shows and does is its view's.

One Console is one client of the database `tenantproxy`: its prepared statements and portals are kept here and nowhere
else. Both query protocols work. Every user may SHOW; every other command is allowed or refused by itself, before any of
its arguments is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from tenantproxy.errors import AccessDenied, NotSupported, ProtocolError, TenantProxyError
from tenantproxy.events import Observer, ServiceCommanded, ignore
from tenantproxy.model import tenant_id
from tenantproxy.sidecar.acted_on import told_of
from tenantproxy.sidecar.pg.console.commands import FIXED, Command, CommandError, parse, tag_of, unknown
from tenantproxy.sidecar.pg.console.encoding import Malformed, Reader, described, row_of, text_of
from tenantproxy.sidecar.pg.console.tables import Averages, Row
from tenantproxy.sidecar.pg.console.view import ConsoleView
from tenantproxy.wire import answers, frames
from tenantproxy.wire.answers import command_complete, error_response, notice, ready_for_query

__all__ = ["Console"]

_MAX_NAMES: Final = 1000  # prepared statements, and portals, of one client

_REPORTED: Final = {"datestyle": "DateStyle", "intervalstyle": "IntervalStyle", "timezone": "TimeZone"} | {
    name: name for name in ("client_encoding", "integer_datetimes", "server_encoding", "standard_conforming_strings")
}
_HELP: Final = (
    "SHOW HELP|VERSION|CONFIG|STATE|USERS|LISTS|LIMITS\n"
    "SHOW TENANTS|DATABASES|POOLS|CLIENTS|SERVERS|WORKERS\n"
    "SHOW STATS|STATS_TOTALS|STATS_AVERAGES\n"
    "PAUSE tenant\nRESUME tenant\nKILL tenant\nRELOAD"
)


class _NoSuchStatement(ProtocolError):
    """Nothing is prepared under this name."""

    http_status, sqlstate, code = 400, "26000", "no_such_statement"


class _NoSuchPortal(ProtocolError):
    """Nothing is bound under this name."""

    http_status, sqlstate, code = 400, "34000", "no_such_portal"


class _Taken(ProtocolError):
    """Something is prepared, or bound, under this name."""

    http_status, sqlstate, code = 400, "42P05", "name_taken"


@dataclass(slots=True)
class _Portal:
    """A bound statement. `rows`: what is still to be sent, once it was begun."""

    command: Command | None
    formats: tuple[int, ...]
    rows: Iterator[Row] | None = None


class Console:
    """One client's. `may_change`: more than SHOW. `averages` is shared by all consoles of a listener.

    `observer` is told of each command that changes something, with the client's `address`.
    """

    def __init__(
        self,
        view: ConsoleView,
        *,
        user: str,
        may_change: bool,
        averages: Averages,
        address: str = "",
        observer: Observer = ignore,
    ) -> None:
        self._view = view
        self._address = address
        self._observer = observer
        self._user = user
        self._may_change = may_change
        self._averages = averages
        self._statements: dict[bytes, Command | None] = {}  # None: an empty one
        self._portals: dict[bytes, _Portal] = {}
        self._skips = False  # after an error in the extended protocol, until Sync

    @property
    def welcome(self) -> bytes:
        """What a session begins with, between AuthenticationOk and BackendKeyData: ParameterStatus messages."""
        # A version that drivers can read, and that psql does not warn about.
        reported = {name: FIXED[key] for key, name in _REPORTED.items()} | {
            "server_version": f"16.0 (tenantproxy {self._view.version})",
            "is_superuser": "off",
            "session_authorization": self._user,
        }
        return b"".join(answers.parameter_status(name.encode(), value.encode()) for name, value in reported.items())

    # --- messages ------------------------------------------------------------------------------------------------
    async def receive(self, kind: int, payload: bytes) -> bytes:
        """The answer to one message of the client, which may be empty. One at a time, in order.

        Raises ProtocolError for what no client sends; the connection ends then. Cancelled in a PAUSE, the tenant stays
        paused.
        """
        if kind == frames.SYNC:
            self._skips = False
            self._portals.clear()
            return ready_for_query()
        if self._skips or kind in _MEANINGLESS:
            return b""
        if kind == frames.QUERY:
            self._portals.pop(b"", None)
            return await self.answer(text_of(payload))
        try:
            return await self._extended(kind, payload)
        except Malformed as exc:
            raise ProtocolError("malformed message", detail=f"of kind {kind:#04x}") from exc
        except TenantProxyError as exc:
            self._skips = True
            return error_response(exc)

    async def answer(self, sql: bytes) -> bytes:
        """All that answers a simple query, ReadyForQuery included."""
        said = [b""]
        try:
            commands = parse(sql)
            if not commands:
                said.append(answers.EMPTY)
            for command in commands:
                said.append(described(command.table, ()) if command.table is not None else b"")
                said.append(await self._run(_Portal(command, ()), 0))
        except TenantProxyError as exc:
            said.append(error_response(exc))
        return b"".join(said) + ready_for_query()

    async def _extended(self, kind: int, payload: bytes) -> bytes:
        match kind:
            case frames.PARSE:
                return self._prepare(Reader(payload))
            case frames.BIND:
                return self._bind(Reader(payload))
            case frames.DESCRIBE:
                return self._describe(Reader(payload))
            case frames.CLOSE:
                what, name = Reader(payload).target()
                (self._statements if what == b"S" else self._portals).pop(name, None)
                return answers.CLOSED
            case frames.EXECUTE:
                reader = Reader(payload)
                name, limit = reader.string(), reader.int4()
                return await self._run(self._portal(name), limit)
            case frames.FUNCTION_CALL:
                raise NotSupported("the console has no functions")
        raise ProtocolError("the console does not know this message", detail=f"kind {kind:#04x}")

    def _prepare(self, reader: Reader) -> bytes:
        name, sql = reader.string(), reader.string()
        if reader.int2():
            raise NotSupported("the console takes no parameters", hint="write them into the command")
        commands = parse(sql)
        if len(commands) > 1:
            raise CommandError("cannot insert multiple commands into a prepared statement")
        _keep(self._statements, name, commands[0] if commands else None)
        return answers.PARSED

    def _bind(self, reader: Reader) -> bytes:
        portal, name = reader.string(), reader.string()
        reader.int2s()  # formats of parameters
        if reader.int2():
            raise ProtocolError("bind message supplies parameters, but the prepared statement requires 0")
        formats = reader.int2s()
        command = self._statement(name)
        columns = len(command.table.columns) if command is not None and command.table is not None else 0
        if any(form not in (0, 1) for form in formats) or len(formats) not in (0, 1, columns):
            raise ProtocolError("bind message has impossible result formats")
        _keep(self._portals, portal, _Portal(command, formats))
        return answers.BOUND

    def _describe(self, reader: Reader) -> bytes:
        what, name = reader.target()
        if what == b"S":
            portal, head = _Portal(self._statement(name), ()), answers.NO_PARAMETERS
        else:
            portal, head = self._portal(name), b""
        table = None if portal.command is None else portal.command.table
        return head + (answers.NOTHING_DESCRIBED if table is None else described(table, portal.formats))

    def _statement(self, name: bytes) -> Command | None:
        if name not in self._statements:
            raise _NoSuchStatement("the prepared statement does not exist")
        return self._statements[name]

    def _portal(self, name: bytes) -> _Portal:
        if name not in self._portals:
            raise _NoSuchPortal("the portal does not exist")
        return self._portals[name]

    # --- commands ------------------------------------------------------------------------------------------------
    async def _run(self, portal: _Portal, limit: int) -> bytes:
        """The rows of a portal, at most `limit` unless that is 0, and how it ended; or what its command did."""
        command = portal.command
        if command is None:
            return answers.EMPTY
        table = command.table
        if table is None:
            return await self._do(command)
        if portal.rows is None:
            # Of one moment, however slowly they are fetched.
            portal.rows = iter(list(table.rows(await self._view.gathered(), self._averages)))
        said: list[bytes] = []
        for row in portal.rows:
            said.append(row_of(table, row, portal.formats))
            if len(said) == limit:
                return b"".join(said) + _SUSPENDED
        return b"".join(said) + command_complete("SHOW")

    async def _do(self, command: Command) -> bytes:
        verb, words = command.verb, command.words
        if verb == "SHOW":
            if [word.upper() for word in words] != ["HELP"]:
                raise unknown(command)
            return notice("Console usage", detail=_HELP) + command_complete("SHOW")
        if verb in _VERBS:
            said = await self._told(verb, words)
            return (notice(said) if said else b"") + command_complete(verb)
        tag = tag_of(command)
        if tag is None:
            raise unknown(command)
        return command_complete(tag)

    async def _told(self, verb: str, words: tuple[str, ...]) -> str:
        """`_change`, of which the observer hears how it ended. Cancelled in a PAUSE, the tenant stays paused: done."""
        outcome = "done"
        try:
            if not self._may_change:
                raise AccessDenied(
                    "admin access needed",
                    detail=f"{verb} changes something, and this user may only SHOW",
                    hint=f"give it console = true in [pg.users.{self._user}]",
                )
            return await self._change(verb, words)
        except AccessDenied:
            outcome = "refused"
            raise
        except Exception:
            outcome = "failed"
            raise
        finally:
            tenant = words[0] if len(words) == 1 and verb != "RELOAD" else ""
            self._observer(
                ServiceCommanded(
                    by="console",
                    change=verb.lower(),
                    outcome=outcome,
                    tenant=tenant,
                    user=self._user,
                    address=self._address,
                )
            )

    async def _change(self, verb: str, words: tuple[str, ...]) -> str:
        """What is to be said of it, if anything."""
        if verb == "RELOAD":
            if words:
                raise CommandError("RELOAD takes no argument")
            changed = await self._view.reload()
            return f"changed: {', '.join(changed)}" if changed else "nothing has changed"
        if len(words) != 1:
            raise CommandError(f"{verb} needs one tenant", hint=f"write {verb} acme; SHOW TENANTS names them")
        tenant = tenant_id(words[0])
        # The observer hears whom it concerns first: who asked for a pause may not wait for its end.
        things = await (self._view.kill(tenant) if verb == "KILL" else self._view.things(tenant))
        by, change = f"console {self._user}", verb.lower()
        for event in told_of(things, by=by, change=change, tenant=tenant, address=self._address):
            self._observer(event)
        if verb != "KILL":
            await (self._view.pause if verb == "PAUSE" else self._view.resume)(tenant)
        return ""


_VERBS: Final = ("PAUSE", "RESUME", "KILL", "RELOAD")
_SUSPENDED: Final = frames.frame(frames.PORTAL_SUSPENDED)
_MEANINGLESS: Final = frozenset((frames.FLUSH, frames.COPY_DATA, frames.COPY_DONE, frames.COPY_FAIL))

_V = TypeVar("_V")


def _keep(kept: dict[bytes, _V], name: bytes, value: _V) -> None:
    """Under a name that is free, unless it is the unnamed one."""
    if name and name in kept:
        raise _Taken("this name is taken", hint="close it first")
    if len(kept) >= _MAX_NAMES and name not in kept:
        raise ProtocolError("too many prepared statements or portals", detail=f"at most {_MAX_NAMES}")
    kept[name] = value
