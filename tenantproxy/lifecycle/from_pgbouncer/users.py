"""Who may log in by a pgbouncer.ini, and to what? Pure."""

from __future__ import annotations

from dataclasses import replace

from tenantproxy.lifecycle.from_pgbouncer.ini import Ini
from tenantproxy.lifecycle.from_pgbouncer.settings import NONE_HERE
from tenantproxy.lifecycle.from_pgbouncer.values import Remark, TenantPart, UserPart

__all__ = ["users_of", "with_reach"]


def _names(ini: Ini, setting: str) -> frozenset[str]:
    return frozenset(name.strip() for name in ini.settings.get(setting, "").split(",") if name.strip())


def users_of(ini: Ini) -> tuple[tuple[UserPart, ...], list[Remark]]:
    """All users of the auth_file, of [users] and of the console, with what their passwords are."""
    admins, readers = _names(ini, "admin_users"), _names(ini, "stats_users")
    remarks: list[Remark] = []
    how = ini.settings.get("auth_type", "md5")
    if how in ("any", "trust"):
        text = "lets in who says a name; here each user proves who it is: give passwords"
        remarks.append(Remark("auth_type", "decide", text))
    elif how in ("pam", "ldap"):
        remarks.append(Remark("auth_type", "decide", f"there is no {how} here: a password, a certificate, or a token"))
    elif how == "hba":
        remarks.append(Remark("auth_type", "decide", NONE_HERE["auth_hba_file"]))
    else:
        said = "a certificate (cert = true)" if how == "cert" else "SCRAM-SHA-256"
        remarks.append(Remark("auth_type", "same" if "scram" in how or how == "cert" else "other", said))
    if ini.settings.get("auth_file") and not ini.accounts:
        remarks.append(Remark("auth_file", "decide", "is not there, or holds no user: add [pg.users.NAME] yourself"))
    parts = []
    for name in sorted({*ini.accounts, *ini.users, *admins, *readers}):
        own = ini.users.get(name, {})
        secret = ini.accounts.get(name, "")
        verifier = secret if secret.startswith("SCRAM-SHA-256$") else None
        is_md5 = secret.startswith("md5") and len(secret) == 35
        password = secret if secret and verifier is None and not is_md5 else None
        if verifier is None and password is None and how != "cert":
            why = (
                "an md5 hash is as good as the password, and is not taken" if is_md5 else "has no password in auth_file"
            )
            remarks.append(
                Remark(f"user {name}", "decide", f"{why}: put one into the file that its password_file names")
            )
        mode, remark = _mode(own.get("pool_mode") or ini.settings.get("pool_mode", "session"), f"user {name}")
        remarks += remark
        limit = own.get("max_user_client_connections", "")
        parts.append(
            UserPart(
                name=name,
                verifier=verifier,
                password=password,
                pool_mode=mode,
                max_clients=int(limit) if limit.isdigit() else None,
                console=True if name in admins else "read" if name in readers else False,
                cert=how == "cert",
            )
        )
        if "max_user_connections" in own:
            remarks.append(Remark(f"user {name}", "decide", NONE_HERE["max_user_connections"]))
    return tuple(parts), remarks


def with_reach(
    ini: Ini, users: tuple[UserPart, ...], tenants: tuple[TenantPart, ...]
) -> tuple[tuple[UserPart, ...], list[Remark]]:
    """Who reaches what. Where clients logged in as themselves, PostgreSQL decided, and here one role serves all.

    So those databases are opened to none of them, until the operator says to whom.
    """
    forced = tuple(tenant.id for tenant in tenants if "user" in ini.databases[tenant.id])
    if len(forced) == len(tenants):
        return users, []
    text = "PostgreSQL decided by a client's own role who reaches the databases without user=: name them in tenants"
    return (
        tuple(replace(user, tenants=forced) for user in users),
        [Remark(f"user {user.name}", "decide", text) for user in users],
    )


def _mode(given: str, whose: str) -> tuple[str, list[Remark]]:
    if given == "statement":
        text = "pool_mode = statement is transaction here: a transaction of several statements is not refused"
        return "transaction", [Remark(whose, "other", text)]
    return ("transaction" if given == "transaction" else "session"), []
