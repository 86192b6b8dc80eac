"""What do the reading commands read? The registry, a tenant's rows, a running sidecar; each returns plain values."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from tenantproxy.cli.output import progress_bar
from tenantproxy.config import Admin, Secret, Settings, listen_address
from tenantproxy.config.problems import nearest
from tenantproxy.errors import ConfigurationError, Problem, TenantNotFound, TenantProxyError
from tenantproxy.lifecycle.live_check import check_live
from tenantproxy.model import Tenant, TenantStatus, tenant_id
from tenantproxy.registry import FileRegistry, Registry, unusable
from tenantproxy.registry.unusable import TellsUnusable
from tenantproxy.router import Router

__all__ = [
    "admin_url",
    "ask",
    "change",
    "for_readers",
    "live",
    "may_have_token",
    "pools",
    "raw_pools",
    "servers",
    "sql",
    "tenant",
    "tenants",
    "unusable_tenants",
    "workers",
]

_TIMEOUT: Final = 5.0
_LONG_TIMEOUT: Final = 120.0  # for a new process to be ready, and each worker to be started again
_COMPARED: Final = 10_000  # tenants whose names are compared with one that is unknown


async def tenants(settings: Settings, status: TenantStatus | None) -> tuple[list[dict[str, Any]], int]:
    """All registered tenants (in `status`), a row each, and how many entries cannot be used."""
    async with _registry(settings) as registry:
        found = [_row(each) async for each in registry.tenants(status=status)]
        return found, len(registry.unusable) if isinstance(registry, TellsUnusable) else 0


async def unusable_tenants(settings: Settings) -> list[dict[str, Any]]:
    """The entries of the registry that cannot be used, and why."""
    async with _registry(settings) as registry:
        return [{"id": name, "reason": reason} for name, reason in sorted((await unusable(registry)).items())]


async def tenant(settings: Settings, name: str) -> dict[str, Any]:
    """Everything about one tenant."""
    async with _registry(settings) as registry, _near(registry, name):
        found = await registry.get(tenant_id(name))
    limits = {
        "max_size": found.limits.max_size,
        "max_waiting": found.limits.max_waiting,
        "acquire_timeout": found.limits.acquire_timeout,
    }
    return {
        **_row(found),
        "region": found.region,
        "limits": {key: value for key, value in limits.items() if value is not None},
        "epoch": found.epoch,
        "settings": dict(found.settings),
        "systems": dict(found.systems),
    }


@asynccontextmanager
async def _registry(settings: Settings) -> AsyncIterator[Registry]:
    """The configured registry; when it is the file itself, no server is needed to read it."""
    if settings.registry.source == "file":
        registry = FileRegistry(settings)
        await registry.open()
        try:
            yield registry
        finally:
            await registry.close()
    else:
        async with Router(settings) as router:
            yield router.registry


@asynccontextmanager
async def _near(registry: Registry, name: str) -> AsyncIterator[None]:
    """Say which tenant was probably meant, where none has that name: an operator may know them all."""
    try:
        yield
    except TenantNotFound as exc:
        known = []
        async for each in registry.tenants():
            known.append(each.id)
            if len(known) >= _COMPARED:
                break
        close = nearest(name, known)
        if close is None:
            raise
        hint = f"did you mean {close}? Identifiers are compared byte for byte"
        raise TenantNotFound(exc.message, detail=exc.detail, hint=hint) from None


def _row(tenant: Tenant) -> dict[str, Any]:
    place = tenant.placement
    return {
        "id": tenant.id,
        "isolation": place.isolation.value,
        "status": tenant.status.value,
        "server": place.server,
        "database": place.database,
        "schema": place.schema,
        "role": place.role,
        "tier": tenant.tier,
    }


async def sql(settings: Settings, name: str, statement: str, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """The first `limit` rows of `statement`, run as the tenant in a transaction, and whether there are more."""
    async with (
        Router(settings) as router,
        _near(router.registry, name),
        router.tenant(name).transaction() as conn,
    ):
        prepared = await conn.prepare(statement)
        columns = _distinct([attribute.name for attribute in prepared.get_attributes()])
        if not columns:
            await prepared.fetch()
            return [{"status": prepared.get_statusmsg()}], False
        rows = await (await prepared.cursor()).fetch(limit + 1)
    return [dict(zip(columns, row.values(), strict=True)) for row in rows[:limit]], len(rows) > limit


def _distinct(names: list[str]) -> list[str]:
    """`names` with a number behind those that came before: `select 1, 2` has two columns of one name."""
    return [f"{name}_{names[:i].count(name) + 1}" if name in names[:i] else name for i, name in enumerate(names)]


_COUNTS: Final = ("limit", "idle", "used", "opening", "resetting", "retiring", "lingering", "waiting")


async def live(settings: Settings) -> list[dict[str, Any]]:
    """What a look at every server and database says, a row each; progress is shown on a terminal's stderr."""
    with progress_bar() as bar:
        task = bar.add_task("connecting", total=None)
        findings = await check_live(
            settings, progress=lambda done, total: bar.update(task, completed=done, total=total)
        )
    return [asdict(finding) for finding in findings]


