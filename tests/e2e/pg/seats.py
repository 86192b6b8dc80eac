"""Which tenants do the clients of the PostgreSQL port meet, and what does a client have to know of its own?

Three tenants of each kind: one to work in, a neighbour that its users may not reach, and a narrow one that never has
more than one connection, so that all its clients share it. `projects` is only read; `notes` is written.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import asyncpg

from tenantproxy.config import role_password
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle.provisioner import (
    close_database,
    close_functions,
    close_public,
    ensure_database,
    ensure_role,
    provision_database,
    provision_schema,
    provision_shared,
)
from tenantproxy.model import Isolation
from tests.support.waiting import PATIENCE

__all__ = ["KINDS", "MODES", "PASSWORD", "Kind", "Mode", "Seat", "build", "seats"]

Kind = Literal["database", "schema", "row"]
Mode = Literal["transaction", "session"]

KINDS: Final[tuple[Kind, ...]] = ("database", "schema", "row")
MODES: Final[tuple[Mode, ...]] = ("transaction", "session")
PASSWORD: Final = "p@ss word/of the tests"  # must be escaped in a URL

_APP: Final = "app"
_MAIN: Final = "main"
_SCHEMAS: Final = "schemas"
_SERVER: Final = "primary"
_PASSING: Final = ("shapes", "forms")  # tables that tests make and drop again while the sidecar runs
_PLACES: Final = ("mine", "other", "narrow")

_OWN: Final = (
    "CREATE TABLE projects (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE)",
    "CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text NOT NULL)",
)
_TENANT: Final = "tenant_id text NOT NULL DEFAULT current_setting('app.current_tenant_id')"
_SHARED: Final = (
    f"CREATE TABLE projects ({_TENANT}, id bigint GENERATED ALWAYS AS IDENTITY, name text NOT NULL,"
    " PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, name))",
    f"CREATE TABLE notes ({_TENANT}, id bigint GENERATED ALWAYS AS IDENTITY, body text NOT NULL,"
    " PRIMARY KEY (tenant_id, id))",
    # COPY FROM is refused under row security, but not into a view that inserts.
    "CREATE VIEW incoming WITH (security_invoker = true) AS SELECT body FROM notes",
    "CREATE FUNCTION take_in() RETURNS trigger LANGUAGE plpgsql"
    " AS 'BEGIN INSERT INTO notes (body) VALUES (NEW.body); RETURN NEW; END'",
    "CREATE TRIGGER take_in INSTEAD OF INSERT ON incoming FOR EACH ROW EXECUTE FUNCTION take_in()",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One kind of isolation in one mode, as a client sees it. `user` reaches `tenant` and `narrow`, `guest` all."""

    kind: Kind
    mode: Mode
    host: str
    port: int
    user: str
    guest: str
    tenant: str
    narrow: str
    other: str
    rows: tuple[str, ...]  # names of `projects`, in order
    other_rows: tuple[str, ...]
    schema: str
    crowded_schema: str
    copy_into: str  # what COPY FROM may name, with a column `body`
    trespass: str  # a query that tries to read the neighbour's rows
    trespass_state: str  # how it fails; "" when it returns no row

    password: str = PASSWORD

    @property
    def crowded(self) -> str:
        """The tenant whose clients share as few connections as the mode allows."""
        return self.narrow if self.mode == "transaction" else self.tenant

    def as_dict(self) -> dict[str, Any]:
        """For a program in another language."""
        return asdict(self) | {"crowded": self.crowded}


def seats(mode: Mode, host: str, port: int) -> Iterator[Seat]:
    """One of each kind."""
    for kind in KINDS:
        mine, other, narrow = (f"{kind}_{place}" for place in _PLACES)
        trespass, state = {
            "database": (f'SELECT name FROM "{other}".public.projects', "0A000"),
            "schema": (f'SELECT name FROM "{other}".projects', "42501"),
            "row": (f"SELECT name FROM projects WHERE tenant_id = '{other}'", ""),
        }[kind]
        yield Seat(
            kind=kind, mode=mode, host=host, port=port, user=f"{mode}_client", guest=f"{mode}_guest",
            tenant=mine, narrow=narrow, other=other, rows=_rows(mine), other_rows=_rows(other),
            schema=mine if kind == "schema" else "public",
            crowded_schema=(narrow if mode == "transaction" else mine) if kind == "schema" else "public",
            copy_into="incoming" if kind == "row" else "notes",
            trespass=trespass, trespass_state=state,
        )  # fmt: skip


def _rows(tenant: str) -> tuple[str, ...]:
    return tuple(f"{tenant} {n}" for n in range(1, 4))


