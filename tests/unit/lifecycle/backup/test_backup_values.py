"""Is what decides about backups right by itself: what may go, what is granted again, in which order rows come back?"""

from __future__ import annotations

import io
import os
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyrage
import pytest

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.backup.crypt import Identities, Recipients
from tenantproxy.lifecycle.backup.dump_sql import other_definitions
from tenantproxy.lifecycle.backup.dumped import dump_command
from tenantproxy.lifecycle.backup.entries import sort_entries
from tenantproxy.lifecycle.backup.errors import BackupDamaged, BackupFailed, BackupNotFound, RestoreRefused
from tenantproxy.lifecycle.backup.manifest import (
    BackupColumn,
    BackupFile,
    BackupKind,
    BackupManifest,
    Content,
    SavedTable,
    StoredBackup,
)
from tenantproxy.lifecycle.backup.named_roles import named_roles, renamed_policies
from tenantproxy.lifecycle.backup.pg_restores import check_version, restore_command
from tenantproxy.lifecycle.backup.privileges import access_entries, access_statements, owner_statements
from tenantproxy.lifecycle.backup.restore import version_notes
from tenantproxy.lifecycle.backup.retention import expendable
from tenantproxy.lifecycle.backup.row_restore import check_fit, copy_fields
from tenantproxy.lifecycle.backup.row_tables import ForeignKey, PolicyTable, fill_order
from tenantproxy.lifecycle.backup.run import BackupOutcome, keyed_run
from tenantproxy.lifecycle.backup.store import (
    MAIN,
    Draft,
    find_backup,
    list_backups,
    newest_verified,
    note_verified,
    scan,
)
from tenantproxy.lifecycle.backup.tools import DumpTools, ToolFailed, child_environment, find_tools, run_tool
from tenantproxy.lifecycle.migrate.plan import Applied

NOW = datetime(2026, 11, 30, tzinfo=UTC)
KEY = pyrage.x25519.Identity.generate()


def a_manifest(day: int = 0, **changes: Any) -> BackupManifest:
    values: dict[str, Any] = {
        "tenant": "acme", "kind": BackupKind.DATABASE, "server": "primary", "database": "d", "schema": None,
        "role": "app", "tier": "standard", "region": None, "systems": (), "snapshot_at": NOW - timedelta(days=day),
        "finished_at": NOW, "server_version": 160004, "pg_dump": "16.4", "tenantproxy": "1", "encrypted": False,
        "migrations": (Applied(version=3, name="x", checksum="c"),), "content": "content.json",
        "files": (BackupFile(name="content.json", bytes=2, sha256="0"),), "tables": 1, "rows": 2,
    }  # fmt: skip
    return BackupManifest(**(values | changes))


def a_backup(day: int, *, verified: bool = False, tenant: str = "acme") -> StoredBackup:
    path = Path("/b", tenant, f"2026-{day}")
    return StoredBackup(path=path, manifest=a_manifest(day), verified_at=NOW if verified else None)


def settings(**backup: object) -> Settings:
    primary = {"host": "127.0.0.1", "user": "app", "password": ""}
    return Settings.from_mapping(
        {"main": {"server": "primary", "database": "d"}, "servers": {"primary": primary}, "backup": backup}
    )


async def test_a_tool_that_warns_without_end_fills_no_memory() -> None:
    warn = "yes warning | head -c 20000000 >&2; printf 'error: the last\\nHINT: do so' >&2; exit 3"
    tracemalloc.start()
    try:
        with pytest.raises(ToolFailed, match=r"sh failed: error: the last; HINT: do so"):
            await run_tool(["sh", "-c", warn], os.environ)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


async def test_a_run_is_gone_on_with_by_its_key_alone(tmp_path: Path) -> None:
    async with keyed_run(tmp_path, ["a", "b"], "one") as run:
        run.note(BackupOutcome(tenant="a", backup="a/x"))
    async with keyed_run(tmp_path, ["c"], "two") as other:
        assert (other.targets, other.done) == (("c",), {})
    async with keyed_run(tmp_path, ["a", "b", "c"], "one") as again:
        assert (again.id, again.targets, again.done) == (run.id, ("a", "b"), {"a": "a/x"})
    assert "one" not in (tmp_path / "_runs" / f"{run.id}.jsonl").read_text(), "a key is kept as a hash alone"