def pools(url: str, token: Secret | None = None) -> list[dict[str, Any]]:
    """The open pools of the sidecar whose admin listener is at `url`, asked with its admin token."""
    rows: list[dict[str, Any]] = []
    for pool in raw_pools(url, token):
        counts = {name: pool[name] for name in _COUNTS}
        rows.append(
            {"pool": pool["label"], "server": pool["key"]["server"], "database": pool["key"]["database"], **counts}
        )
    return rows


def raw_pools(url: str, token: Secret | None = None) -> list[dict[str, Any]]:
    """The same as the listener tells them."""
    found: list[dict[str, Any]] = ask(f"{url.rstrip('/')}/v1/pools", token)["pools"]
    return found


def servers(url: str, token: Secret | None = None) -> list[dict[str, Any]]:
    """The servers of that sidecar, and what of their budgets is taken."""
    found: list[dict[str, Any]] = ask(f"{url.rstrip('/')}/v1/servers", token)["servers"]
    return found


def for_readers(pools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of `pools` in columns that 80 characters hold."""
    return [
        {
            "pool": row["pool"] if "/" in row["pool"] else f"{row['pool']} ({row['server']}/{row['database']})",
            **{name: row[name] for name in ("used", "limit", "idle")},
            "changing": row["opening"] + row["resetting"] + row["retiring"],
            "waiting": row["waiting"],
        }
        for row in pools
    ]


def admin_url(settings: Settings) -> str:
    """Where the configured admin listener is. Raises ConfigurationError when that does not say."""
    host, port = listen_address(settings.admin.listen) if settings.admin.listen else ("", 0)
    if not port:
        problem = Problem(
            key="admin.listen", problem="names no fixed port", fix="name one, or say --url http://host:port"
        )
        raise ConfigurationError([problem])
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    scheme = "https" if settings.admin.ssl_cert_file else "http"  # verified, by the authorities of the system
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def may_have_token(url: str, admin: Admin) -> bool:
    """Whether the configured token is for the listener at `url`: on this machine, or at a host that [admin] names.

    Any other address gets it only where the operator says so: it may be a mistyped one, or another person's.
    """
    host = _host_of(url)
    named = {name.lower() for name in admin.hosts} | {"localhost"}
    if admin.listen:
        named.add(listen_address(admin.listen)[0].lower())
    return host in named - _EVERY or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _host_of(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    host = parts.hostname
    if not host or parts.scheme not in ("http", "https") or parts.username is not None:
        raise TenantProxyError(f"{url} is not an http address", hint="say --url http://host:port")
    return host


_EVERY: Final = frozenset({"0.0.0.0", "::"})  # a listener's way to say every address, and no client's


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A token is for the address that the operator named."""

    def redirect_request(self, *_: object) -> None:
        return None


# No proxy of the environment's either: the token is not for it.
_OPENER: Final = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))


def change(url: str, token: Secret | None, verb: str) -> dict[str, Any]:
    """Ask the sidecar whose admin listener is at `url` to `reload`, `upgrade` or `restart`; its answer."""
    found: dict[str, Any] = ask(f"{url.rstrip('/')}/v1/{verb}", token, method="POST")
    return found


def workers(url: str, token: Secret | None) -> list[dict[str, Any]]:
    """A row for each worker of the sidecar whose admin listener is at `url`."""
    found: list[dict[str, Any]] = ask(f"{url.rstrip('/')}/v1/workers", token)["workers"]
    return found


def ask(url: str, token: Secret | None, *, method: str = "GET") -> Any:
    """What the admin listener answers. Raises TenantProxyError, in the listener's own words where it has some."""
    _host_of(url)
    headers = {} if token is None else {"Authorization": f"Bearer {token.read()}"}
    asked = urllib.request.Request(url, headers=headers, data=b"" if method == "POST" else None, method=method)
    try:
        with _OPENER.open(asked, timeout=_TIMEOUT if method == "GET" else _LONG_TIMEOUT) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            raise (_problem(exc) if exc.code not in (401, 403) or method != "GET" else None) or TenantProxyError(
                f"the sidecar at {url} answers {exc.code}",
                detail=exc.reason,
                hint="see [admin] token_file and hosts, here and where it runs, or say --token-file",
            ) from None
    except urllib.error.URLError as exc:
        raise TenantProxyError(f"no sidecar answers at {url}", detail=str(exc.reason), hint="is it running?") from exc
    except ValueError:  # its text may quote the token
        raise TenantProxyError(f"what answers at {url} is not tenantproxy's admin listener") from None


def _problem(answer: urllib.error.HTTPError) -> TenantProxyError | None:
    """What problem+json says; None: it is none."""
    try:
        said = json.load(answer)
        return TenantProxyError(str(said["title"]), detail=said.get("detail"), hint=said.get("hint"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
