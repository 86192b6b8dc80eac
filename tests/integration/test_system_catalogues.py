"""Do the databases of the reference platforms hold all that their descriptions name?"""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import pytest
import pytest_asyncio

from tenantproxy.config import load
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.isolation.proof import derive_key
from tenantproxy.lifecycle import install
from tenantproxy.lifecycle.migrate.rows import guard_rows
from tenantproxy.lifecycle.provisioner import ensure_role
from tests.support.database import fresh_database
from tests.support.distributions import ROOT

SYSTEMS: Final = ROOT / "config" / "systems"
LISTS: Final = {path.stem: tomllib.loads(path.read_text()) for path in (ROOT / "tests/support/systems").glob("*.toml")}
KINDS: Final = [(name, database) for name in sorted(LISTS) for database in LISTS[name]]

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES: Final = "any (current_schemas(false))"  # those of the description, or public
SHOWN: Final = "any (current_schemas(false)::text[]::regnamespace[])"
COLUMNS: Final = f"""
select c.relname as table, a.attname as column, format_type(a.atttypid, a.atttypmod) as type
from pg_class c join pg_attribute a on a.attrelid = c.oid
where c.relnamespace = {SHOWN} and c.relkind in ('r', 'p') and a.attnum > 0 and not a.attisdropped"""
WITHOUT_KEY: Final = f"""
select relname from pg_class c where relnamespace = {SHOWN} and relkind in ('r', 'p')
and not exists (select from pg_constraint where conrelid = c.oid and contype = 'p')"""
WITHOUT_INDEX: Final = f"""
select conname from pg_constraint f join pg_class c on c.oid = f.conrelid
where f.contype = 'f' and c.relnamespace = {SHOWN} and not exists (
    select from pg_index i where i.indrelid = f.conrelid and (i.indkey::int2[])[0] = f.conkey[1])"""
WITHOUT_TRIGGER: Final = f"""
select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'updated_at'
where c.relnamespace = {SHOWN} and c.relkind in ('r', 'p')
and not exists (select from pg_trigger t where t.tgrelid = c.oid and not t.tgisinternal and t.tgname ~ 'updated_at')"""


class Made(NamedTuple):
    """A database that the files of a system made, and what its description names."""

    conn: asyncpg.Connection
    named: dict[str, Any]
    files: list[Path]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS, ids="-".join)
async def made(request: pytest.FixtureRequest, postgres: EmbeddedPostgres) -> AsyncIterator[Made]:
    name, database = request.param
    named = LISTS[name][database]
    files = sorted((SYSTEMS / name / named["folder"]).glob("*.sql"))
    async with fresh_database(postgres) as fresh, fresh.connect() as conn:
        if named.get("signed"):
            await _sign(postgres, conn, name, fresh.name)
        for file in files:
            await conn.execute(file.read_text())
        if named.get("signed"):
            settings = load(SYSTEMS / name / "tenantproxy.toml", secrets=False)
            async with conn.transaction():
                await guard_rows(conn, settings, role=f"{name}_app", own_schemas=())
        if "schemas" in named:
            await conn.execute(f"set search_path to {', '.join(named['schemas'])}")
        yield Made(conn, named, files)


async def _sign(postgres: EmbeddedPostgres, conn: asyncpg.Connection, name: str, database: str) -> None:
    """What policies on the signed tenant need: the role of requests, and the signed context."""
    maintenance = await asyncpg.connect(**postgres.connect_args("postgres"))
    try:
        await ensure_role(maintenance, f"{name}_app", password="app")
    finally:
        await maintenance.close()
    key = derive_key(b"k" * 40, server="primary", database=database, kid=1)
    await install(conn, app_role=f"{name}_app", keys={1: key})


async def test_each_system_has_a_list_of_what_its_description_names() -> None:
    assert {path.name for path in SYSTEMS.iterdir()} == set(LISTS)