def test_what_a_backup_says_of_itself_is_read_as_it_was_written() -> None:
    manifest = a_manifest()
    assert BackupManifest.from_json(manifest.as_json()) == manifest
    column = BackupColumn(name="a", type="text")
    table = SavedTable(
        schema="s", name="t", rows=1, checksum="7", file="0001.copy", columns=(column,), tenant_column=column
    )
    content = Content(tables=(table,), sequences=(("s", "q", 7, 1),), extensions=(("citext", "public"),), owners=("o",))
    assert Content.from_json(content.as_json()) == content


@pytest.mark.parametrize(
    "change",
    [
        ('"content.json"', '"../content.json"'),
        ('"format": 1', '"format": 2'),
        ('"kind": "database"', '"kind": "planet"'),
        ("}", ""),
        ('"content": "content.json"', '"content": "other.json"'),
    ],
)
def test_a_manifest_that_was_changed_is_refused_and_leads_out_of_no_folder(change: tuple[str, str]) -> None:
    with pytest.raises(BackupDamaged):
        BackupManifest.from_json(a_manifest().as_json().replace(*change))


@pytest.mark.parametrize(
    ("keep", "keep_days", "gone"),
    [(2, 0, [4, 2]), (1, 3, [4]), (0, 0, []), (0, 1, [4, 2, 1]), (9, 0, [])],
)
def test_pruning_keeps_the_newest_the_young_and_the_last_that_was_verified(
    keep: int, keep_days: int, gone: list[int]
) -> None:
    backups = [a_backup(day, verified=day >= 3) for day in range(5)]
    found = expendable(backups, keep=keep, keep_days=keep_days, now=NOW + timedelta(seconds=1))
    assert found == [backups[day] for day in gone]


def test_pruning_counts_the_backups_of_each_tenant_apart() -> None:
    both = [a_backup(0), a_backup(1), a_backup(1, tenant="globex")]
    assert expendable(both, keep=1, keep_days=0, now=NOW) == [both[1]]


ACCESS = r"""--
-- Name: SCHEMA old; Type: ACL; Schema: -; Owner: boss
\restrict abc;
SET statement_timeout = 0;
SELECT pg_catalog.set_config('search_path', '', false);
GRANT USAGE ON SCHEMA old TO old;
GRANT SELECT("TO",b) ON TABLE old."x; GRANT ALL ON TABLE y TO PUBLIC" TO old WITH GRANT OPTION;
REVOKE ALL ON FUNCTION old.f(a old.kind, b timestamp(3) with time zone) FROM PUBLIC;
GRANT SELECT ON TABLE old.t TO stranger;
GRANT ALL ON FUNCTION pg_catalog.pg_cancel_backend(integer) TO old;
ALTER DEFAULT PRIVILEGES FOR ROLE boss IN SCHEMA old GRANT SELECT ON TABLES  TO old;
"""


def test_access_is_given_again_with_roles_and_schemas_of_other_names() -> None:
    access = access_statements(
        ACCESS, roles={"old": "new", "boss": "admin"}, known={"new", "admin", "old"}, schemas={"old": "fresh"}
    )
    assert access.statements == (
        'GRANT USAGE ON SCHEMA "fresh" TO "new"',
        'GRANT SELECT ( "TO" , b ) ON TABLE "fresh" . "x; GRANT ALL ON TABLE y TO PUBLIC" TO "new" WITH GRANT OPTION',
        'REVOKE ALL ON FUNCTION "fresh" . f ( a "fresh" . kind , b timestamp ( 3 ) with time zone ) FROM PUBLIC',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "admin" IN SCHEMA "fresh" GRANT SELECT ON TABLES TO "new"',
    )
    assert access.left_out == ("stranger",)


@pytest.mark.parametrize("text", ["DROP TABLE x;", "GRANT a TO b", "ALTER ROLE a SUPERUSER;", 'GRANT "a'])
def test_a_dump_whose_access_does_more_than_grant_is_refused(text: str) -> None:
    with pytest.raises(BackupDamaged):
        access_statements(text, roles={}, known={"a", "b"})


