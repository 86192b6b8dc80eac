"""Does the directory name the tenants of an address, in one read, without knowing it, and keep itself right?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from tenantproxy.auth.directory import MAX_ENTRIES, Directory, DirectoryEntry, normalised
from tenantproxy.lifecycle.install import install_auth
from tenantproxy.lifecycle.provisioner import ensure_role
from tenantproxy.model import TenantId
from tests.support.database import Database
from tests.support.world import APP_PASSWORD, APP_ROLE

PEPPER = b"a pepper of at least thirty-two bytes"


class OneConnection:
    """The main database as the router's role sees it."""

    def __init__(self, conn: asyncpg.Connection) -> None:
        self.conn = conn
        self.statements = 0

    async def fetch(self, sql: str, /, *args: object, timeout: float | None = None) -> list[asyncpg.Record]:
        self.statements += 1
        return await self.conn.fetch(sql, *args, timeout=timeout)

    def connection(self) -> object:
        raise AssertionError("not needed")


@pytest.fixture
async def main(each_database: Database) -> AsyncIterator[OneConnection]:
    async with each_database.connect() as admin:
        await ensure_role(admin, APP_ROLE, password=APP_PASSWORD)
        await install_auth(admin, app_role=APP_ROLE)
    async with each_database.connect(APP_ROLE, APP_PASSWORD) as conn:
        yield OneConnection(conn)


@pytest.fixture
def directory(main: OneConnection) -> Directory:
    return Directory(main, pepper=PEPPER)  # type: ignore[arg-type]


def tenant(name: str) -> TenantId:
    return TenantId(name)


async def found(directory: Directory, email: str) -> list[tuple[str, str]]:
    return [(entry.tenant, entry.user) for entry in (await directory.look_up(directory.key(email))).entries]


async def pages(*accounts: Sequence[tuple[str, str]]) -> AsyncIterator[Sequence[tuple[str, str]]]:
    for page in accounts:
        yield page


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("Ann@Example.ORG", "ann@example.org"),
        ("  ann@example.org\n", "ann@example.org"),
        ("u\u0308@example.org", "ü@example.org"),
        ("Ü@example.org", "Ü@example.org"),
        ("İ@example.org", "İ@example.org"),
        ("ΟΔΟΣ@example.org", "ΟΔΟΣ@example.org"),
        ("\u212a@example.org", "k@example.org"),
        ('"a@b"@example.org', '"a@b"@example.org'),
        ("x" * 308 + "@example.org", "x" * 308 + "@example.org"),
        ("no at sign", None),
        ("@example.org", None),
        ("ann@", None),
        ("", None),
        ("   ", None),
        ("a\0b", None),
        ("a\nb", None),
        ("\ud800", None),
        ("x" * 321, None),
        ("ü" * 161, None),
    ],
)
def test_addresses_are_compared_as_people_mean_them(given: str, kept: str | None) -> None:
    assert normalised(given) == kept


async def test_what_was_added_is_found_by_its_address_alone(directory: Directory) -> None:
    await directory.add(directory.key("ann@example.org"), tenant("acme"), "7")
    await directory.add(directory.key("bob@example.org"), tenant("globex"), "8")
    assert await found(directory, "ann@example.org") == [("acme", "7")]
    assert await found(directory, "bob@example.org") == [("globex", "8")]
    assert await found(directory, "eve@example.org") == []


async def test_an_account_is_one_for_a_tenant_and_the_newest_word_counts(directory: Directory) -> None:
    key = directory.key("ann@example.org")
    for user in ("7", "7", "9"):
        await directory.add(key, tenant("acme"), user)
    assert await found(directory, "ann@example.org") == [("acme", "9")]
    await directory.remove(key, tenant("globex"))
    await directory.remove(directory.key("bob@example.org"), tenant("acme"))
    assert await found(directory, "ann@example.org") == [("acme", "9")]
    await directory.remove(key, tenant("acme"))
    assert await found(directory, "ann@example.org") == []


async def test_late_comers_crowd_nobody_out(directory: Directory) -> None:
    key = directory.key("victim@example.org")
    await directory.add(key, tenant("zz-first"), "1")
    for number in range(MAX_ENTRIES + 6):
        await directory.add(key, tenant(f"aa-hostile{number}"), "1")
    entries = await found(directory, "victim@example.org")
    assert len(entries) == MAX_ENTRIES
    assert entries[0] == ("zz-first", "1")


async def test_one_read_whether_there_is_an_entry_or_not_and_who_has_none_gets_a_decoy_that_stays(
    directory: Directory, main: OneConnection
) -> None:
    for number in range(200):
        await directory.add(directory.key(f"{number}@example.org"), tenant(f"t{number}"), "1")
    main.statements = 0
    known = await directory.look_up(directory.key("7@example.org"))
    assert known.entries == (DirectoryEntry(tenant=tenant("t7"), user="1"),)
    strangers = [directory.key(f"stranger{number}@example.org") for number in range(50)]
    decoys = [(await directory.look_up(key)).decoy for key in strangers]
    assert main.statements == 51
    assert len({decoy for decoy in decoys if decoy is not None}) > 20
    assert [(await directory.look_up(key)).decoy for key in strangers] == decoys