async def test_the_migrations_make_all_that_a_description_names(made: Made) -> None:
    columns = {(row["table"], row["column"]): row["type"] for row in await made.conn.fetch(COLUMNS)}
    tables = {table for table, _ in columns}
    missing = [table for table in made.named["tables"] if table not in tables]
    missing += [
        f"{table}.{column} {kind}"
        for table, named in made.named["tables"].items()
        for column, kind in named.items()
        if columns.get((table, column), "missing") != (kind or columns.get((table, column)))
    ]
    for what, query in (
        (
            "functions",
            f"select proname from pg_proc where pronamespace = {SHOWN}",
        ),
        ("extensions", "select extname from pg_extension"),
        (
            "indexes",
            f"select relname from pg_class where relkind = 'i' and relnamespace = {SHOWN}",
        ),
        ("triggers", "select tgname from pg_trigger where not tgisinternal"),
        ("constraints", "select conname from pg_constraint"),
    ):
        there = {row[0] for row in await made.conn.fetch(query)}
        missing += [each for each in made.named.get(what, ()) if each not in there]
    assert not missing
    assert len(tables) >= made.named.get("at_least", len(made.named["tables"]))


async def test_the_modules_of_a_schema_come_in_the_order_of_the_description(made: Made) -> None:
    if "files" in made.named:
        assert [file.stem for file in made.files] == made.named["files"]
        return
    found = [file.stem.partition("_")[2] for file in made.files]
    assert [file.stem.partition("_")[0] for file in made.files] == [f"{n:04d}" for n in range(1, len(found) + 1)]
    wanted = [each for each in made.named.get("modules", ()) if each != "..."]
    assert [each for each in found if each in wanted] == wanted
    assert not wanted or found[-1] == wanted[-1]
    assert len(found) >= made.named.get("modules_at_least", 1)


async def test_default_rows_are_there(made: Made) -> None:
    empty = [t for t in made.named.get("filled", ()) if not await made.conn.fetchval(f"select count(*) from {t}")]
    counted = {t: await made.conn.fetchval(f"select count(*) from {t}") for t in made.named.get("counted", ())}
    assert not empty
    for place, values in made.named.get("rows", {}).items():
        table, _, column = place.partition(".")
        assert {row[0] for row in await made.conn.fetch(f"select {column} from {table}")} >= set(values)
    assert counted == made.named.get("counted", {})


async def test_what_else_a_description_says_of_a_schema_is_so(made: Made) -> None:
    named, conn = made.named, made.conn
    indexes = {row[0] for row in await conn.fetch(f"select indexname from pg_indexes where schemaname = {NAMES}")}
    assert {*named.get("indexes", ())} <= indexes
    assert len(indexes) >= named.get("indexes_at_least", 0)
    for kind, key in (("p", "partitioned"), ("m", "materialized")):
        query = "select oid::regclass::text from pg_class where relkind = $1 and not relispartition"
        found = {row[0] for row in await conn.fetch(query, kind.encode())}
        assert found == {*named.get(key, ())}
    if named.get("invokers"):
        query = f"select proname from pg_proc where pronamespace = {SHOWN} and prosecdef"
        assert {row[0] for row in await conn.fetch(query)}.isdisjoint(named["functions"])
    columns: dict[str, dict[str, str]] = {}
    for row in await conn.fetch(f"{COLUMNS} and not c.relispartition"):
        columns.setdefault(row["table"], {})[row["column"]] = row["type"]
    standard = named.get("standard", {}).items()
    off = {t for t, has in columns.items() if not standard <= has.items()}
    assert off == {*named.get("without_standard", ())}
    wanted = {*named.get("policies", ())}
    policies: dict[str, set[str]] = {}
    for row in await conn.fetch(f"select tablename, policyname from pg_policies where schemaname = {NAMES}"):
        policies.setdefault(row[0], set()).add(row[1])
    assert not [t for t in columns if standard and t not in off and not wanted <= policies.get(t, set())]


@pytest.mark.parametrize("query", [WITHOUT_KEY, WITHOUT_INDEX, WITHOUT_TRIGGER], ids=["key", "index", "trigger"])
async def test_no_table_lacks_a_key_an_index_of_a_reference_or_its_trigger(made: Made, query: str) -> None:
    assert [row[0] for row in await made.conn.fetch(query)] == []