OWNERS: Final = r"""
CREATE FUNCTION old.f(a old.kind) RETURNS text LANGUAGE sql AS $_$ SELECT '; ALTER TABLE a OWNER TO boss; $$' $_$;
ALTER FUNCTION old.f(a old.kind) OWNER TO old;
CREATE VIEW old.v AS SELECT E'\'; ALTER TABLE b OWNER TO old;' AS "; ALTER TABLE c OWNER TO old;", a$b$ FROM old.t;
ALTER VIEW old."OWNER TO" OWNER TO boss;
CREATE TABLE old.x (y text DEFAULT '$$; ALTER TABLE d OWNER TO old;');
ALTER TABLE ONLY old.x ALTER COLUMN y SET STORAGE EXTERNAL;
ALTER TABLE old."x
; ALTER ROLE old" OWNER TO stranger;
CREATE FUNCTION old.atomic() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;
ALTER OPERATOR old.=== (old.kind, integer) OWNER TO "Odd one";
"""


def test_owners_are_given_again_and_no_text_of_a_function_is_a_statement() -> None:
    assert owner_statements(OWNERS, roles={"old": "new", "boss": "admin"}, schemas={"old": "fresh"}) == [
        'ALTER FUNCTION "fresh" . f ( a "fresh" . kind ) OWNER TO "new"',
        'ALTER VIEW "fresh" . "OWNER TO" OWNER TO "admin"',
        'ALTER TABLE "fresh" . "x\n; ALTER ROLE old" OWNER TO "stranger"',
        'ALTER OPERATOR "fresh" . === ( "fresh" . kind , integer ) OWNER TO "Odd one"',
    ]


def test_definitions_are_compared_in_any_order_and_only_rights_on_what_was_there_are_left_out() -> None:
    saved = "SET a = 1;\nCREATE SCHEMA ours;\nCREATE TABLE t (a int);\n-- a comment\nCREATE VIEW v AS SELECT 1;\n"
    there = "CREATE VIEW v AS\n SELECT 1;\nCREATE TABLE t (a int);\nCOMMENT ON SCHEMA ours IS 'x';\n"
    there += "GRANT USAGE ON SCHEMA ours TO a;\nREVOKE ALL ON FUNCTION pg_catalog.lo_open(oid, int) FROM PUBLIC;\n"
    assert other_definitions(saved, there, ours={"ours"}) == []
    for more in (
        'GRANT SELECT ON TABLE public."ON SCHEMA ours" TO a;', "GRANT ALL ON TABLE x.pg_catalog TO a;",
        'GRANT SELECT("ON") ON TABLE t TO a;', "GRANT ALL ON SCHEMA theirs TO a;", "CREATE TABLE t (a int);",
    ):  # fmt: skip
        assert len(other_definitions(saved, f"{there}{more}", ours={"ours"})) == 1, more
    assert other_definitions(saved, there.replace("1", "2"), ours={"ours"}) == [
        "CREATE VIEW v AS SELECT 2", "CREATE VIEW v AS SELECT 1",
    ]  # fmt: skip


def test_the_admin_user_reads_in_what_extensions_hold_and_comments_of_what_is_there() -> None:
    entries = sort_entries(
        "\n".join(LISTED), extension_schemas=["public", "ext"], extension_tables=[("ext", "spatial")]
    )
    assert entries.loader == "".join(f"{LISTED[place]}\n" for place in (4, 6, 8, 9, 10, 13, 14, 18))
    assert entries.admin == "".join(f"{LISTED[place]}\n" for place in (2, 5, 7))
    assert (entries.large_objects, entries.foreign_servers) == (True, True)
    assert entries.left_out == ("on change",)
    assert entries.named == "".join(f"{LISTED[place]}\n" for place in (15, 16, 17))


LISTED: Final = (
    "; Archive",
    "1; 3079 9 EXTENSION - citext ",
    "2; 0 0 COMMENT - EXTENSION citext ",
    "3; 2615 8 SCHEMA - ext boss",
    "4; 2615 8 SCHEMA - external boss",
    "5; 0 0 COMMENT - SCHEMA public boss",
    "6; 0 7 TABLE DATA ext spatially boss",
    "7; 0 7 TABLE DATA ext spatial boss",
    "8; 2613 7 BLOB - 7 boss",
    "9; 1417 7 SERVER - elsewhere boss",
    "10; 0 0 TABLE DATA public EVENT TRIGGER boss",
    "11; 3466 7 EVENT TRIGGER - on change boss",
    '12; 0 0 COMMENT - EVENT TRIGGER "on change" boss',
    "13; 0 7 TABLE DATA public x\u20284; 0 0 COMMENT - EXTENSION citext boss",
    "14; 0 7 TABLE DATA ext spatial of mine boss",
    "15; 3256 7 POLICY public t own boss",
    "16; 0 0 COMMENT public POLICY own ON t boss",
    "17; 0 0 USER MAPPING - USER MAPPING old SERVER s boss",
    "18; 0 0 USER MAPPING - USER MAPPING public SERVER s boss",
)


