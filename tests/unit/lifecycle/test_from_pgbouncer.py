"""Does a configuration made of a pgbouncer.ini do what that file did, and never more?"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from tenantproxy.config import load
from tenantproxy.errors import ConfigurationError
from tenantproxy.lifecycle.from_pgbouncer import Translated, read_ini, toml_text, translate, write_folder
from tenantproxy.lifecycle.from_pgbouncer.settings import KEYS, NEEDLESS, NONE_HERE

VERIFIER = (
    "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$"
    "XkJ8tHJ3NbA3jYfX3qEyG0tM2vLq1Gk3P5RNdN9vM3U=:XkJ8tHJ3NbA3jYfX3qEyG0tM2vLq1Gk3P5RNdN9vM3U="
)
INI = """
;; two tenants
[databases]
acme = host=db.internal port=5433 dbname=acme_db user=app password='s3 cr''et'
globex = host=db.internal port=5433 user=app pool_size=5
[pgbouncer]
listen_addr = 127.0.0.1
auth_type = scram-sha-256
auth_file = users.txt
admin_users = boss
stats_users = monitor
pool_mode = transaction
[users]
web = pool_mode=session
"""
USERS = f'"web" "{VERIFIER}"\n"boss" "of the ""boss"""\n"monitor" "of the monitor"\n'


def given(folder: Path, ini: str = INI, users: str = USERS) -> Path:
    (folder / "users.txt").write_text(users)
    (folder / "pgbouncer.ini").write_text(ini)
    return folder / "pgbouncer.ini"


def translated(folder: Path, ini: str = INI, users: str = USERS) -> Translated:
    return translate(read_ini(given(folder, ini, users)))


def settings(folder: Path, ini: str = INI, users: str = USERS) -> Any:
    write_folder(translated(folder, ini, users), folder / "out")
    return load(folder / "out" / "tenantproxy.toml")


def remarks(folder: Path, ini: str, kind: str) -> dict[str, str]:
    return {each.setting: each.text for each in translated(folder, ini).remarks if each.kind == kind}


def test_databases_become_tenants_users_become_users_and_the_check_is_passed(tmp_path: Path) -> None:
    made = settings(tmp_path)
    server = made.servers["primary"]
    assert (server.host, server.port, server.user, server.password.read()) == ("db.internal", 5433, "app", "s3 cr'et")
    assert server.max_connections == 20 + 5
    assert {name: (each.database, each.max_size) for name, each in made.tenants.items()} == {
        "acme": ("acme_db", None),
        "globex": ("globex", 5),
    }
    users = made.pg.users
    assert users["web"].verifier.read() == VERIFIER
    assert users["boss"].password.read() == 'of the "boss"'
    assert {name: (each.pool_mode, each.console, each.tenants) for name, each in users.items()} == {
        "boss": ("transaction", True, "*"),
        "monitor": ("transaction", "read", "*"),
        "web": ("session", False, "*"),
    }


def test_a_default_of_pgbouncer_that_is_another_here_is_written_out(tmp_path: Path) -> None:
    made = settings(tmp_path, INI.replace("pool_mode = transaction\n", ""))
    assert (made.pools.max_size, made.pools.acquire_timeout, made.pools.idle_timeout) == (20, 120.0, 600.0)
    assert (made.pg.max_clients, made.pg.idle_transaction_timeout) == (100, 0.0)
    assert made.servers["primary"].connect_timeout == 15.0
    assert made.pg.users["boss"].pool_mode == "session"


def test_clients_who_logged_in_as_themselves_reach_only_what_was_forced_to_one_user(tmp_path: Path) -> None:
    ini = INI.replace("dbname=acme_db user=app", "dbname=acme_db").replace(" password='s3 cr''et'", "")
    found = translated(tmp_path, ini)
    assert {user.tenants for user in found.users} == {("globex",)}
    assert "by a client's own role" in remarks(tmp_path, ini, "decide")["user web"]


