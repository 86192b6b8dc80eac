"""Does an operator with an ordinary PostgreSQL and our pages alone get tenants that cannot reach each other?

The server is the system's own, with TLS and passwords; the owner of the databases is no superuser.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from tenantproxy.config import role_password
from tenantproxy.embedded import EmbeddedPostgres, all_binaries
from tenantproxy.embedded.binaries import unprivileged_account
from tenantproxy.embedded.server import _free_port
from tenantproxy.router import Router
from tests.support.distributions import Environment, build_wheel, environment_of
from tests.support.readme import DOCS, blocks
from tests.support.tls import certificate

OWNER: Final = "app_owner"
PASSWORD: Final = "the password of the owner"
VERSION: Final = 15
STEPS: Final = blocks("first steps", DOCS / "first-steps.md")
MINUTES: Final = blocks("ten minutes")
HOST: Final = "127.0.0.1"

pytestmark = pytest.mark.timeout(900)  # dozens of processes, on a machine that may be loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """A folder with nothing in it, a shell, and a server. `is_told`: where the `db.internal` of a page is."""

    server: EmbeddedPostgres
    installed: Environment
    folder: Path
    authority: Path
    is_told: bool = True

    @property
    def environment(self) -> dict[str, str]:
        """What the pages ask for, and where this server is."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("TENANTPROXY_", "PYTHON", "PG"))
        }
        path = os.pathsep.join([str(self.installed.folder / "bin"), str(self.server.bin_dir), os.environ["PATH"]])
        return kept | {"PATH": path, "COLUMNS": "200", "NO_COLOR": "1"} | {
            "PGHOST": HOST, "PGPORT": str(self.server.port), "PGUSER": OWNER, "PGPASSWORD": PASSWORD,
            "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(self.authority),
        } | (self.overrides if self.is_told else {})  # fmt: skip

    @property
    def overrides(self) -> dict[str, str]:
        """The db.internal of the pages is elsewhere."""
        head = "TENANTPROXY_SERVERS__PRIMARY__"
        where = {"HOST": HOST, "PORT": str(self.server.port), "SSL_ROOT_CERT_FILE": str(self.authority)}
        return {head + key: value for key, value in where.items()}

    def shell(self, script: str, *, fails: bool = False) -> str:
        """What it wrote; each command must succeed, or for `fails` the last one not."""
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=self.folder, env=self.environment, capture_output=True,
            text=True, timeout=600, check=False,
        )  # fmt: skip
        assert (ended.returncode != 0) == fails, ended.stdout + ended.stderr
        return ended.stderr if fails else ended.stdout

    def sql(self, tenant: str, statement: str) -> Any:
        """The rows of `tenantproxy sql`."""
        return json.loads(self.shell(f'tenantproxy sql {tenant} "{statement}" --json'))


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """`pip install "tenantproxy[cli,jwt]" fastapi uvicorn`, from a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("installed")
    return environment_of(build_wheel(folder), folder / "environment", "cli", "jwt", also=("fastapi", "uvicorn"))


@pytest.fixture
def operator(tmp_path: Path, installed: Environment) -> Iterator[Operator]:
    if not any(found.version == VERSION and (found.bin_dir / "psql").exists() for found in all_binaries()):
        pytest.skip(f"install postgresql-{VERSION}")
    folder = Path(tempfile.mkdtemp(prefix="first-steps-"))  # where the server's own user can read
    folder.chmod(0o755)
    pem = certificate(folder, host=HOST)
    authority = tmp_path / "authority.pem"
    authority.write_bytes(pem.read_bytes()[pem.read_bytes().index(b"-----BEGIN CERTIFICATE") :])
    account = unprivileged_account()
    if account is not None:
        os.chown(pem, account.uid, account.gid)
    pem.chmod(0o600)
    tls = {"ssl": "on", "ssl_cert_file": str(pem), "ssl_key_file": str(pem)}
    try:
        with EmbeddedPostgres(version=VERSION, durable=False, settings=tls) as server:
            asyncio.run(_owner(server))
            home = tmp_path / "home"
            home.mkdir()
            yield Operator(server=server, installed=installed, folder=home, authority=authority)
    finally:
        shutil.rmtree(folder)


async def _owner(server: EmbeddedPostgres) -> None:
    root = await asyncpg.connect(**server.connect_args())
    try:
        await root.execute(f"CREATE ROLE {OWNER} LOGIN CREATEROLE CREATEDB PASSWORD '{PASSWORD}'")
        await root.execute(f"CREATE DATABASE app OWNER {OWNER}")
    finally:
        await root.close()


def write(operator: Operator, *names: str, steps: dict[str, str] = STEPS) -> None:
    for name in names:
        (operator.folder / name).write_text(steps[name])


def test_the_first_steps_lead_to_the_first_query(operator: Operator) -> None:
    """Its files and commands, byte for byte; only where the server is comes from the environment."""
    assert list(STEPS) == ["tenantproxy.toml", "schema.sql", "install.sh", "query.sh", "first.py"]
    write(operator, "tenantproxy.toml", "schema.sql", "first.py")
    installed = operator.shell(STEPS["install.sh"])
    assert "permissive policy tenantproxy" in installed
    assert "functions LEFT OPEN: the admin user is no superuser" in installed
    shown = operator.shell(STEPS["query.sh"])
    for name in ("Anvils", "Hammock district", "Cover sheets", "Hive"):
        assert shown.count(name) == 1
    assert operator.shell("python first.py") == "['Anvils']\n1\n"
    assert operator.sql("acme", "select name from projects") == [{"name": "ANVILS"}]
    again = json.loads(operator.shell(STEPS["install.sh"].splitlines()[-1] + " --json"))
    assert [row["installed"] for row in again if "installed" in row] == [
        "signed context", "functions LEFT OPEN: the admin user is no superuser"
    ]  # fmt: skip


OWN: Final = """
create table companies (id text primary key, name text not null);
create table projects (id int generated always as identity primary key, company_id text not null references companies,
                       name text not null);