async def build(server: EmbeddedPostgres, folder: Path) -> Path:
    """Provision all of it on the running `server`; the configuration of a sidecar for it, in `folder`."""
    app_password, row_key, role_key = (secrets.token_hex(32) for _ in range(3))

    async def connect(database: str) -> asyncpg.Connection:
        return await asyncpg.connect(**server.connect_args(database), timeout=PATIENCE)

    admin = await connect("postgres")
    try:
        await ensure_role(admin, _APP, password=app_password)
        for kind in ("database", "schema"):
            for place in _PLACES:
                role = f"role_{kind}_{place}"
                await ensure_role(admin, role, password=role_password(role_key.encode(), _SERVER, role))
        for database, roles in ((_MAIN, [_APP]), (_SCHEMAS, [f"role_schema_{place}" for place in _PLACES])):
            await ensure_database(admin, database)
            await close_database(admin, database, roles=roles)
    finally:
        await admin.close()
    inside = await connect(_SCHEMAS)
    try:
        await close_functions(inside)
        await close_public(inside, role=_APP)
    finally:
        await inside.close()
    for place in _PLACES:
        role, name = f"role_schema_{place}", f"schema_{place}"
        await provision_schema(connect, database=_SCHEMAS, schema=name, role=role, statements=[*_OWN, _fill(name)])
        role, name = f"role_database_{place}", f"database_{place}"
        # So that tools which bring their own schema can, as they do in a database of their own.
        may_create = f'GRANT CREATE, TEMPORARY ON DATABASE "{name}" TO "{role}"'
        await provision_database(connect, database=name, role=role, statements=[*_OWN, _fill(name), may_create])
    for database, tenants in (("shared", ("row_mine", "row_other")), ("shared_narrow", ("row_narrow",))):
        await provision_shared(
            connect, database=database, role=_APP, tables=["projects", "notes"],
            keys={1: derive_key(row_key.encode(), server=_SERVER, database=database, kid=1)},
            statements=[*_SHARED, *(_fill(tenant, is_shared=True) for tenant in tenants)],
        )  # fmt: skip
    config = folder / "tenantproxy.toml"
    config.touch(mode=0o600)
    config.write_text(_toml(server, app_password=app_password, row_key=row_key, role_key=role_key))
    return config


def _fill(tenant: str, *, is_shared: bool = False) -> str:
    columns, before = ("tenant_id, name", f"'{tenant}', ") if is_shared else ("name", "")
    return f"INSERT INTO projects ({columns}) VALUES " + ", ".join(f"({before}'{name}')" for name in _rows(tenant))


def _toml(server: EmbeddedPostgres, *, app_password: str, row_key: str, role_key: str) -> str:
    primary = {"host": server.host, "port": server.port, "user": _APP, "password": app_password, "ssl": "disable"}
    reach = [f"{kind}_{place}" for kind in KINDS for place in ("mine", "narrow")]
    tables: dict[str, Mapping[str, Any]] = {
        "main": {"server": _SERVER, "database": _MAIN, "max_size": 4},
        f"servers.{_SERVER}": primary | {"max_connections": 80},
        # Waiting is no failure here, however slow the machine.
        "pools": {"acquire_timeout": 30.0},
        "registry": {"source": "file"},
        "row": {
            "key": row_key,
            "unprotected": [f"public.{name}_{mode}" for name in ("shapes", "forms") for mode in MODES],
        },
        "tenant_roles": {"key": role_key},
        "http": {"listen": "127.0.0.1:0"},
        "sql": {"enabled": True},
        "admin": {"listen": "127.0.0.1:0"},
        "pg": {"listen": "127.0.0.1:0"},
    }
    for mode in MODES:
        user = {"password": PASSWORD, "pool_mode": mode}
        tables[f"pg.users.{mode}_client"] = user | {"tenants": reach}
        tables[f"pg.users.{mode}_guest"] = user | {"tenants": "*"}
    for kind in KINDS:
        for place in _PLACES:
            tables[f"tenants.{kind}_{place}"] = _entry(kind, place)
    return "\n".join(_table(name, values) for name, values in tables.items())


def _table(name: str, values: Mapping[str, Any]) -> str:
    # JSON's strings, numbers and lists are TOML's, as long as nothing is beyond ASCII.
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""])


def _entry(kind: Kind, place: str) -> dict[str, Any]:
    entry: dict[str, Any] = {"isolation": Isolation(kind).value}
    if kind == "row":
        entry["database"] = "shared_narrow" if place == "narrow" else "shared"
    else:
        entry["role"] = f"role_{kind}_{place}"
        entry["database"] = _SCHEMAS if kind == "schema" else f"database_{place}"
    if kind == "schema":
        entry["schema"] = f"schema_{place}"
    if place == "narrow":
        entry["max_size"] = 1
    return entry
