"""Do clients that know nothing of us speak TLS with a sidecar, and does a new certificate need no restart?"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tenantproxy.demo.world import PG_USER, World
from tests.e2e.pg.programs import NODE
from tests.support.authority import Authority
from tests.support.sidecar import Served
from tests.support.waiting import PATIENCE, until

NODE_PROGRAM = """
import pg from 'pg'
import { readFileSync } from 'node:fs'
const { ca, ...place } = JSON.parse(process.argv[1])
const client = new pg.Client({ ...place, ssl: { ca: readFileSync(ca) } })
await client.connect()
console.log((await client.query('SELECT name FROM projects ORDER BY id')).rows.map(row => row.name).join())
await client.end()
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def config(demo_world: World, authority: Authority, tmp_path: Path) -> Path:
    """The demo's configuration, with a certificate of `authority` in `server.crt` and `server.key`."""
    path = demo_world.config.with_name(f"{tmp_path.name}.toml")
    _show(authority, "localhost", "localhost", "127.0.0.1")
    keys = f'ssl_cert_file = "{tmp_path}/server.crt"\nssl_key_file = "{tmp_path}/server.key"'
    users = '[pg.users.ops]\npassword_file = "pg_password"\nconsole = true\n'
    path.write_text(f"{demo_world.config.read_text().replace('[pg]', '[pg]' + chr(10) + keys)}\n{users}")
    return path


def _show(authority: Authority, *names: str) -> None:
    pair = authority.certificate(*names, file="next")
    pair.certificate.replace(authority.folder / "server.crt")
    pair.key.replace(authority.folder / "server.key")


def place(served: Served, world: World, **more: Any) -> dict[str, Any]:
    port = int(served.pg.rpartition(":")[2])
    return {
        "host": "localhost",
        "port": port,
        "user": PG_USER,
        "password": world.pg_password,
        "database": "acme",
    } | more


async def test_psql_asyncpg_and_node_verify_the_certificate_and_read_their_rows(
    serve: Callable[..., Served], config: Path, authority: Authority, demo_world: World
) -> None:
    served = serve(config)
    acme = list(next(each for each in demo_world.tenants if each.id == "acme").projects)
    context = ssl.create_default_context(cafile=str(authority.root))
    conn = await asyncpg.connect(**place(served, demo_world), ssl=context, timeout=PATIENCE)
    assert [row["name"] for row in await conn.fetch("SELECT name FROM projects ORDER BY id")] == acme
    ops = place(served, demo_world, user="ops", database="tenantproxy")
    console = await asyncpg.connect(**ops, ssl=context, timeout=PATIENCE)
    rows = {row["user"]: row["tls"] for row in await console.fetch("SHOW CLIENTS")}
    assert rows[PG_USER].startswith("TLSv1.3/TLS_")
    await console.close(timeout=PATIENCE)
    await conn.close(timeout=PATIENCE)
    psql = shutil.which("psql")
    if psql is not None:
        where = f"host=localhost port={ops['port']} user={PG_USER} dbname=acme sslrootcert={authority.root}"
        done = await asyncio.to_thread(
            subprocess.run,
            [psql, "-XAt", f"{where} sslmode=verify-full", "-c", "SELECT name FROM projects ORDER BY id"],
            env={**os.environ, "PGPASSWORD": demo_world.pg_password},
            capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.stdout.split("\n")[:-1] == acme, done.stderr
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules" / "pg").is_dir():
        pytest.skip(f"the rest needs node, and its clients: npm ci --prefix tests/e2e/pg/{NODE.name}")
    given = json.dumps({**place(served, demo_world), "ca": str(authority.root)})
    done = await asyncio.to_thread(
        subprocess.run,
        [node, "--input-type=module", "-e", NODE_PROGRAM, given],
        cwd=NODE, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.stdout.strip() == ",".join(acme), done.stderr


async def test_sighup_takes_a_new_certificate_and_refuses_a_bad_one(
    serve: Callable[..., Served], config: Path, authority: Authority, demo_world: World, tmp_path: Path
) -> None:
    served = serve(config)
    context = ssl.create_default_context(cafile=str(authority.root))
    conn = await asyncpg.connect(**place(served, demo_world), ssl=context, timeout=PATIENCE)

    async def may_connect() -> bool:
        try:
            new = await asyncpg.connect(**place(served, demo_world), ssl=context, timeout=PATIENCE)
        except ssl.SSLCertVerificationError:
            return False
        await new.close(timeout=PATIENCE)
        return True

    log = tmp_path / "sidecar.log"
    (tmp_path / "server.key").chmod(0o644)
    served.process.send_signal(signal.SIGHUP)
    await until(lambda: "has permissions 0644" in log.read_text(), "it says what is wrong")
    assert await may_connect(), "the former one is used"
    _show(authority, "elsewhere.example.com", "elsewhere.example.com")
    served.process.send_signal(signal.SIGHUP)

    async def is_changed() -> bool:
        return not await may_connect()

    await until(is_changed, "new clients see the new certificate")
    assert await conn.fetchval("SELECT count(*) FROM projects") > 0, "who was connected stays"
    await conn.close(timeout=PATIENCE)


def test_a_key_that_others_may_read_keeps_the_sidecar_from_starting(
    config: Path, tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    assert command("config", "check", "--config", str(config)).returncode == 0
    (tmp_path / "server.key").chmod(0o644)
    for words in (["serve"], ["config", "check"]):
        done = command(*words, "--config", str(config))
        assert done.returncode != 0
        assert "pg.ssl_key_file" in done.stderr
        assert "0644" in done.stderr