insert into companies values ('acme', 'Acme Corporation'), ('globex', 'Globex');
insert into projects (company_id, name) values ('acme', 'Rockets'), ('globex', 'Domes');
"""
"""What a reader has: two tables of one role, rows of two companies in them, and nothing of tenantproxy's."""


def test_who_reads_only_the_readme_serves_the_tenants_of_their_own_database(operator: Operator) -> None:
    """In an empty folder, byte for byte; only where the server is differs, and pip has its packages already."""
    assert list(MINUTES) == ["look.sh", "install.sh", "app.py", "try.sh"]
    operator.shell(f'psql -q -v ON_ERROR_STOP=1 -d app -c "{OWN}"')
    write(operator, "app.py", steps=MINUTES)
    pip, _, look = MINUTES["look.sh"].partition("\n")
    assert pip == 'pip install "tenantproxy[cli,jwt]" fastapi uvicorn'
    server = operator.server
    where = {"postgres@db.internal:5432": f"{server.superuser}@{HOST}:{server.port}", "8000": str(_free_port())}
    attempt = MINUTES["try.sh"]
    for shown, real in where.items():
        assert shown in look + attempt
        look, attempt = look.replace(shown, real), attempt.replace(shown, real)
    steps = [f"export PGPASSWORD={server.password}", look, MINUTES["install.sh"], "trap 'kill $!; wait' EXIT", attempt]
    reader = replace(operator, is_told=False)
    said = reader.shell("\n".join(steps))
    names, problem = (
        json.loads(line) for line in said.splitlines() if line.startswith(('["', "{"))
    )  # what curl printed
    assert names == ["Anvils", "Rockets"]
    assert (problem["status"], problem["code"]) == (403, "tenant_mismatch")
    assert 'ssl = "verify-full"' in (operator.folder / "tenantproxy/tenantproxy.toml").read_text()


KINDS: Final = {
    "row": ("acme", "globex", "soylent"),
    "schema": ("initech", "hooli", "aviato"),
    "database": ("umbrella", "wayne", "stark"),
}
TENANTS: Final = tuple(tenant for tenants in KINDS.values() for tenant in tenants)


