"""How is one transaction made a tenant's, in a session that others use too? As behind a connection pooler. Pure.

Two simple queries at most. The first one, `TransactionEntry.opening`, cleans the session in a transaction of its own,
begins the caller's transaction, sets in it what our own sessions have from their start, and asks where it is. The
second one, `proving`, is for signed row tenants: it shows a proof for exactly this transaction (the exact mode). All
that is set ends with the transaction; nothing of the caller may be sent before `opened` and `proven` have seen the
answers.

Facts and attacks: docs/isolation.md, "Behind a connection pooler".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tenantproxy.errors import IsolationError
from tenantproxy.isolation.proof import Signer
from tenantproxy.model import Binding, PoolKey, Proof

__all__ = ["Challenge", "Rows", "TransactionEntry", "in_full"]

Rows = Sequence[Sequence[str | None]]
"""All rows of an answer, as text."""

# Of what others left: cursors of theirs, temporary tables, settings, numbers of sequences (and so bindings). It is
# committed before the caller's transaction begins: no ROLLBACK of the caller brings any of it back.
_CLEAN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE NOT DEFERRABLE; CLOSE ALL; SET SESSION AUTHORIZATION DEFAULT;"
    " RESET ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(){kept}; DISCARD TEMP; DISCARD SEQUENCES; COMMIT"
)
_WHERE: Final = (
    "pg_catalog.current_database(), session_user, current_user, pg_catalog.current_setting('is_superuser'),"
    " pg_catalog.pg_is_in_recovery(), pg_catalog.array_to_string(pg_catalog.current_schemas(false), ',')"
)
_IN_FORCE: Final = (
    "pg_catalog.array_to_string(pg_catalog.current_schemas(false), ','), pg_catalog.current_setting('row_security'),"
    " pg_catalog.current_setting('transaction_isolation')"
)
# What sessions share here may hold statements under the names that a pooler gives to those of its clients.
_NONE_PREPARED: Final = "SELECT tenantproxy.prepared_check(0)"
_NONE_PREPARED_PLAIN: Final = (
    "SELECT 1/(1-coalesce(pg_catalog.bool_or(from_sql), false)::pg_catalog.int4)"
    " FROM pg_catalog.pg_prepared_statement()"
)

_SAFE: Final = re.compile(r"[A-Za-z0-9_.,:\" $/+@=-]*")


class Challenge(NamedTuple):
    """What an exact proof is made for: a backend, and the start of its transaction in microseconds of unix time."""

    pid: int
    at_us: int


def in_full(mode: str) -> str:
    """The modes of a transaction (` READ ONLY`, say), with those that are not said: what others set is not taken."""
    mode = mode.upper()
    isolation = "" if "ISOLATION" in mode else " ISOLATION LEVEL READ COMMITTED"
    access = "" if "READ ONLY" in mode or "READ WRITE" in mode else " READ WRITE"
    deferrable = "" if "DEFERRABLE" in mode else " NOT DEFERRABLE"
    return f"{mode}{isolation}{access}{deferrable}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionEntry:
    """What each transaction of one lease must be, and how that is asked for and confirmed.

    `role`: that the session logged in as. `settings`: in force in the transaction, in this order, the caller's last.
    `signed`: as in `model.Session`. `is_operators`: not a tenant's, so the role may be any. `kept`: names, in
    lower case, of settings that are made for the session: those that a pooler itself makes again for its clients.
    """

    key: PoolKey
    role: str
    settings: tuple[tuple[str, str], ...]
    binding: Binding | None = None
    signed: str | None = None
    is_operators: bool = False
    kept: tuple[str, ...] = ()

    @property
    def is_signed(self) -> bool:
        """Whether a proof has to follow."""
        return self.binding is not None and self.binding.proof is not Proof.PLAIN

    def opening(self, mode: str, nonce: str) -> str:
        """The first message. `mode`: the transaction's, as `in_full` gives it; `nonce`: 32 fresh hexadecimal digits."""
        first, source = (", c.pid, c.at_us", " FROM tenantproxy.challenge() AS c") if self.is_signed else ("", "")
        settings = self.settings
        if self.binding is not None and not self.is_signed:
            settings = (*settings, (self.binding.setting, self.binding.tenant))
        values = ", ".join(_set(n, v) for n, v in settings if n.lower() not in self.kept)
        kept = "".join(f", {_set(n, v, local=False)}" for n, v in settings if n.lower() in self.kept)
        return (
            f"{_CLEAN.format(kept=kept)}; BEGIN{mode}; SELECT {_WHERE}, '{nonce}'{first}{source}; SELECT {values};"
            f" {self._prepared}SELECT {_IN_FORCE}, '{nonce}'{self._own}"
        )

    @property
    def _is_tenants(self) -> bool:
        """Whether it is a row tenant's: other tenants have the same sessions."""
        return self.key.shared and self.binding is not None

    @property
    def _prepared(self) -> str:
        if not self._is_tenants:
            return ""
        return f"{_NONE_PREPARED if self.is_signed else _NONE_PREPARED_PLAIN}; "

    @property
    def _own(self) -> str:
        return "" if self.binding is None else f", pg_catalog.current_setting({_text(self.binding.setting)})"

    def opened(self, rows: Rows, mode: str, nonce: str) -> Challenge | None:
        """Read the answer to `opening`; what is to be proven, for a signed tenant. Raises IsolationError."""
        count = 4 + self._is_tenants
        if len(rows) != count or len(rows[1]) < 7 or len(rows[-1]) < 4 or rows[1][6] != nonce or rows[-1][3] != nonce:
            raise self._wrong("the server answered something else than what this transaction was begun with")
        database, session, current, superuser, standby, path = rows[1][:6]
        if database != self.key.database:
            raise self._wrong(
                f"the pooler leads to the database {database!r}, and not to {self.key.database!r}",
                "a [databases] line of pgbouncer.ini must not give a database another name: register its own",
            )
        if session != self.role or current != self.role:
            raise self._wrong(
                f"the pooler logs in as {session!r}, and not as {self.role!r}",
                "take user= and auth_user= off its [databases] line, so that each role logs in as itself",
            )
        if superuser != "off" and not self.is_operators:
            raise self._wrong(f"the role {session!r} is a superuser: no policy and no grant would hold it back")
        if standby != "f":
            raise self._wrong(
                "the pooler leads to a standby (in recovery), where a primary is needed",
                "let its [databases] lines name the primary",
            )
        if self.key.schema is not None and path and not self.is_operators:
            raise self._wrong(
                f"outside of our transactions the role {self.role!r} sees the schemas {path}",
                f"a schema tenant must see none there: ALTER ROLE {self.role} IN DATABASE {database} SET search_path"
                " = '', and take search_path out of connect_query",
            )
        self._check_in_force(rows[-1], mode)
        if not self.is_signed:
            return None
        pid, at = rows[1][7:9] if len(rows[1]) == 9 else (None, None)
        if not (pid and at and pid.isdecimal() and at.isdecimal()):
            raise self._wrong("the server did not say which transaction is to be proven")
        return Challenge(int(pid), int(at))

    def _check_in_force(self, row: Sequence[str | None], mode: str) -> None:
        path, row_security, isolation = row[:3]
        if self.key.schema is not None and path != self.key.schema:
            raise self._wrong(
                f"the schema {self.key.schema!r} does not exist, or the role {self.role!r} has no USAGE on it",
                "create the schema, or grant USAGE on it to this role alone",
            )
        if row_security != "on" or isolation is None or isolation.upper() not in mode:
            raise self._wrong("the transaction does not have what we set in it")
        if self.binding is not None and row[4:5] != (["" if self.is_signed else self.binding.tenant]):
            raise self._wrong("the transaction is not the tenant's")

    def proving(self, challenge: Challenge, signer: Signer, nonce: str) -> str:
        """The second message. Its proof is worth nothing for another backend, database or transaction."""
        assert self.binding is not None
        at, tenant = challenge.at_us, self.binding.tenant
        proof = signer.sign(tenant, pid=challenge.pid, from_us=at, to_us=at)
        signed = ""
        if self.signed is not None:
            mark = signer.sign_context(tenant, self.signed, pid=challenge.pid, from_us=at, to_us=at)
            signed = f", {_set('app.context', self.signed)}, {_set('app.context_proof', mark)}"
        return (
            f"SELECT pg_catalog.set_config({_text(self.binding.setting)}, {_text(tenant)}, true),"
            f" pg_catalog.set_config('app.tenant_proof', '{proof}', true){signed};"
            f" SELECT tenantproxy.bound_tenant(), '{nonce}'"
        )

    def proven(self, rows: Rows, nonce: str) -> None:
        """Read the answer to `proving`. Raises IsolationError."""
        assert self.binding is not None
        if len(rows) != 2 or list(rows[1]) != [self.binding.tenant, nonce]:
            raise self._wrong("the database bound another tenant than the one asked for")

    def _wrong(self, message: str, hint: str | None = None) -> IsolationError:
        where = f"server {self.key.server!r}, database {self.key.database!r}"
        return IsolationError(message, detail=where, hint=hint)


def _set(name: str, value: str, *, local: bool = True) -> str:
    return f"pg_catalog.set_config({_text(name)}, {_text(value)}, {str(local).lower()})"


def _text(value: str) -> str:
    """`value` as SQL, whatever standard_conforming_strings the session was left with."""
    if _SAFE.fullmatch(value):
        return f"'{value}'"
    return f"pg_catalog.convert_from(pg_catalog.decode('{value.encode().hex()}', 'hex'), 'UTF8')"
