"""How does the main database come to keep one budget for many processes? Installs its tables, functions and keys.

Running it again is the upgrade, and the rotation of a key: for a day the former one is taken too.
"""

from __future__ import annotations

import re
from typing import Final

import asyncpg

from tenantproxy.isolation.proof import MIN_KEY_BYTES, key_pads
from tenantproxy.lifecycle.install import alone, as_keeper, ensure_keeper, sql_file
from tenantproxy.model import quote_identifier

__all__ = ["fleet_script", "install_fleet"]

_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_REVOKE: Final = (
    "REVOKE ALL ON FUNCTION tenantproxy.fleet_sync(text, uuid, bigint, text, bytea), tenantproxy.fleet_view(text)"
    " FROM {}"
)
_ROW: Final = (
    "INSERT INTO tenantproxy.fleet (fleet, ttl_ms) VALUES ({}, {})"
    " ON CONFLICT (fleet) DO UPDATE SET ttl_ms = excluded.ttl_ms"
)
_FORMER: Final = (
    "UPDATE tenantproxy.fleet_key SET not_after = least(not_after, now() + interval '1 day')"
    " WHERE fleet = {} AND ipad <> {}"
)
_KEY: Final = (
    "INSERT INTO tenantproxy.fleet_key (fleet, ipad, opad) VALUES ({}, {}, {})"
    " ON CONFLICT (fleet, ipad) DO UPDATE SET not_after = 'infinity'"
)


async def install_fleet(
    conn: asyncpg.Connection,
    *,
    app_role: str,
    reporter: str | None = None,
    key: bytes,
    fleet: str = "default",
    ttl: float = 15.0,
    lock_timeout: float = 5.0,
) -> None:
    """Install or upgrade the budget of `fleet` in the main database; `app_role`, the router's, may call it.

    `reporter`: a role that exists, which may do so in its place.
    `key`: 32 to 64 bytes that all its processes have. Processes that run with another `ttl` (seconds) are refused from
    now on. `conn` is as for `install.install`. Raises asyncpg.ObjectNotInPrerequisiteStateError where a newer release
    was installed.
    """
    ipad, opad = _pads(fleet, key)
    async with alone(conn, lock_timeout):
        await ensure_keeper(conn)
        await conn.execute(sql_file("keeper.sql"))
        await conn.execute(sql_file("fleet.sql", app=quote_identifier(reporter or app_role)))
        async with as_keeper(conn):
            if reporter is not None and reporter != app_role:
                await conn.execute(_REVOKE.format(quote_identifier(app_role)))
            await conn.execute(_ROW.format("$1", "$2"), fleet, round(ttl * 1000))
            await conn.execute(_FORMER.format("$1", "$2"), fleet, ipad)
            await conn.execute(_KEY.format("$1", "$2", "$3"), fleet, ipad, opad)


def fleet_script(*, app_role: str, key: bytes | None, fleet: str = "default", ttl: float = 15.0) -> str:
    """The same for psql. `key` is in it in clear; None leaves it out: every report is refused until it is there."""
    files = [sql_file("keeper_role.sql"), sql_file("keeper.sql"), sql_file("fleet.sql", app=quote_identifier(app_role))]
    name = f"'{fleet}'"
    rows = [_ROW.format(name, round(ttl * 1000))]
    if key is None:
        rows.append("-- The key is left out: it is secret. Add it with --with-keys")
    else:
        ipad, opad = (f"'\\x{pad.hex()}'::bytea" for pad in _pads(fleet, key))
        rows += [_FORMER.format(name, ipad), _KEY.format(name, ipad, opad)]
    text = ";\n".join(rows)
    return (
        "BEGIN;\nSET LOCAL search_path = pg_catalog, pg_temp;\nSET LOCAL lock_timeout = '5s';\n"
        f"{''.join(files)}"
        "GRANT tenantproxy_keeper TO CURRENT_USER;\nSET LOCAL ROLE tenantproxy_keeper;\n"
        f"SET LOCAL standard_conforming_strings = on;\n{text};\n"
        "RESET ROLE;\nREVOKE tenantproxy_keeper FROM CURRENT_USER;\nCOMMIT;\n"
    )


def _pads(fleet: str, key: bytes) -> tuple[bytes, bytes]:
    if not _NAME.fullmatch(fleet):
        raise ValueError("the name of a fleet is 1 to 63 letters, digits and . _ -")
    if not MIN_KEY_BYTES <= len(key) <= 64:
        raise ValueError(f"a fleet's key is {MIN_KEY_BYTES} to 64 bytes")
    return key_pads(key)