def test_secrets_are_in_files_for_their_owner_alone_and_never_in_the_configuration(tmp_path: Path) -> None:
    found = translated(tmp_path)
    written = write_folder(found, tmp_path / "out")
    files = [path for path in written if path.parent.name == "secrets"]
    assert sorted(path.name for path in files) == ["server_primary", "user_boss", "user_monitor"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    shown = toml_text(found) + repr(found) + "".join(each.text for each in found.remarks)
    for secret in ("s3 cr'et", 'of the "boss"', "of the monitor"):
        assert secret not in shown


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    found = translated(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tenantproxy.toml").write_text("mine")
    with pytest.raises(ConfigurationError, match="is there already"):
        write_folder(found, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tenantproxy.toml"]
    assert (tmp_path / "out" / "tenantproxy.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("line", "setting", "says"),
    [
        ("auth_query = SELECT 1", "auth_query", "a token"),
        ("auth_type = trust", "auth_type", "proves who it is"),
        ("auth_type = hba", "auth_type", "tenants"),
        ("auth_file = other.txt", "auth_file", "is not there"),
        ("listen_addr = *", "client_tls_sslmode", "without TLS"),
        ("listen_addr = 127.0.0.1, 10.0.0.1", "listen_addr", "one address"),
        ("max_client_conn = many", "max_client_conn", "left out"),
        ("max_client_conn = 0", "max_client_conn", "at least 1"),
        ("query_timeout = -1", "query_timeout", "out of range"),
        ("some_new_setting = 1", "some_new_setting", "not known"),
        ("server_tls_sslmode = maybe", "server_tls_sslmode", "libpq's words"),
    ],
)
def test_what_has_no_counterpart_is_told_and_left_to_decide(tmp_path: Path, line: str, setting: str, says: str) -> None:
    ini = INI.replace("[users]", f"{line}\n[users]")
    assert says in remarks(tmp_path, ini, "decide")[setting]
    assert f"# TO DECIDE  {setting}: " in toml_text(translated(tmp_path, ini))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("* = host=db.internal user=app", "name your tenants"),
        ('"my shop" = host=db.internal user=app', "cannot be a tenant's identifier"),
        ("shop = host=a,b user=app", "several hosts"),
        ("shop = host=a port=none user=app", "5432 was written"),
        ("shop = host=a user=app connect_query='SELECT 1'", "is not run here"),
        ("shop = host=a", "one role serves all"),
    ],
)
def test_a_database_that_is_not_a_tenant_as_it_stands_is_told(tmp_path: Path, line: str, says: str) -> None:
    ini = INI.replace("[pgbouncer]", f"{line}\n[pgbouncer]")
    name = line.partition(" = ")[0].strip('"')
    told = [each.text for each in translated(tmp_path, ini).remarks if each.setting == f"database {name}"]
    assert any(says in text for text in told), told


@pytest.mark.parametrize(
    ("ini", "says"),
    [
        ("[databases]\nacme = host='db", r"acme|:2.*connection string"),
        ("[databases]\nacme", ":2.*neither a section"),
        ("[elsewhere]\na = b", r"\[elsewhere\] is no section"),
        ("", "has neither"),
        ("%include pgbouncer.ini", "included by itself"),
        ("%include gone.ini", "gone.ini.*cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_with_its_place(tmp_path: Path, ini: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_ini(given(tmp_path, ini))


def test_a_connection_string_that_is_wrong_is_told_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_ini(given(tmp_path, "[databases]\nacme = host=a password='canary x=1"))
    assert "canary" not in str(caught.value)


def test_an_included_file_is_read_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "more.ini").write_text("[databases]\nthird = host=db.internal port=5433 user=app\n")
    ini = INI.replace("[pgbouncer]", "%include more.ini\n[pgbouncer]")
    assert [tenant.id for tenant in translated(tmp_path, ini).tenants] == ["acme", "globex", "third"]


def test_an_md5_hash_is_not_taken_and_its_password_is_asked_for(tmp_path: Path) -> None:
    found = translated(tmp_path, users=f'"web" "md5{"a" * 32}"\n')
    assert [(user.name, user.verifier, user.password) for user in found.users if user.name == "web"] == [
        ("web", None, None)
    ]
    assert any(each.setting == "user web" and "md5" in each.text for each in found.remarks)


def test_each_setting_has_one_place() -> None:
    assert not set(KEYS) & set(NEEDLESS)
    assert not set(KEYS) & set(NONE_HERE)
    assert not set(NEEDLESS) & set(NONE_HERE)