def grow(operator: Operator) -> None:
    """The files of the first steps with three tenants of each kind, made in the manner of its own."""
    write(operator, "tenantproxy.toml", "schema.sql")
    known = tomllib.loads(STEPS["tenantproxy.toml"])["tenants"]
    more, tables = "", ""
    own = "projects (id bigint generated always as identity primary key, name text not null);\n"
    for kind, tenants in KINDS.items():
        for tenant in tenants:
            if tenant in known:
                continue
            more += f'\n[tenants.{tenant}]\nisolation = "{kind}"\n'
            more += {
                "row": 'database = "shared"\n',
                "schema": f'database = "shared"\nschema = "{tenant}"\nrole = "tenant_{tenant}"\n',
                "database": f'database = "{tenant}"\nrole = "tenant_{tenant}"\n',
            }[kind]
            if kind == "schema":
                tables += f"\\connect shared\ncreate schema {tenant};\ncreate table {tenant}.{own}"
            elif kind == "database":
                tables += f"create database {tenant};\n\\connect {tenant}\ncreate table {own}"
    with (operator.folder / "tenantproxy.toml").open("a") as toml, (operator.folder / "schema.sql").open("a") as sql:
        toml.write(more)
        sql.write(tables)


def test_nine_tenants_of_three_kinds_see_their_own_rows_and_no_others(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    grow(operator)
    operator.shell(STEPS["install.sh"])
    for name, value in operator.overrides.items():
        monkeypatch.setenv(name, value)
    asyncio.run(_fill(operator))
    for tenant in TENANTS:
        assert operator.sql(tenant, "select name from projects") == [{"name": tenant}]
    refused = operator.shell('tenantproxy sql initech "select * from hooli.projects"', fails=True)
    assert "permission denied for schema hooli" in refused
    stolen = "select set_config('app.current_tenant_id', 'globex', false); select name from projects"
    assert "globex" not in operator.shell(f'tenantproxy sql acme "{stolen}"', fails=True).replace(stolen, "")
    asyncio.run(_cross(operator))


async def _fill(operator: Operator) -> None:
    async with Router.from_file(operator.folder / "tenantproxy.toml") as router:
        for tenant in TENANTS:
            await router.tenant(tenant).execute("insert into projects (name) values ($1)", tenant)


async def _cross(operator: Operator) -> None:
    """Every read of another tenant's rows that its connection can try: all fail, and nothing changes hands."""
    key = (operator.folder / "secrets/role_key").read_bytes().strip()
    async with Router.from_file(operator.folder / "tenantproxy.toml") as router:
        for thief in TENANTS:
            async with router.tenant(thief).connection() as conn:
                assert await conn.fetchval("select ssl from pg_stat_ssl where pid = pg_backend_pid()") is True
                for victim in KINDS["schema"]:
                    if victim != thief:
                        with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError)):
                            await conn.fetch(f"select * from {victim}.projects")
                if thief not in KINDS["row"]:
                    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError)):
                        await conn.fetch("select * from shared.public.projects")
            for victim in KINDS["row"]:
                await _steal(router, thief, victim)
        for tenant in TENANTS:
            assert [row["name"] for row in await router.tenant(tenant).fetch("select name from projects")] == [tenant]
    for thief in (*KINDS["schema"], *KINDS["database"]):
        role = f"tenant_{thief}"
        for victim in KINDS["database"]:
            if victim != thief:
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied for database"):
                    await asyncpg.connect(
                        host=HOST, port=operator.server.port, user=role, database=victim,
                        password=role_password(key, "primary", role), ssl="require",
                    )  # fmt: skip


async def _steal(router: Router, thief: str, victim: str) -> None:
    """A row tenant that says it is another one, reads its rows, and writes into them."""
    if thief == victim or thief not in KINDS["row"]:
        return
    tenant = router.tenant(thief)
    assert await tenant.fetch("select * from public.projects where tenant_id = $1", victim) == []
    assert await tenant.execute("update projects set tenant_id = tenant_id where tenant_id = $1", victim) == "UPDATE 0"
    assert await tenant.execute("delete from projects where tenant_id = $1", victim) == "DELETE 0"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await tenant.execute("insert into projects (tenant_id, name) values ($1, 'x')", victim)
    async with tenant.connection() as conn:
        await conn.execute("select set_config('app.current_tenant_id', $1, false)", victim)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.fetch("select * from projects")
