"""Do alembic, which changes a tenant's tables, and procrastinate, which brings its own, work through the port?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from procrastinate import App, PsycopgConnector

from tests.e2e.pg.clients.psycopg_client import conninfo
from tests.e2e.pg.conftest import Port
from tests.e2e.pg.seats import MODES, Mode, Seat, seats
from tests.support.waiting import PATIENCE

ENV: Final = """
import sqlalchemy as sa
from alembic import context

with context.config.attributes["engine"].connect() as connection:
    context.configure(
        connection=connection, version_table_schema=context.config.attributes["schema"], transaction_per_migration=True
    )
    with context.begin_transaction():
        # As people keep two deployments from migrating at once.
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(4711)"))
        context.run_migrations()
"""
FIRST: Final = """
import sqlalchemy as sa
from alembic import context, op

revision, down_revision = "first", None
schema = context.config.attributes["schema"]


def upgrade():
    columns = sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("sum", sa.Integer)
    bills = op.create_table("bills", *columns, schema=schema)
    op.bulk_insert(bills, [{"id": n, "sum": n} for n in range(9)])


def downgrade():
    op.drop_table("bills", schema=schema)
"""
SECOND: Final = """
import sqlalchemy as sa
from alembic import context, op

revision, down_revision = "second", "first"
schema = context.config.attributes["schema"]


def upgrade():
    op.execute("CREATE TEMP TABLE sums ON COMMIT DROP AS SELECT sum FROM %s.bills" % schema)
    op.alter_column("bills", "sum", type_=sa.Numeric, schema=schema)
    op.execute("UPDATE %s.bills SET sum = sum + (SELECT max(sum) FROM sums)" % schema)
    with op.get_context().autocommit_block():
        op.create_index("by_sum", "bills", ["sum"], schema=schema, postgresql_concurrently=True)


def downgrade():
    op.drop_index("by_sum", "bills", schema=schema)
"""


def _seat(mode: Mode, port: Port) -> Seat:
    return next(each for each in seats(mode, port.host, port.port) if each.kind == "database")


def _migrations(folder: Path, engine: sa.Engine, schema: str) -> Config:
    (folder / "versions").mkdir()
    for name, text in (("env.py", ENV), ("versions/first.py", FIRST), ("versions/second.py", SECOND)):
        (folder / name).write_text(text)
    config = Config(attributes={"engine": engine, "schema": schema})
    config.set_main_option("script_location", str(folder))
    return config


@pytest.mark.parametrize("mode", MODES)
def test_alembic_migrates_a_tenant_up_and_down(mode: Mode, pg_port: Port, tmp_path: Path) -> None:
    seat, schema = _seat(mode, pg_port), f"alembic_{mode}"
    with psycopg.connect(conninfo(seat), autocommit=True) as conn:
        conn.execute(f"CREATE SCHEMA {schema}".encode())
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(conninfo(seat)))
    try:
        config = _migrations(tmp_path, engine, schema)
        with engine.connect() as reader:  # its plan is older than what follows
            command.upgrade(config, "first")
            total = sa.text(f"SELECT sum(sum) FROM {schema}.bills WHERE id >= :least")
            assert reader.execute(total, {"least": 0}).scalar() == 36
            reader.commit()
            command.upgrade(config, "head")
            assert reader.execute(total, {"least": 0}).scalar() == 36 + 9 * 8
            assert [each["name"] for each in sa.inspect(reader).get_indexes("bills", schema=schema)] == ["by_sum"]
            reader.commit()
            command.downgrade(config, "base")
            assert sa.inspect(reader).get_table_names(schema=schema) == ["alembic_version"]
    finally:
        engine.dispose()


@pytest.mark.parametrize("mode", MODES)
async def test_procrastinate_runs_the_jobs_that_a_tenant_defers(mode: Mode, pg_port: Port) -> None:
    seat, schema = _seat(mode, pg_port), f"procrastinate_{mode}"
    with psycopg.connect(conninfo(seat), autocommit=True) as conn:
        conn.execute(f"CREATE SCHEMA {schema}".encode())
    where = f"{conninfo(seat)} options='-c search_path={schema}'"
    app = App(connector=PsycopgConnector(conninfo=where, min_size=1, max_size=4))
    done: set[int] = set()
    all_done = asyncio.Event()

    @app.task(name="add")
    async def add(number: int) -> None:
        done.add(number)
        if len(done) == 20:
            all_done.set()

    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        # Nothing is looked for within a minute: it hears of jobs by LISTEN.
        worker = asyncio.create_task(app.run_worker_async(concurrency=3, fetch_job_polling_interval=60))
        await add.batch_defer_async({"number": 0}, {"number": 1})
        for number in range(2, 20):
            await add.defer_async(number=number)
        async with asyncio.timeout(PATIENCE):
            await all_done.wait()
        worker.cancel()
        await asyncio.wait([worker])
        counts = await app.job_manager.list_queues_async()
        assert [(each["name"], each["succeeded"]) for each in counts] == [("default", 20)]
