"""Does `fleet.sql` do what the model of main does? The machine's calls, made on a real server and compared.

The server's clock and timeline are made up: two rows of a table in the place of two expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final
from uuid import UUID

import psycopg

from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.fleet.values import FleetReport, body, signature
from tenantproxy.isolation.proof import key_pads
from tenantproxy.lifecycle.fleet import fleet_script
from tests.support.fleet_main import STALE, ModelMain
from tests.support.fleet_world import TTL, Answer, FleetWorld

__all__ = ["APP", "KEY", "SYNC", "SqlFleet"]

KEY: Final = b"k" * 32
APP: Final = "fleet_app"
SYNC: Final = "SELECT * FROM tenantproxy.fleet_sync(%s, %s, %s, %s, %s)"
_WALL: Final = "floor(extract(epoch FROM clock_timestamp()) * 1000)"
_LINE: Final = "substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
_TABLES: Final = ("fleet", "fleet_key", "fleet_server", "fleet_share")


class SqlFleet:
    """The real functions in one database. `main` is a superuser's connection, `app` that of the processes."""

    def __init__(
        self, server: EmbeddedPostgres, database: str, *, every: int = 0, change: Callable[[str], str] = str
    ) -> None:
        """`every`: milliseconds between two rebalances, at least. `change`: of the script, to leave a rule out."""
        self.main = psycopg.connect(**_where(server, database), autocommit=True)
        self._do(f"DO $$ BEGIN CREATE ROLE {APP} LOGIN PASSWORD '{APP}'; EXCEPTION WHEN duplicate_object THEN END $$")
        self._do(f'GRANT CONNECT ON DATABASE "{database}" TO {APP}')
        self._do("CREATE TABLE public.fake (wall bigint, line text); INSERT INTO public.fake VALUES (0, '1')")
        self._do("GRANT SELECT ON public.fake TO PUBLIC")
        text = change(fleet_script(app_role=APP, key=KEY))
        assert text.count(_WALL) == 1
        self._do(text.replace(_WALL, "(SELECT wall FROM public.fake)").replace(_LINE, "(SELECT line FROM public.fake)"))
        self.app = psycopg.connect(**_where(server, database, APP), autocommit=True)
        self.calls = 0
        self._every = every
        self._fleet = ""

    def close(self) -> None:
        """Close both connections."""
        self.app.close()
        self.main.close()

    def world(self, *, size: int, cap: int) -> FleetWorld:
        """A machine whose calls are made here too, as a fleet that is not known here yet."""
        self.begin(f"fleet{self.calls}")
        world = FleetWorld(size=size, cap=cap, on_sync=self._compare)
        world.save, world.restore, world.empty = self._save, self._restore, self._empty
        return world

    def begin(self, fleet: str) -> None:
        """A fleet that is not known here yet; calls are made for it from now on."""
        self._fleet = fleet
        row = (fleet, TTL, self._every)
        self._do("INSERT INTO tenantproxy.fleet (fleet, ttl_ms, every_ms, timeline) VALUES (%s, %s, %s, '1')", row)
        self._do("INSERT INTO tenantproxy.fleet_key VALUES (%s, %s, %s)", (fleet, *key_pads(KEY)))

    def call(self, report: FleetReport, wall: int) -> list[tuple[Any, ...]]:
        """As `sync`, when main's clock shows `wall` milliseconds."""
        self._do("UPDATE public.fake SET wall = %s", (wall,))
        return self.sync(report)

    def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with what is announced, at the end of each call."""
        self.app.add_notify_handler(lambda notify: heard(notify.payload))
        self.app.execute("LISTEN tenantproxy_fleet")

    def sync(self, report: FleetReport, *, key: bytes = KEY, fleet: str | None = None) -> list[tuple[Any, ...]]:
        """One call of `fleet_sync` as the application role."""
        name = self._fleet if fleet is None else fleet
        text = body(report, ttl=TTL / 1000)
        mac = signature(key, fleet=name, process=report.process, seq=report.seq, text=text)
        self.calls += 1
        return self.app.execute(SYNC, (name, report.process, report.seq, text, mac)).fetchall()

    def _compare(self, main: ModelMain | None, report: FleetReport, wall: int, line: str, answer: Answer) -> None:
        self._do("UPDATE public.fake SET wall = %s, line = %s", (wall, line))
        if main is None:  # the leader dies in its transaction
            with self.app.transaction(force_rollback=True):
                self.sync(report)
            return
        rows = self.sync(report)
        said = STALE if rows and rows[0][8] == STALE else [row[1:6] for row in rows]
        expected: object = answer
        if not isinstance(answer, str):
            expected = [(each.granted, each.target, each.epoch, each.counted, each.is_witness) for each in answer]
        assert said == expected, report
        assert self._shares() == {
            process: (row.granted, row.target, row.used, row.silent, row.seen, row.seq)
            for process, row in main.rows.items()
        }
        counts = "SELECT ghosts, epoch, counted, blind FROM tenantproxy.fleet_server WHERE fleet = %s"
        found = self.main.execute(counts, (self._fleet,)).fetchone()
        assert found in (None, (main.ghosts, main.epoch, main.counted, main.blind))

    def _shares(self) -> dict[UUID, tuple[Any, ...]]:
        query = "SELECT process, granted, target, used, silent, seen, seq FROM tenantproxy.fleet_share WHERE fleet = %s"
        return {row[0]: row[1:] for row in self.main.execute(query, (self._fleet,)).fetchall()}

    def _save(self) -> None:
        for table in _TABLES:
            self._do(f"DROP TABLE IF EXISTS public.saved_{table}")
            self._do(
                f"CREATE TABLE public.saved_{table} AS SELECT * FROM tenantproxy.{table} WHERE fleet = '{self._fleet}'"
            )

    def _restore(self) -> None:
        self._do(f"DELETE FROM tenantproxy.fleet WHERE fleet = '{self._fleet}'")
        for table in _TABLES:
            self._do(f"INSERT INTO tenantproxy.{table} SELECT * FROM public.saved_{table}")

    def _empty(self) -> None:
        self._do("DELETE FROM tenantproxy.fleet_share WHERE fleet = %s", (self._fleet,))

    def _do(self, query: str, values: tuple[object, ...] | None = None) -> None:
        self.main.execute(query.encode(), values)


def _where(server: EmbeddedPostgres, database: str, user: str | None = None) -> dict[str, Any]:
    given = server.connect_args(database, user, user)
    return {"dbname": database, **{name: given[name] for name in ("host", "port", "user", "password")}}
