"""Does the trusted form hold on this server and database? What is asked at connect, and what the answer means. Pure."""

from __future__ import annotations

from typing import Final

from tenantproxy.errors import IsolationError
from tenantproxy.model import PoolKey

__all__ = ["CHECK", "not_trusted"]

# One word, so that each side reads it alike. A value of our form that is there at the start comes back at every reset.
# 10 is the superuser that initdb made, to whom each parameter belongs.
CHECK: Final = """
SELECT CASE
  WHEN pg_catalog.current_setting('backtrace_functions') COLLATE "C" BETWEEN '0' AND ':' THEN 'preset'
  WHEN pg_catalog.to_regprocedure('tenantproxy.trust(text,integer,bigint,text,bigint,boolean)') IS NULL THEN 'missing'
  WHEN NOT pg_catalog.has_parameter_privilege('tenantproxy_keeper', 'backtrace_functions', 'SET') THEN 'forbidden'
  WHEN pg_catalog.has_parameter_privilege('backtrace_functions', 'SET')
    OR EXISTS (SELECT FROM pg_catalog.pg_parameter_acl p, pg_catalog.aclexplode(p.paracl) a
      LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee AND r.rolname = 'tenantproxy_keeper'
      WHERE p.parname = 'backtrace_functions' AND a.grantee <> 10 AND (a.is_grantable OR r.oid IS NULL)) THEN 'open'
  ELSE 'trusted' END
"""

_WRONG: Final = {
    "preset": (
        "every session of this database begins as a tenant: backtrace_functions is set for it",
        "ALTER DATABASE, ALTER ROLE or postgresql.conf sets it: take that off",
    ),
    "missing": (
        "the trusted form of [row] is not installed in this database",
        'run `tenantproxy install --config FILE` as a superuser, or set [row] form = "bound"',
    ),
    "forbidden": (
        "the keeper may not set backtrace_functions, which the trusted form of [row] needs",
        'as a superuser: GRANT SET ON PARAMETER backtrace_functions TO tenantproxy_keeper; or [row] form = "bound"',
    ),
    "open": (
        "others than the keeper may set backtrace_functions, and so be any tenant",
        "REVOKE ALL ON PARAMETER backtrace_functions FROM each of them (pg_parameter_acl)",
    ),
}


def not_trusted(key: PoolKey, answer: object) -> IsolationError | None:
    """Why sessions of the trusted form cannot be told apart here; None: they can. `answer`: to CHECK."""
    if answer == "trusted":
        return None
    message, hint = _WRONG.get(str(answer), ("the server does not tell whether the trusted form holds", "see its log"))
    return IsolationError(message, detail=f"server {key.server!r}, database {key.database!r}", hint=hint)
