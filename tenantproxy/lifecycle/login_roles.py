"""What is still to be done until a role may log in with its password, and can do nothing else?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from tenantproxy.errors import Problem
from tenantproxy.lifecycle.change import Change, ChangePlan
from tenantproxy.model import quote_identifier
from tenantproxy.wire.scram import Verifier

__all__ = ["PasswordCheck", "plan_login"]

PasswordCheck = Callable[[str, str], Awaitable[bool]]
"""Whether a role logs in with a password; asked where the verifiers of a server cannot be read."""

_ROLE: Final = """
SELECT r.oid IS NOT NULL AS exists, me.rolname::text AS user,
  coalesce(r.rolsuper OR r.rolbypassrls OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication, false) AS mighty,
  coalesce(r.rolcanlogin AND NOT r.rolinherit, false) AS fits, me.rolsuper AS is_super,
  me.rolsuper OR me.rolcreaterole AS may_create,
  me.rolsuper OR me.rolcreaterole AND (current_setting('server_version_num')::int < 160000
    OR r.oid IS NOT NULL AND pg_has_role(me.oid, r.oid, 'MEMBER WITH ADMIN OPTION')) AS may_alter,
  ARRAY(SELECT pg_get_userbyid(m.roleid)::text FROM pg_auth_members m WHERE m.member = r.oid ORDER BY 1) AS member_of
FROM pg_roles me LEFT JOIN pg_roles r ON r.rolname = $1 WHERE me.rolname = current_user
"""


async def plan_login(
    conn: asyncpg.Connection, role: str, password: str | None, check: PasswordCheck, *, keep_password: bool = False
) -> ChangePlan:
    """The plan of one role: LOGIN NOINHERIT, no more rights, and `password` (None: it has another way to log in).

    Only verifiers of passwords are sent. `keep_password`: that of a role which exists already is the operator's.
    """
    row = await conn.fetchrow(_ROLE, role)
    assert row is not None
    name = quote_identifier(role)
    if row["mighty"]:
        problem = "is superuser, bypasses row security, or may create roles, create databases or replicate"
        return ChangePlan(problems=(Problem(key=f"role {role}", problem=problem, fix="choose another role"),))
    user, changes, missing = f"user {row['user']}", [], []
    if not row["exists"]:
        secret = f" PASSWORD '{Verifier.of_password(password).text()}'" if password else ""
        changes.append(Change(what=f"role {name}", sql=f"CREATE ROLE {name} LOGIN NOINHERIT{secret}"))
        if not row["may_create"]:
            fix = f"ALTER ROLE {quote_identifier(row['user'])} CREATEROLE"
            missing.append(Problem(key=user, problem="may not create roles", fix=fix))
        return ChangePlan(changes=tuple(changes), missing=tuple(missing))
    if not row["fits"]:
        what = f"role {name}: it logs in, and has no right of the roles it is a member of"
        changes.append(Change(what=what, sql=f"ALTER ROLE {name} LOGIN NOINHERIT"))
    if password and not keep_password and not await _has_password(conn, role, password, check, row["is_super"]):
        sql = f"ALTER ROLE {name} PASSWORD '{Verifier.of_password(password).text()}'"
        changes.append(Change(what=f"role {name}: password", sql=sql))
    if changes and not row["may_alter"]:
        fix = f"GRANT {name} TO {quote_identifier(row['user'])} WITH ADMIN OPTION (and CREATEROLE), or name a superuser"
        missing.append(Problem(key=user, problem=f"may not change the role {name}", fix=fix))
    others = ", ".join(row["member_of"])
    notes = [f"role {name} is a member of {others}: with SET ROLE it reaches what they reach"] if others else []
    return ChangePlan(changes=tuple(changes), notes=tuple(notes), missing=tuple(missing))


async def _has_password(
    conn: asyncpg.Connection, role: str, password: str, check: PasswordCheck, is_super: bool
) -> bool:
    if not is_super:
        return await check(role, password)
    stored = await conn.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", role)
    try:
        return stored is not None and Verifier.parse(stored).matches(password)
    except ValueError:  # an MD5 hash, from before SCRAM
        return False
