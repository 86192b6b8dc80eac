"""What the installation of our own things runs, as SQL that a database administrator can read and run with psql."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources

from tenantproxy.isolation.proof import key_pads
from tenantproxy.lifecycle.install import AUTH_FILES, CONTEXT_FILES, TRUSTED_FILE, check_setting, sql_file
from tenantproxy.lifecycle.trusted import GRANT
from tenantproxy.model import quote_identifier
from tenantproxy.registry.postgres import SCHEMA_SQL

__all__ = ["auth_sql", "context_sql", "registry_sql"]

_BEGIN = "BEGIN;\nSET LOCAL search_path = pg_catalog, pg_temp;\nSET LOCAL lock_timeout = '5s';\n"
_AS_KEEPER = "GRANT tenantproxy_keeper TO CURRENT_USER;\nSET LOCAL ROLE tenantproxy_keeper;\n"
_NO_LONGER = "RESET ROLE;\nREVOKE tenantproxy_keeper FROM CURRENT_USER;\n"


def context_sql(*, app_role: str, setting: str, keys: Mapping[int, bytes] | None, trusted: bool = False) -> str:
    """As `install.install`. `keys` are in it in clear; None leaves them out: proofs are refused until then.

    `trusted`: with the trusted form, for a superuser to run.
    """
    files = [sql_file(name, app=quote_identifier(app_role), setting=check_setting(setting)) for name in CONTEXT_FILES]
    if trusted:
        files += [f"{GRANT};\n", sql_file(TRUSTED_FILE, app=quote_identifier(app_role), setting=setting)]
    stored = "-- The keys are left out: they are secret. Add them with --with-keys.\n"
    if keys is not None:
        pads = [(kid, *key_pads(key)) for kid, key in keys.items()]
        values = ", ".join(f"({kid}, '\\x{ipad.hex()}', '\\x{opad.hex()}')" for kid, ipad, opad in pads)
        stored = (
            f"{_AS_KEEPER}SET LOCAL standard_conforming_strings = on;\n"
            f"INSERT INTO tenantproxy.context_key (kid, ipad, opad) VALUES {values}\n"
            "  ON CONFLICT (kid) DO UPDATE SET ipad = excluded.ipad, opad = excluded.opad, not_after = 'infinity';\n"
            f"{_NO_LONGER}"
        )
    return f"{_BEGIN}{''.join(files)}{stored}COMMIT;\n"


def registry_sql(*, app_role: str) -> str:
    """As `install.install_registry`."""
    reader = quote_identifier(app_role)
    ours = "".join(map(sql_file, ("sagas.sql", "migration_runs.sql", "operations.sql", "leaders.sql")))
    usage = f"{_BEGIN}{ours}{_AS_KEEPER}GRANT USAGE ON SCHEMA tenantproxy TO {reader};\n{_NO_LONGER}"
    return f"{_schema()}{SCHEMA_SQL}\n{usage}GRANT SELECT ON tenantproxy.tenants TO {reader};\nCOMMIT;\n"


def auth_sql(*, app_role: str) -> str:
    """As `install.install_auth`."""
    files = [resources.files("tenantproxy.auth").joinpath(name).read_text() for name in AUTH_FILES]
    filled = "\n".join(text.replace(':"app"', quote_identifier(app_role)) for text in files)
    return f"{_schema()}{_BEGIN}{filled}\nCOMMIT;\n"


def _schema() -> str:
    opened = f"{_AS_KEEPER}GRANT USAGE, CREATE ON SCHEMA tenantproxy TO SESSION_USER;\n{_NO_LONGER}"
    return f"{_BEGIN}{sql_file('keeper_role.sql')}{sql_file('keeper.sql')}{opened}COMMIT;\n"