POLICIES: Final = r"""--
SET row_security = off;
SELECT pg_catalog.set_config('search_path', '', false);
CREATE POLICY "a TO b" ON public."t TO c" FOR SELECT TO old, "x, y" USING (((n > 1.5) AND (b <> E'; TO old'::text)));
COMMENT ON POLICY "a TO b" ON public."t TO c" IS 'TO old';
CREATE POLICY restrictive ON public.t AS RESTRICTIVE TO old;
CREATE POLICY every ON public.t USING ((EXISTS ( SELECT 1 FROM public.u WHERE (u."TO" = 'x'))));
CREATE POLICY theirs ON public.t TO gone USING (true);
COMMENT ON POLICY theirs ON public.t IS 'x';
CREATE POLICY lesser ON public.t TO gone, old WITH CHECK (true);
CREATE USER MAPPING FOR old SERVER s OPTIONS (password 'FOR old');
CREATE USER MAPPING FOR gone SERVER s;
"""


def test_policies_and_user_mappings_are_for_roles_of_other_names_and_change_in_nothing_else() -> None:
    found = named_roles(POLICIES, roles={"old": "new", "boss": "admin"}, known={"new", "x, y"})
    assert found.statements == (
        'CREATE POLICY "a TO b" ON public."t TO c" FOR SELECT TO "new", "x, y"'
        " USING (((n > 1.5) AND (b <> E'; TO old'::text)))",
        """COMMENT ON POLICY "a TO b" ON public."t TO c" IS 'TO old'""",
        'CREATE POLICY restrictive ON public.t AS RESTRICTIVE TO "new"',
        """CREATE POLICY every ON public.t USING ((EXISTS ( SELECT 1 FROM public.u WHERE (u."TO" = 'x'))))""",
        'CREATE POLICY lesser ON public.t TO "new" WITH CHECK (true)',
        """CREATE USER MAPPING FOR "new" SERVER s OPTIONS (password 'FOR old')""",
    )
    assert found.notes == (
        "the policy theirs on public.t is for roles that are not here, and not for them any more: gone",
        "the policy lesser on public.t is for roles that are not here, and not for them any more: gone",
        "the role gone is not here: its user mapping is left out",
    )


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("CREATE POLICY p ON s.t AS RESTRICTIVE TO gone USING (true);", RestoreRefused),
        ("ALTER ROLE x SUPERUSER;", BackupDamaged),
        ("CREATE POLICY p ON s.t", BackupDamaged),
    ],
)
def test_a_policy_that_would_hold_less_or_is_none_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        named_roles(text, roles={}, known={"x"})


def test_a_moved_dump_changes_in_the_roles_of_its_policies_alone() -> None:
    dump = "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ CREATE POLICY a ON b TO old; $$;\n\n"
    text = dump + "CREATE POLICY p ON t TO old, PUBLIC, new USING (x);\nALTER TABLE t ENABLE ROW LEVEL SECURITY;\n"
    assert renamed_policies(text, {"old": "new"}) == text.replace("old, PUBLIC, new", '"new", PUBLIC')


def test_only_entries_of_access_are_taken_from_the_list_of_a_dump() -> None:
    listing = ";\n; Archive\n5; 0 0 ACL - SCHEMA s o\n6; 1259 7 TABLE s ACL o\n7; 826 9 DEFAULT ACL s DEFAULT x o\n"
    assert access_entries(listing) == "5; 0 0 ACL - SCHEMA s o\n7; 826 9 DEFAULT ACL s DEFAULT x o\n"


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (rb"a	\N	", ["a", None, ""]),
        (rb"\\N	\t\n\r\b\f\v\\	\.", ["\\N", "\t\n\r\b\f\v\\", "."]),
        ("ü".encode(), ["ü"]),
    ],
)
def test_a_line_of_copy_is_read_as_postgres_wrote_it(line: bytes, values: list[str | None]) -> None:
    assert copy_fields(line) == values


def a_table(number: int) -> PolicyTable:
    column = BackupColumn(name="tenant_id", type="text")
    return PolicyTable(oid=number, schema="public", name=f"t{number}", columns=(), tenant_column=column)


