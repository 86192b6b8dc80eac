"""What is asked of a running sidecar about one tenant or person, by its admin listener; each returns plain values."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import quote

from tenantproxy.cli.read import ask
from tenantproxy.config import Secret

__all__ = ["end_sessions", "pool_of", "sessions", "stop"]


def pool_of(url: str, token: Secret | None, tenant: str) -> dict[str, Any]:
    """What a tenant holds there: its pools, leases and clients."""
    found: dict[str, Any] = ask(_address(url, "pools", tenant), token)
    return found


def stop(url: str, token: Secret | None, tenant: str, verb: str) -> dict[str, Any]:
    """Evict, pause, resume, drain or kill a tenant there; a row that says what has come of it."""
    group = "tenants" if verb == "evict" else "pools"
    answer = ask(_address(url, group, tenant, verb), token, method="POST")
    return {"tenant": tenant, "state": _STATES[verb], **{name: answer[name] for name in ("idle",) if name in answer}}


_STATES: Final = {
    "evict": "evicted", "pause": "paused", "resume": "resumed", "drain": "draining", "kill": "killed"
}  # fmt: skip


def sessions(url: str, token: Secret | None, tenant: str, user: str) -> list[dict[str, Any]]:
    """The sessions of a person, the newest first."""
    found: list[dict[str, Any]] = ask(_address(url, "tenants", tenant, "users", user, "sessions"), token)["sessions"]
    return found


def end_sessions(url: str, token: Secret | None, tenant: str, user: str, session: str | None) -> int:
    """End them, or one of them; how many were ended."""
    parts = ("tenants", tenant, "users", user, "sessions", *([] if session is None else [session]))
    return int(ask(_address(url, *parts), token, method="DELETE")["ended"])


def _address(url: str, *parts: str) -> str:
    return "/".join([url.rstrip("/"), "v1", *(quote(part, safe="") for part in parts)])
