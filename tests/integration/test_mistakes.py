"""Does each typical mistake of an operator hear what was wrong and how to correct it?"""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path
from typing import Any, Final

import pytest

from tenantproxy.config import load
from tenantproxy.config.environment import strangers
from tenantproxy.config.secret import Secret
from tenantproxy.connect.failures import classify
from tenantproxy.errors import ConfigurationError, ConnectFailed, TenantError, TenantProxyError
from tenantproxy.model import PoolKey, TenantId
from tenantproxy.routes import admin_route
from tests.support.command import command
from tests.support.world import World

MINIMAL: Final = """
[main]
server = "primary"
database = "main"
[servers.primary]
host = "HOST"
user = "app"
password = ""
ssl = "disable"
[registry]
source = "file"
"""


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.upper().startswith("TENANTPROXY_"):
            monkeypatch.delenv(name)
    return monkeypatch


def _loaded(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "tenantproxy.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def _problems(tmp_path: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        _loaded(tmp_path, text)
    return str(caught.value)


# --- the configuration ------------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("host", "words"),
    [
        (" db ", "contains a blank"),
        ("db:5432", "contains a port; write the host alone, and the port as port = 5432"),
        ("[::1]", "IPv6 address in brackets"),
        ("postgresql://me:secret@db/app", "is a URL"),
        ("db,db2", "several hosts"),
        ("run/postgresql", "does not begin with /"),
        ("", "is empty"),
    ],
)
def test_a_host_that_is_none_says_what_it_is(host: str, words: str, tmp_path: Path) -> None:
    told = _problems(tmp_path, MINIMAL.replace("HOST", host))
    assert f"servers.primary.host: {words}" in told or words in told
    assert "secret" not in told


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("host", ["db", "db.internal", "10.0.0.1", "::1", "fe80::1%eth0", "/run/postgresql"])
def test_a_host_is_taken_as_it_is(host: str, tmp_path: Path) -> None:
    assert _loaded(tmp_path, MINIMAL.replace("HOST", host)).servers["primary"].host == host


@pytest.mark.usefixtures("clean")
def test_a_byte_order_mark_before_the_file_is_no_error(tmp_path: Path) -> None:
    assert _loaded(tmp_path, "\ufeff" + MINIMAL.replace("HOST", "db")).servers["primary"].host == "db"


@pytest.mark.usefixtures("clean")
def test_a_tenant_with_a_dot_is_told_to_stand_in_quotes(tmp_path: Path) -> None:
    text = MINIMAL.replace("HOST", "db") + '[tenants.al.pha]\nisolation = "database"\ndatabase = "x"\n'
    assert 'did you mean [tenants."al.pha"]?' in _problems(tmp_path, text)


@pytest.mark.usefixtures("clean")
def test_a_key_of_the_ports_users_says_where_it_belongs(tmp_path: Path) -> None:
    told = _problems(tmp_path, MINIMAL.replace("HOST", "db") + '[pg]\npool_mode = "session"\n')
    assert "pg.pool_mode: is unknown here; it is a key of [pg.users.NAME]" in told


@pytest.mark.usefixtures("clean")
def test_a_row_tenant_with_a_schema_is_refused(tmp_path: Path) -> None:
    text = MINIMAL.replace("HOST", "db") + (
        f'[row]\nkey = "{"k" * 32}"\n[tenants.alpha]\nisolation = "row"\ndatabase = "shared"\nschema = "x"\n'
    )
    assert "tenants.alpha.schema: a row tenant has no schema of its own" in _problems(tmp_path, text)


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize(
    ("key", "query", "words"),
    [
        ("query", "select id from t", "has no $1"),
        ("list_query", "select id from t where id > $1", "has no $2"),
        ("list_query", "select id from t limit $2", "has no $1"),
    ],
)
def test_a_registry_query_without_its_parameters_is_refused(key: str, query: str, words: str, tmp_path: Path) -> None:
    queries = {"query": "select id from t where id = $1", "list_query": "select id from t where id > $1 limit $2"}
    lines = "".join(f'{name} = "{text}"\n' for name, text in (queries | {key: query}).items())
    text = MINIMAL.replace("HOST", "db").replace('source = "file"\n', f'source = "postgres"\n{lines}')
    assert f"registry.{key}: {words}" in _problems(tmp_path, text)