def a_key(table: int, refers_to: int, *, deferrable: bool = False) -> ForeignKey:
    return ForeignKey(name=f"k{table}{refers_to}", table=table, refers_to=refers_to, deferrable=deferrable)


def test_tables_are_filled_behind_those_that_they_refer_to() -> None:
    tables = {number: a_table(number) for number in (1, 2, 3)}
    keys = [a_key(1, 2), a_key(2, 3), a_key(3, 1, deferrable=True), a_key(2, 2)]
    assert [each.oid for each in fill_order(tables, keys)] == [3, 2, 1]


def test_a_circle_of_keys_that_cannot_be_deferred_is_refused_with_their_names() -> None:
    with pytest.raises(BackupFailed, match=r"t1, t2 refer to each other.*ALTER CONSTRAINT k12 DEFERRABLE"):
        fill_order({1: a_table(1), 2: a_table(2)}, [a_key(1, 2), a_key(2, 1)])


def test_rows_without_a_place_in_the_tables_there_are_refused_by_name() -> None:
    saved = SavedTable(
        schema="public", name="t1", rows=1, checksum="", columns=(BackupColumn(name="gone", type="int"),)
    )
    lost = SavedTable(schema="public", name="t9", rows=1, checksum="")
    with pytest.raises(RestoreRefused, match=r"no place for public\.t1\.gone, public\.t9"):
        check_fit(Content(tables=(saved, lost)), [a_table(1)])
    good = SavedTable(schema="public", name="t1", rows=1, checksum="")
    with pytest.raises(RestoreRefused, match=r"role may not insert into public\.t1"):
        check_fit(Content(tables=(good,)), [replace(a_table(1), may_fill=False)])


def test_a_server_may_be_newer_than_the_backup_and_not_older() -> None:
    backup = a_backup(0)
    check_version(backup, 160001)
    check_version(backup, 180000)
    with pytest.raises(RestoreRefused, match=r"of PostgreSQL 16, and the server is 15"):
        check_version(backup, 150099)


def test_a_server_newer_than_every_pg_dump_is_told_which_were_found() -> None:
    with pytest.raises(ConfigurationError, match=r"no pg_dump of PostgreSQL 99 or newer is found.*\(found: .*18"):
        find_tools(settings(), 990000)
    assert find_tools(settings(), 160000).major == 16, "the nearest: a newer one sets what the server does not know"
    assert find_tools(settings(), 160000, written_by="18.1").major == 18
    with pytest.raises(ConfigurationError, match=r"/bin/true is no pg_dump"):
        find_tools(settings(pg_dump="/bin/true"), 160000)


def test_the_password_of_the_admin_user_is_in_the_environment_of_a_child_alone() -> None:
    admin = {"user": "boss", "password": "s3cret"}
    given = {"host": "db", "user": "app", "password": "", "ssl": "verify-full", "admin": admin}
    main = {"server": "primary", "database": "d"}
    server = Settings.from_mapping({"main": main, "servers": {"primary": given}}).servers["primary"]
    environment = child_environment(server, "host=evil dbname=x")
    wanted = {"PGUSER": "boss", "PGPASSWORD": "s3cret", "PGSSLMODE": "verify-full", "PGSSLROOTCERT": "system"}
    assert environment.items() >= wanted.items()
    tools = DumpTools(pg_dump="pg_dump", pg_restore="pg_restore", version="18.1", major=18, minor=1)
    command = restore_command(tools, r"host=evil' dbname=\x")
    assert r"--dbname=dbname='host=evil\' dbname=\\x'" in command, "a name is a name, and no connection string"
    assert not any("s3cret" in each for each in [*command, *dump_command(tools, ["a.*"])])
    assert '--schema="a.*"' in dump_command(tools, ["a.*"])


@pytest.mark.parametrize(
    ("had", "told"),
    [(3, ""), (2, "at version 2 of the migrations, and the newest is 3"), (None, "at no version"), (4, "newer than")],
)
def test_a_backup_of_another_version_of_the_schema_is_told(tmp_path: Path, had: int | None, told: str) -> None:
    (tmp_path / "3_x.sql").write_text("SELECT 1")
    applied = () if had is None else (Applied(version=had, name="x", checksum="c"),)
    backup = replace(a_backup(0), manifest=a_manifest(migrations=applied))
    primary = {"host": "127.0.0.1", "user": "app", "password": ""}
    main = {"server": "primary", "database": "d"}
    given = {"main": main, "servers": {"primary": primary}, "migrations": {"folder": str(tmp_path)}}
    assert told in "; ".join(version_notes(Settings.from_mapping(given), backup))