async def test_the_look_up_reads_a_few_rows_of_an_index_however_many_there_are(
    directory: Directory, each_database: Database
) -> None:
    async with each_database.connect() as admin:
        await admin.execute(
            "INSERT INTO tenantproxy.login_directory SELECT sha256(n::text::bytea), 't' || n, n::text"
            " FROM generate_series(1, 50000) n; ANALYZE tenantproxy.login_directory"
        )
        from tenantproxy.auth.directory import _LOOK_UP

        plan = await admin.fetchval(f"EXPLAIN (FORMAT JSON) {_LOOK_UP.replace('$1', _LITERAL).replace('$2', '4')}")
    assert "Seq Scan" not in plan
    assert '"login_directory_pkey"' in plan


_LITERAL = "'\\x" + "7f" * 32 + "'::bytea"


async def test_neither_the_table_nor_its_reader_knows_an_address(directory: Directory, each_database: Database) -> None:
    await directory.add(directory.key("ann@example.org"), tenant("acme"), "7")
    async with each_database.connect() as admin:
        rows = repr(await admin.fetch("SELECT * FROM tenantproxy.login_directory"))
    assert "ann" not in rows
    assert Directory(directory._database, pepper=b"another " + PEPPER).key("ann@example.org") != directory.key(
        "ann@example.org"
    )


async def test_reconciling_adds_what_is_missing_mends_what_is_wrong_and_removes_what_is_gone(
    directory: Directory,
) -> None:
    await directory.add(directory.key("wrong@example.org"), tenant("acme"), "old")
    await directory.add(directory.key("gone@example.org"), tenant("acme"), "5")
    await directory.add(directory.key("gone@example.org"), tenant("globex"), "5")
    many = [(f"{number}@example.org", f"u{number}") for number in range(2500)]
    done = await directory.reconcile(
        tenant("acme"),
        pages(
            [("WRONG@example.org", "new"), ("", "no address"), ("wrong@example.org ", "new")], many[:1500], many[1500:]
        ),
    )
    assert done == (2501, 1)
    assert await found(directory, "wrong@example.org") == [("acme", "new")]
    assert await found(directory, "gone@example.org") == [("globex", "5")]
    assert await found(directory, "2499@example.org") == [("acme", "u2499")]
    assert await directory.reconcile(tenant("acme"), pages(many)) == (2500, 1)


async def test_what_is_written_through_while_it_is_reconciled_stays(
    directory: Directory, each_database: Database
) -> None:
    async with each_database.connect(APP_ROLE, APP_PASSWORD) as conn:
        other = Directory(OneConnection(conn), pepper=PEPPER)  # type: ignore[arg-type]

        async def meanwhile() -> AsyncIterator[Sequence[tuple[str, str]]]:
            yield [("first@example.org", "1")]
            await other.add(other.key("meanwhile@example.org"), tenant("acme"), "2")
            yield [("last@example.org", "3")]

        assert await directory.reconcile(tenant("acme"), meanwhile()) == (2, 0)
    assert await found(directory, "meanwhile@example.org") == [("acme", "2")]


async def test_reconciling_that_is_cut_short_removes_nothing(directory: Directory) -> None:
    await directory.add(directory.key("ann@example.org"), tenant("acme"), "7")

    async def breaks() -> AsyncIterator[Sequence[tuple[str, str]]]:
        yield [("bob@example.org", "8")]
        raise OSError("the tenant's server is gone")

    with pytest.raises(OSError, match="gone"):
        await directory.reconcile(tenant("acme"), breaks())
    assert await found(directory, "ann@example.org") == [("acme", "7")]


async def test_it_knows_which_tenants_it_names_and_forgets_one(directory: Directory) -> None:
    for name in ("b", "a", "c", "a"):
        await directory.add(directory.key(f"{name}@example.org"), tenant(name), "1")
    assert await directory.tenants() == ["a", "b", "c"]
    await directory.forget(tenant("b"))
    assert await directory.tenants() == ["a", "c"]


async def test_only_the_routers_role_reads_it(directory: Directory, each_database: Database) -> None:
    async with each_database.connect() as admin:
        await ensure_role(admin, "somebody_else", password=APP_PASSWORD)
    async with each_database.connect("somebody_else", APP_PASSWORD) as conn:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch("SELECT * FROM tenantproxy.login_directory")


async def test_installing_again_keeps_what_is_in_it(directory: Directory, each_database: Database) -> None:
    await directory.add(directory.key("ann@example.org"), tenant("acme"), "7")
    async with each_database.connect() as one, each_database.connect() as two:
        await asyncio.gather(install_auth(one, app_role=APP_ROLE), install_auth(two, app_role=APP_ROLE))
    assert await found(directory, "ann@example.org") == [("acme", "7")]
