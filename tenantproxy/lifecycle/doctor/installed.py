"""Is the signed context of a database the one of this release, with the configured keys, and the keeper's alone?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final, NamedTuple

import asyncpg

from tenantproxy.config import Settings
from tenantproxy.isolation.proof import derive_key, key_pads
from tenantproxy.lifecycle.doctor.finding import DoctorFinding
from tenantproxy.lifecycle.doctor.rules import found
from tenantproxy.lifecycle.doctor.scope import AuditPlace
from tenantproxy.lifecycle.doctor.session import look
from tenantproxy.lifecycle.install import CONTEXT_FILES, TRUSTED_FILE, sql_file
from tenantproxy.lifecycle.trusted import GRANT, PARAMETER, is_trusted

__all__ = ["look_at_installation"]

_INSTALLED: Final = "SELECT to_regprocedure('tenantproxy.enter(text,integer,bigint,text,bigint)') IS NOT NULL"
_FUNCTIONS: Final = """
SELECT p.proname::text AS name, p.prosrc AS body, p.prosecdef AS definer,
  EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c = 'search_path=pg_catalog, pg_temp') AS fixed
FROM pg_proc p WHERE p.pronamespace = 'tenantproxy'::regnamespace AND p.proname = ANY ($1)
"""
_MAY_READ_KEYS: Final = "SELECT has_table_privilege('tenantproxy.context_key', 'SELECT')"
# A digest: the keys stay on the server.
_KEYS: Final = "SELECT kid, sha256(ipad || opad) AS print FROM tenantproxy.context_key WHERE not_after > now()"
_FORGET: Final = "DELETE FROM tenantproxy.context_key WHERE kid = {}"
_FUNCTION: Final = re.compile(
    r"CREATE OR REPLACE FUNCTION tenantproxy\.(\w+)\((?:[^()]|\([^()]*\))*\)"
    r"(?P<head>.*?)(?:AS \$f\$(?P<body>.*?)\$f\$|^RETURN )",
    re.S | re.M,
)


class _Shipped(NamedTuple):
    """A function as this release installs it. `body`: None where it is not kept as text (RETURN ...)."""

    body: str | None
    definer: bool
    fixed: bool


@lru_cache(maxsize=8)
def _shipped(setting: str, trusted: bool) -> Mapping[str, _Shipped]:
    """The functions of the signed context by name."""
    functions: dict[str, _Shipped] = {}
    for name in (*CONTEXT_FILES, *((TRUSTED_FILE,) if trusted else ())):
        for each in _FUNCTION.finditer(sql_file(name, app='"app"', setting=setting)):
            if each[1] == "bound_tenant" and each[1] in functions:  # what was there goes under another name
                functions["proved_tenant"] = functions[each[1]]
            head = each["head"]
            functions[each[1]] = _Shipped(each["body"], "SECURITY DEFINER" in head, "SET search_path" in head)
    return functions


async def look_at_installation(
    conn: asyncpg.Connection, settings: Settings, place: AuditPlace, given: str
) -> list[DoctorFinding]:
    """What is wrong with it in the database of `conn`, where row tenants live. `given`: the place's argument."""
    where = {"server": place.server, "database": place.database}
    if not settings.row.signed:
        return [found("TPD118", **where, object=settings.row.setting)]
    if not await conn.fetchval(_INSTALLED):
        return [found("TPD111", **where)]
    trusted = await is_trusted(conn)
    findings = [*await look(conn, "installed.sql", given, **where)]
    shipped = _shipped(settings.row.setting, trusted)
    there = {row["name"]: row for row in await conn.fetch(_FUNCTIONS, list(shipped))}
    for name, function in shipped.items():
        detail = _difference(function, there.get(name))
        if detail is not None:
            findings.append(found("TPD112", **where, schema="tenantproxy", object=f"tenantproxy.{name}", detail=detail))
    if settings.row.form == "trusted":
        findings += await _trusted(conn, place, trusted)
    return findings + await _keys(conn, settings, place)


def _difference(shipped: _Shipped, installed: asyncpg.Record | None) -> str | None:
    if installed is None:
        return "is missing"
    if shipped.body is None:
        return "has another body than this release installs" if installed["body"] else None
    if installed["body"] != shipped.body:
        return "has another body than this release installs"
    if installed["definer"] != shipped.definer or (shipped.fixed and not installed["fixed"]):
        return "has other properties than this release installs (SECURITY DEFINER, search_path)"
    return None


async def _trusted(conn: asyncpg.Connection, place: AuditPlace, is_there: bool) -> list[DoctorFinding]:
    where = {"server": place.server, "database": place.database, "object": PARAMETER}
    if not is_there:
        return [found("TPD117", **where, detail="it is not installed in this database")]
    if not await conn.fetchval("SELECT has_parameter_privilege('tenantproxy_keeper', $1, 'SET')", PARAMETER):
        return [found("TPD117", **where, detail=f"the keeper may not set {PARAMETER}", sql=(GRANT,))]
    return []


async def _keys(conn: asyncpg.Connection, settings: Settings, place: AuditPlace) -> list[DoctorFinding]:
    where = {"server": place.server, "database": place.database}
    if not await conn.fetchval(_MAY_READ_KEYS):
        return [found("TPD003", **where, detail="whether the stored keys are the configured ones")]
    wanted = {
        kid: _print(derive_key(secret.read_bytes(), server=place.server, database=place.database, kid=kid))
        for kid, secret in settings.row.keys().items()
    }
    stored = {row["kid"]: row["print"] for row in await conn.fetch(_KEYS)}
    return [*_compared(wanted, stored, where)]


def _compared(
    wanted: Mapping[int, bytes], stored: Mapping[int, bytes], where: Mapping[str, str]
) -> Iterator[DoctorFinding]:
    for kid, print_ in wanted.items():
        if stored.get(kid) != print_:
            detail = "is not stored in this database" if kid not in stored else "is stored with another value"
            yield found("TPD115", **where, object=str(kid), detail=detail)
    for kid in stored.keys() - wanted.keys():
        yield found("TPD116", **where, object=str(kid), sql=(_FORGET.format(kid),))


def _print(key: bytes) -> bytes:
    return hashlib.sha256(b"".join(key_pads(key))).digest()