def test_variables_that_look_like_ours_are_told_with_the_nearest(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = {
        "TENANTPROXY_POOLS_MAX_SIZE": "TENANTPROXY_POOLS__MAX_SIZE",
        "TENANT_PROXY_POOLS__MAX_SIZE": "TENANTPROXY_POOLS__MAX_SIZE",
        "TENANTPROXY_SERVERS_PRIMARY_HOST": "TENANTPROXY_SERVERS__PRIMARY_HOST",
        "TENANTPROXY_POOL_MAX": "TENANTPROXY_POOLS__...",
        "TENANTPROXY_NOTHING": None,
    }
    silent = ["TENANTPROXY_SERVICE_HOST", "TENANTPROXY_PORT_6432_TCP_ADDR", "TENANTPROXY_CONFIG", "PATH"]
    silent += ["TENANTPROXY_PG_SERVICE_PORT", "TENANTPROXY_POOLS__MAX_SIZE"]
    assert dict(strangers([*given, *silent])) == given


def test_a_variable_that_is_ignored_is_logged(
    clean: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clean.setenv("TENANTPROXY_POOLS_MAX_SIZE", "77")
    assert _loaded(tmp_path, MINIMAL.replace("HOST", "db")).pools.max_size != 77
    assert "TENANTPROXY_POOLS_MAX_SIZE is ignored: did you mean TENANTPROXY_POOLS__MAX_SIZE?" in caplog.text


def test_a_table_may_stand_in_one_variable_as_json(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean.setenv("TENANTPROXY_SERVERS__PRIMARY", '{"host": "elsewhere", "port": 6000}')
    clean.setenv("TENANTPROXY_POOLS", '{"max_size": 7}')
    clean.setenv("TENANTPROXY_SERVERS__PRIMARY__PASSWORD", '{"not": "a table"}')
    settings = _loaded(tmp_path, MINIMAL.replace("HOST", "db"))
    assert (settings.servers["primary"].host, settings.servers["primary"].port) == ("elsewhere", 6000)
    assert settings.servers["primary"].user == "app"
    assert settings.servers["primary"].password.read() == '{"not": "a table"}'
    assert settings.pools.max_size == 7


def test_a_table_that_is_no_json_says_which_variable(clean: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clean.setenv("TENANTPROXY_POOLS", '{"max_size": 7')
    told = _problems(tmp_path, MINIMAL.replace("HOST", "db"))
    assert "pools: must be a table, not text (from TENANTPROXY_POOLS)" in told


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_secret_in_a_named_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "password")
    with pytest.raises(ConfigurationError, match="is no regular file"):
        Secret.file(tmp_path / "password").read()


def test_a_hint_that_ends_in_dots_keeps_them() -> None:
    error = TenantProxyError("it failed", detail="x = 1", hint="GRANT CONNECT ON DATABASE ...")
    assert str(error) == "it failed. x = 1. GRANT CONNECT ON DATABASE ..."
    assert str(TenantProxyError("it failed.")) == "it failed"
    assert str(TenantProxyError("Is it? ")) == "Is it? "


def test_admin_on_a_server_that_is_not_configured_says_so(world: World) -> None:
    tenant = world.tenants[0]
    moved = type(tenant)(
        id=TenantId("moved"),
        placement=type(tenant.placement)(isolation=tenant.placement.isolation, server="gone", database="x"),
    )
    with pytest.raises(TenantError, match="not configured"):
        admin_route(world.settings(), moved)


# --- the command line -------------------------------------------------------------------------------------------------
@pytest.fixture
def config(world: World, tmp_path: Path) -> Path:
    path = tmp_path / "tenantproxy.toml"
    path.write_text(world.toml())
    return path


async def _fails(path: Path, *args: str) -> str:
    done = await command(*args, "--config", str(path))
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def _changed(config: Path, old: str, new: str) -> Path:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    return config


async def test_a_main_database_that_is_missing_is_named(world: World, config: Path) -> None:
    told = await _fails(_changed(config, world.main.name, "nowhere"), "tenants", "list")
    assert "database does not exist" in told
    assert "'nowhere'" in told
    assert "[main] database" in told


async def test_a_host_name_that_is_unknown_is_told_as_such(config: Path) -> None:
    told = await _fails(_changed(config, '"127.0.0.1"', '"no-such-host.invalid"'), "tenants", "list")
    assert "host name of the PostgreSQL server cannot be resolved" in told
    assert "host of [servers.primary]" in told


OF_A_FILE: Final = (
    MINIMAL
    + """
[tenants.one]
isolation = "database"
database = "one"
"""
)


def _of_a_file(folder: Path, host: str, mode: str) -> Path:
    path = folder / "tenantproxy.toml"
    path.write_text(OF_A_FILE.replace("HOST", host).replace('"disable"', f'"{mode}"'))
    return path


@pytest.mark.usefixtures("clean")
async def test_a_tenant_of_a_file_hears_why_its_server_cannot_be_reached(tmp_path: Path) -> None:
    told = await _fails(_of_a_file(tmp_path, "no-such-host.invalid", "disable"), "sql", "one", "select 1")
    assert "host name of the PostgreSQL server cannot be resolved" in told


async def test_a_missing_root_certificate_is_told_as_such(tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    clean.setenv("HOME", str(tmp_path))
    clean.delenv("PGSSLROOTCERT", raising=False)
    told = await _fails(_of_a_file(tmp_path, "127.0.0.1", "verify-full"), "sql", "one", "select 1")
    assert "there is no root certificate" in told
    assert "ssl_root_cert_file of [servers.primary]" in told


async def test_a_server_without_tls_is_told_as_such(config: Path) -> None:
    told = await _fails(_changed(config, 'ssl = "disable"', 'ssl = "require"'), "tenants", "list")
    assert "does not offer TLS" in told


async def test_a_tenant_in_other_letters_is_told_the_right_ones(config: Path) -> None:
    for args in (["sql", "ROW1", "select 1"], ["tenants", "show", "ROW1"]):
        assert "did you mean row1? Identifiers are compared byte for byte" in await _fails(config, *args)


async def test_a_query_of_the_registry_on_a_missing_table_names_both(config: Path) -> None:
    queries = (
        'query = "select id, isolation, database from nowhere where id = $1"\n'
        'list_query = "select id, isolation, database from nowhere where id > $1 order by id limit $2"\n'
    )
    _changed(config, 'source = "postgres"\n', f'source = "postgres"\n{queries}')
    told = await _fails(config, "sql", "row1", "select 1")
    assert 'relation "nowhere" does not exist' in told
    assert "registry." in told


async def test_a_query_of_the_registry_without_a_column_names_it(config: Path) -> None:
    queries = (
        'query = "select id, database from tenantproxy.tenants where id = $1"\n'
        'list_query = "select id, database from tenantproxy.tenants where id > $1 order by id limit $2"\n'
    )
    _changed(config, 'source = "postgres"\n', f'source = "postgres"\n{queries}')
    assert "column isolation: is missing" in await _fails(config, "sql", "row1", "select 1")


async def test_a_registry_class_that_is_missing_fails_the_check(config: Path) -> None:
    told = await _fails(_changed(config, '"postgres"', '"nowhere.mod:Registry"'), "config", "check")
    assert "registry.source: the module nowhere.mod cannot be imported" in told


async def test_a_resolver_that_is_missing_fails_the_check_and_those_of_ours_do_not(config: Path) -> None:
    done = await command("config", "check", "--config", str(config))
    assert done.returncode == 0, done.stderr
    agree = '\n[resolve]\nagree = ["claim:tenant", "json.nowhere:Mine"]\n'
    changed = _changed(config, "[registry]", agree + "[registry]")
    told = await _fails(changed, "config", "check")
    assert "resolve.agree.1: the module json.nowhere cannot be imported" in told
    assert "1 problem" in told


async def test_a_missing_table_of_a_tenant_is_named(config: Path) -> None:
    assert 'relation "nowhere" does not exist' in await _fails(config, "sql", "row1", "select * from nowhere")


async def test_help_has_a_short_form_and_flags_no_type() -> None:
    done = await command("demo", "-h")
    assert done.returncode == 0
    assert re.search(r"--once\s+Take the tour", done.stdout)
    assert "<bool>" not in done.stdout
    assert (await command("tenants", "list", "-h")).returncode == 0


# --- TLS --------------------------------------------------------------------------------------------------------------
def _refusal(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError("certificate verify failed")
    error.verify_code = code
    error.verify_message = "certificate is not valid for 'db.internal'"
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (_refusal(62), "not for the host name that is configured"),
        (_refusal(10), "it has expired"),
        (_refusal(20), "authority that is not trusted"),
        (_refusal(999), "cannot be verified"),
        (ssl.SSLError(1, "[SSL: TLSV1_ALERT] tlsv1 alert"), "TLS with the PostgreSQL server failed"),
    ],
)
def test_a_failure_of_tls_says_what_failed_and_no_host(error: ssl.SSLError, words: str) -> None:
    told, failure = classify(error, PoolKey(server="primary", database="main"))
    assert isinstance(told, ConnectFailed)
    assert words in str(told)
    assert "[servers.primary]" in str(told)
    assert "db.internal" not in str(told)  # those who are served hear it too
    assert told.again().__cause__ is error  # the operator's command line names it
    assert failure == "denied"