def encrypted(plain: bytes) -> bytes:
    target = io.BytesIO()
    Recipients.of(settings(), [str(KEY.to_public())]).write(io.BytesIO(plain), target)
    return target.getvalue()


def test_what_is_encrypted_is_read_with_its_key_whole_or_not_at_all(tmp_path: Path) -> None:
    plain = os.urandom(200_000)
    (tmp_path / "key").write_text(f"# public key: x\n{KEY}\n")
    (tmp_path / "other").write_text(str(pyrage.x25519.Identity.generate()))
    keys = Identities.of(settings(key_files=[str(tmp_path / "key")]))
    whole, target = encrypted(plain), io.BytesIO()
    keys.read(io.BytesIO(whole), target, encrypted=True)
    assert target.getvalue() == plain
    assert plain[:64] not in whole
    head = len(whole) - 200_000 - 4 * 16  # behind it, chunks of 64 KiB and a tag of 16 bytes each
    chunk = 65536 + 16
    swapped = (
        whole[:head] + whole[head + chunk : head + 2 * chunk] + whole[head : head + chunk] + whole[head + 2 * chunk :]
    )
    cut = whole[: head + 2 * chunk]
    for damaged in (swapped, cut, whole[:-1], whole[:100]):
        with pytest.raises(BackupDamaged, match="cannot be decrypted"):
            keys.read(io.BytesIO(damaged), io.BytesIO(), encrypted=True)
    for lacking in (Identities(), Identities.of(settings(), [str(tmp_path / "other")])):
        with pytest.raises((ConfigurationError, BackupDamaged), match="--key-file"):
            lacking.read(io.BytesIO(whole), io.BytesIO(), encrypted=True)


def test_keys_that_are_none_are_all_told_and_a_private_one_is_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as told:
        Recipients.of(settings(), ["age1nonsense", str(KEY), "ssh-rsa x"])
    assert [each.key for each in told.value.problems] == ["recipient 1", "recipient 2", "recipient 3"]
    assert str(KEY) not in str(told.value)
    assert str(KEY) not in repr(Identities(keys=(KEY,)))
    (tmp_path / "key").write_text("no key")
    with pytest.raises(ConfigurationError, match=r"(?s)key has no private key.*gone cannot be read"):
        Identities.of(settings(key_files=[str(tmp_path / "key"), str(tmp_path / "gone")]))


def test_a_tenant_called_main_is_never_taken_for_the_main_database(tmp_path: Path) -> None:
    def made(folder: str) -> StoredBackup:
        draft = Draft(tmp_path, folder)
        draft.make()
        (draft.path / "content.json").write_text("{}")
        return draft.finish(a_manifest())

    own = made(MAIN)
    assert find_backup(tmp_path, "main").path == own.path
    of_tenant = made("main")
    with pytest.raises(BackupNotFound, match="a tenant called main"):
        find_backup(tmp_path, "main")
    assert find_backup(tmp_path, MAIN).path == own.path
    assert find_backup(tmp_path, f"main/{of_tenant.path.name}").path == of_tenant.path


async def test_only_a_finished_backup_counts_and_verified_is_bound_to_its_manifest(tmp_path: Path) -> None:
    begun = Draft(tmp_path, "acme")
    begun.make()
    assert list_backups(tmp_path) == []
    (begun.path / "content.json").write_text("{}")
    saved = begun.finish(a_manifest())
    assert begun.path.stat().st_mode & 0o777 == 0o700
    assert (begun.path / "manifest.json").stat().st_mode & 0o777 == 0o600
    with_folder = settings(folder=str(tmp_path))
    assert await newest_verified(with_folder, "acme") is None
    note_verified(saved, NOW)
    found = await newest_verified(with_folder, "acme")
    assert found is not None
    assert found.verified_at == NOW
    assert await newest_verified(with_folder, "globex") is None
    (begun.path / "content.json").write_text("{} ")
    assert await newest_verified(with_folder, "acme") is None, "its files are not those that were verified"
    (begun.path / "content.json").write_text("{}")
    (begun.path / "manifest.json").write_text(a_manifest(rows=3).as_json())
    assert await newest_verified(with_folder, "acme") is None
    (begun.path / "manifest.json").write_text("{")
    assert list_backups(tmp_path) == []
    assert "was changed or cut off" in str(scan(tmp_path)[1][0])
