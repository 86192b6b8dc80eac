"""Does every Python client find at its seat what it would find at a server of its own?"""

from __future__ import annotations

from typing import Final

import pytest

from tests.e2e.pg.checks import CHECKS
from tests.e2e.pg.clients.asyncpg_client import Asyncpg
from tests.e2e.pg.clients.base import Client
from tests.e2e.pg.clients.psycopg_client import PsycopgAsync, PsycopgSync
from tests.e2e.pg.clients.sqlalchemy_client import SqlalchemyAsyncpg, SqlalchemyPsycopg
from tests.e2e.pg.seats import Seat

CLIENTS: Final[tuple[Client, ...]] = (
    PsycopgSync(),
    PsycopgAsync(),
    Asyncpg(),
    SqlalchemyAsyncpg(),
    SqlalchemyPsycopg(),
)
PAIRS: Final = [(client, check) for client in CLIENTS for check in CHECKS if check not in client.lacks]


@pytest.mark.parametrize(("client", "check"), PAIRS, ids=lambda each: each if isinstance(each, str) else each.name)
async def test_a_python_client_finds_what_a_server_of_its_own_would_give(
    client: Client, check: str, seat: Seat
) -> None:
    await CHECKS[check](client, seat)
