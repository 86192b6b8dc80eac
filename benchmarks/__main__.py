"""Which benchmark was asked for? `python -m benchmarks NAME [options]`."""

from __future__ import annotations

import importlib
import sys
from typing import Final

# A new program is one line here and a module of that name with `main(arguments) -> int`.
PROGRAMS: Final = {
    "admin": "being looked at: a scrape of 500 pools, viewers of the operator page, its first paint, scrolling",
    "failover": "a primary ends and its standby is promoted: until writes go on, and what was lost or doubled",
    "fleet": "many processes and one budget: four workers, one that begins, 50 that move and die, a million steps",
    "fuzz": "a million inputs of strangers: the parsers of the PostgreSQL port, and its relay between two of them",
    "http": "in a web application: what the middleware adds to a request, and 100,000 interleaved ones per framework",
    "library": "embedded in a service: ours, asyncpg, its pool, psycopg_pool and pools by hand",
    "lifecycle": "a life of tenants: 200 databases made, 1,000 schemas migrated, also by a process that is killed",
    "login": "by e-mail and password: the directory, the search and a loop by hand, and what strangers learn",
    "pg": "the PostgreSQL port: ours, PgBouncer and a direct connection, under pgbench",
    "registry": "10,000 cold tenants at once, one UPDATE of 4,800 under load, a scrape of 500 open pools",
    "resets": "a tenant next to another one of its pool that makes every reset as slow as it can",
    "soak": "a day in 20 minutes: 10,000 tenants come and go at all doors; memory, tasks and series afterwards",
    "sql": "SQL over HTTP: one select a request, a constant answer and asyncpg.Pool by hand",
    "sqlalchemy": "with SQLAlchemy: sessions of the current tenant and SQLAlchemy's own pool on one database",
    "statemachine": "a million random steps of the pools, their invariants checked after each",
    "systems": "the reference platforms: a policy through another table, and mixed operations while all goes wrong",
    "turns": "more tenants than connections, far from the server: fixed turns and those that grow with a connect",
    "workers": "two workers and one; clients during a rolling restart and an upgrade in place",
}


def main(arguments: list[str]) -> int:
    """Run one program; its exit status, 2 for a name that does not exist."""
    name, *rest = arguments or [""]
    if name not in PROGRAMS:
        lines = [f"  {known:14}{what}" for known, what in PROGRAMS.items()]
        print("\n".join(["usage: scripts/bench NAME [--json FILE] [--help]", *lines]), file=sys.stderr)
        return 2
    return int(importlib.import_module(f"benchmarks.{name}").main(rest))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
