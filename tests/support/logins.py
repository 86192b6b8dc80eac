"""Who can log in in the tests? People in the users tables of a world's tenants, and a directory in its main one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import argon2

from tenantproxy.auth.passwords import MEMORY_KIB, PARALLELISM, PASSES
from tenantproxy.config import Settings
from tenantproxy.lifecycle.install import install_auth, isolate_table
from tenantproxy.lifecycle.lookup import install_lookup
from tenantproxy.lifecycle.provisioner import ensure_role
from tenantproxy.model import Isolation, Tenant, quote_identifier
from tests.support.database import Database
from tests.support.world import APP_ROLE, SERVER, World

PASSWORD: Final = "the password of all users"
HASH: Final = argon2.PasswordHasher(time_cost=PASSES, memory_cost=MEMORY_KIB, parallelism=PARALLELISM).hash(PASSWORD)
LOGIN_ROLE: Final = "login_of_the_tests"
LOGIN_PASSWORD: Final = "login-password-of-the-tests"
PEPPER: Final = "the pepper of the tests, long enough for it"

LOOKUP_QUERY: Final = "select tenant_id, id as user_id from users where lower(email) = $1 and is_active"
QUERIES: Final = {
    "account_query": "select id as user_id, password_hash, role from users where lower(email) = $1 and is_active",
    "lookup_query": LOOKUP_QUERY,
    "list_query": "select id as user_id, email from users where is_active and id > $1 order by id limit $2",
    "rehash_query": "update users set password_hash = $2 where id = $1",
}

_COLUMNS: Final = (
    'id text COLLATE "C" NOT NULL, email text, password_hash text, role text, is_active boolean NOT NULL DEFAULT true'
)
OWN_USERS: Final = f"CREATE TABLE users ({_COLUMNS}, PRIMARY KEY (id))"
SHARED_USERS: Final = f"CREATE TABLE users (tenant_id text NOT NULL, {_COLUMNS}, PRIMARY KEY (tenant_id, id))"


async def populate(world: World, people: Mapping[str, Sequence[str]]) -> None:
    """Users tables everywhere; `people` by tenant: their addresses. User ids are `<tenant>-1`, `<tenant>-2`, ..."""
    async with world.main.connect() as admin:
        await install_auth(admin, app_role=APP_ROLE)
    async with world.shared.connect() as admin:
        await ensure_role(admin, LOGIN_ROLE, password=LOGIN_PASSWORD)
        await admin.execute(SHARED_USERS)
        await isolate_table(admin, "users")
        assert await install_lookup(admin, login_role=LOGIN_ROLE, app_role=APP_ROLE, query=LOOKUP_QUERY)
    for tenant in world.tenants:
        async with world.database(tenant).connect() as admin:
            if tenant.placement.isolation is not Isolation.ROW:
                await admin.execute(f"SET search_path = {_schema(tenant)}; {OWN_USERS}")
            for number, email in enumerate(people.get(tenant.id, ()), 1):
                await add(admin, tenant, f"{tenant.id}-{number}", email)


async def add(admin: Any, tenant: Tenant, user: str, email: str, *, stored: str | None = HASH) -> None:
    """One more account, through a superuser's connection to the tenant's database."""
    values = {"id": user, "email": email, "password_hash": stored, "role": "member"}
    if tenant.placement.isolation is Isolation.ROW:
        values["tenant_id"] = tenant.id
    places = ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await admin.execute(
        f"INSERT INTO {_schema(tenant)}.users ({', '.join(values)}) VALUES ({places})", *values.values()
    )


async def change(world: World, tenant: str, sql: str, *args: object) -> None:
    """Run `sql` about `users` of one tenant, as an administrator: `UPDATE users SET ...`."""
    found = next(each for each in world.tenants if each.id == tenant)
    async with world.database(found).connect() as admin:
        await admin.execute(f"SET search_path = {_schema(found)}")
        await admin.execute(sql, *args)


async def take_away(world: World, tenant: str) -> None:
    """The tenant's database admits no connection for now, and those it had are closed; `give_back` ends that."""
    name = next(each for each in world.tenants if each.id == tenant).placement.database
    async with world.main.connect() as admin:
        await admin.execute(f"ALTER DATABASE {quote_identifier(name)} ALLOW_CONNECTIONS false")
        await admin.execute("SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE datname = $1", name)


async def give_back(world: World, tenant: str) -> None:
    """See `take_away`."""
    name = next(each for each in world.tenants if each.id == tenant).placement.database
    async with world.main.connect() as admin:
        await admin.execute(f"ALTER DATABASE {quote_identifier(name)} ALLOW_CONNECTIONS true")


def _schema(tenant: Tenant) -> str:
    return quote_identifier(tenant.placement.schema or "public")


def login_settings(world: World, *, lookup: bool = True, **changes: Any) -> Settings:
    """As `world.settings`, with login: no padding, no limits and all the time there is, unless `login=` says so."""
    login: dict[str, Any] = {**QUERIES, "pepper": PEPPER, "pad_to": 0, "fan_outs_per_second": 1000}
    login |= {"fan_out_timeout": 20.0}
    login |= {"attempts_per_account": 0, "attempts_per_address": 0, "attempts_per_second": 0}
    login |= changes.pop("login", {})
    server: dict[str, Any] = dict(changes.pop("servers", {}).get(SERVER, {}))
    if lookup:
        server.setdefault("login", {"user": LOGIN_ROLE, "password": LOGIN_PASSWORD})
    else:
        del login["lookup_query"]
    return world.settings(login=login, servers={SERVER: server}, **changes)


async def directory(database: Database) -> set[tuple[str, str]]:
    """Tenant and user of every entry."""
    async with database.connect() as admin:
        rows = await admin.fetch("SELECT tenant_id, user_id FROM tenantproxy.login_directory")
    return {(row["tenant_id"], row["user_id"]) for row in rows}


async def failure(attempt: Awaitable[object]) -> str:
    """The class of what it raises."""
    try:
        await attempt
    except Exception as exc:  # noqa: BLE001 - which it is, is what is asked
        return type(exc).__name__
    return "none"


Login = Callable[..., Awaitable[object]]
