"""What can be asked of the admin listener, and which role does each of it need? One table; the rest follows from it.

The gate looks a request up here, and `/v1/openapi.json` is made of it. A route that is not here needs the role admin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tenantproxy.sidecar.admin_roles import Role

__all__ = ["INDEX", "ROUTES", "AdminRoute", "Given", "route_for"]

INDEX: Final = "page"
"""The name of the page's route: all others are under its path."""

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A member of a query or of a body, and the JSON schema of its value."""

    name: str
    schema: Schema
    needed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminRoute:
    """A method and a path, as aiohttp writes it. `role` None: no token is asked for.

    `any_host`: for probes, which address the listener as they like. `says`: what it answers. `changes`: each request is
    written to the audit log. `codes`: what is answered besides what any route may be.
    """

    method: str
    path: str
    role: Role | None
    says: str
    any_host: bool = False
    query: tuple[Given, ...] = ()
    body: tuple[Given, ...] | None = None
    codes: tuple[int, ...] = (200,)
    content: str = "application/json"

    @property
    def changes(self) -> bool:
        """Whether it changes anything."""
        return self.method != "GET"


_TEXT: Final[Schema] = {"type": "string"}
_FLAG: Final[Schema] = {"type": "boolean"}
_STATUSES: Final = ("provisioning", "active", "paused", "suspended", "inactive", "deleting")
_KINDS: Final[Schema] = {"type": "string", "enum": ["database", "schema", "row"]}
_ID: Final = Given(name="id", schema=_TEXT, needed=True)
_TEXTS: Final[Schema] = {"type": "array", "items": _TEXT}
_KEPT: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 100_000}
_DRY_RUN: Final = Given(name="dry_run", schema=_FLAG)
_REFUSED: Final = (400, 404, 409, 415, 422)
_OPERATION: Final = (200, 202)  # over, or dry; begun


def _get(path: str, says: str, *, codes: tuple[int, ...] = (200,), query: tuple[Given, ...] = ()) -> AdminRoute:
    return AdminRoute(method="GET", path=path, role=Role.READ, says=says, codes=codes, query=query)


def _post(
    path: str, role: Role, says: str, *body: Given, made: tuple[int, ...] = (200,), method: str = "POST"
) -> AdminRoute:
    return AdminRoute(method=method, path=path, role=role, says=says, body=body, codes=(*made, *_REFUSED))


def _verb(verb: str, role: Role, says: str, *body: Given, made: tuple[int, ...] = (200,)) -> AdminRoute:
    return _post(f"/v1/tenants/{{tenant}}/{verb}", role, says, *body, made=made)


ROUTES: Final = (
    # --- health and metrics
    AdminRoute(
        method="GET", path="/livez", role=None, any_host=True, says="Whether it is alive", content="text/plain"
    ),
    AdminRoute(
        method="GET", path="/readyz", role=None, any_host=True, says="Whether traffic may come", codes=(200, 503),
        content="text/plain", query=(Given(name="verbose", schema=_TEXT),),
    ),
    AdminRoute(method="GET", path="/metrics", role=Role.READ, says="What Prometheus reads", content="text/plain"),
    # --- what is
    _get("/v1/openapi.json", "This description"),
    _get("/v1/me", "The name and the role of the token that was sent"),
    _get("/v1/pools", "The open pools, and who holds and waits in them"),
    _get("/v1/pools/{tenant}", "Who holds and waits for connections of a tenant", codes=(200, 404)),
    _get(
        "/v1/pools/{tenant}/statements",
        "What runs on the connections of a tenant, without literals: asked of its servers", codes=(200, 404),
    ),
    _get("/v1/servers", "The servers and their budgets"),
    AdminRoute(
        method="GET", path="/v1/events", role=Role.READ, says="What the page shows, as it changes: server-sent events",
        content="text/event-stream", codes=(200, 503),
    ),
    _post("/v1/clients/{client}", Role.OPERATE, "End a client of the PostgreSQL port", method="DELETE"),
    _post(
        "/v1/pools/{tenant}/pause", Role.OPERATE,
        "Lend nothing to the tenant's clients of the port once what runs is over: they wait until it is resumed",
    ),
    _post("/v1/pools/{tenant}/resume", Role.OPERATE, "Lend to the tenant's clients of the port again"),
    _post(
        "/v1/pools/{tenant}/drain", Role.OPERATE,
        "Let the tenant's clients of the port go when nothing of them is under way, and close its connections; they may"
        " connect again at once",
    ),
    _post(
        "/v1/pools/{tenant}/kill", Role.OPERATE,
        "End the tenant's clients of the port and what runs for them now, and take none until it is resumed",
    ),
    # --- the page, which holds nothing of the service
    AdminRoute(method="GET", path="/", role=None, says="The operator page", content="text/html", codes=(200, 304)),
    AdminRoute(
        method="GET", path="/page/{file}", role=None, says="What the page is made of", content="text/css",
        codes=(200, 304, 404),
    ),
    # --- the process
    _post("/v1/reload", Role.ADMIN, "Take over the configuration as it is now, all or nothing"),
    _post("/v1/upgrade", Role.ADMIN, "Let a new process take over"),
    _post("/v1/drain", Role.ADMIN, "Take no more clients, let what runs end, and end the process, as SIGTERM does"),
    _get("/v1/workers", "The workers of the process; none where it serves by itself"),
    _post("/v1/restart", Role.ADMIN, "Start each worker again, one after the other"),
    _post(
        "/v1/workers/{worker}/restart", Role.ADMIN, "Start one worker again: a new one first, then this one drains"
    ),
    # --- tenants
    _get(
        "/v1/tenants", "The registered tenants, in pages", codes=(200, 400),
        query=(
            Given(name="limit", schema={"type": "integer", "minimum": 1, "maximum": 1000}),
            Given(name="after", schema=_TEXT),
            Given(name="status", schema={"type": "string", "enum": list(_STATUSES)}),
            Given(name="isolation", schema=_KINDS),
        ),
    ),
    _get("/v1/tenants/unfinished", "The tenants that are being made", codes=(200, 404, 409)),
    _get("/v1/tenants/{tenant}", "One tenant", codes=(200, 404)),
    _get("/v1/tenants/{tenant}/backups", "The finished backups of a tenant", codes=(200, 404, 409)),
    _post(
        "/v1/tenants", Role.ADMIN, "Make a tenant; the same Idempotency-Key finds the one that was made",
        _ID, Given(name="isolation", schema=_KINDS),
        *(Given(name=name, schema=_TEXT) for name in ("server", "tier", "region", "domain")), _DRY_RUN,
        made=(200, 201, 202),
    ),
    _post(
        "/v1/tenants/{tenant}", Role.ADMIN, "Delete a tenant: its id is repeated in the body",
        _ID, Given(name="grace_days", schema={"type": "number", "minimum": 0}), _DRY_RUN, method="DELETE",
        made=_OPERATION,
    ),
    _verb("suspend", Role.OPERATE, "Serve the tenant no longer", _DRY_RUN, made=_OPERATION),
    _verb("resume", Role.OPERATE, "Serve the tenant again", _DRY_RUN, made=_OPERATION),
    _verb("evict", Role.OPERATE, "Close the tenant's connections: idle ones now, lent ones when they come back"),
    _verb("undelete", Role.ADMIN, "Take back a deletion within its grace", _DRY_RUN, made=_OPERATION),
    _verb("finish", Role.ADMIN, "Go on with a tenant whose making was interrupted", made=_OPERATION),
    _verb("abandon", Role.ADMIN, "Remove what was made of a tenant", made=_OPERATION),
    _verb(
        "archive", Role.ADMIN, "Save a tenant and serve it no longer", Given(name="drop_place", schema=_FLAG), _DRY_RUN,
        made=_OPERATION,
    ),
    _verb("migrate", Role.ADMIN, "Apply the migrations", Given(name="to", schema=_TEXT), _DRY_RUN, made=_OPERATION),
    _verb(
        "move", Role.ADMIN, "Move a tenant to another server or kind",
        Given(name="server", schema=_TEXT), Given(name="isolation", schema=_KINDS),
        Given(name="drop_old", schema=_FLAG), _DRY_RUN, made=_OPERATION,
    ),
    _verb("backup", Role.ADMIN, "Save a tenant", made=_OPERATION),
    _verb("export", Role.ADMIN, "Write all that a tenant holds into a folder", _DRY_RUN, made=_OPERATION),
    _verb(
        "erase", Role.ADMIN, "Remove a tenant with its backups, for good: its id is repeated in the body",
        _ID, Given(name="keep_backups", schema=_FLAG), _DRY_RUN, made=_OPERATION,
    ),
    # --- all tenants at once, and what was asked for before
    _get(
        "/v1/operations", "The newest operations, in pages", codes=(200, 400, 409),
        query=(
            Given(name="limit", schema={"type": "integer", "minimum": 1, "maximum": 200}),
            Given(name="before", schema={"type": "integer", "minimum": 1, "maximum": 10**18 - 1}),
        ),
    ),
    _get("/v1/operations/{number}", "How far an operation is, and what came of it", codes=(200, 400, 404, 409)),
    _post(
        "/v1/operations/{number}/cancel", Role.OPERATE,
        "Let an operation end at its next safe step, whole or undone; one that removes something goes on",
        made=_OPERATION,
    ),
    _get("/v1/migrations", "The newest run of migrations", codes=(200, 409)),
    _post(
        "/v1/migrations", Role.ADMIN, "Bring tenants to a version, or back to one",
        Given(name="tenants", schema=_TEXTS), Given(name="to", schema=_TEXT), Given(name="back_to", schema=_TEXT),
        _DRY_RUN, made=_OPERATION,
    ),
    _get("/v1/backups", "The finished backups of all tenants", codes=(200, 409)),
    _post(
        "/v1/backups", Role.ADMIN, "Save tenants or the main database, all of them, or what the newest run has left",
        Given(name="tenants", schema=_TEXTS), Given(name="all", schema=_FLAG), Given(name="resume", schema=_FLAG),
        _DRY_RUN, made=_OPERATION,
    ),
    _post(
        "/v1/backups/verify", Role.ADMIN, "Try backups, or the newest of each tenant, one after the other",
        Given(name="backups", schema=_TEXTS), _DRY_RUN, made=_OPERATION,
    ),
    _post(
        "/v1/backups/prune", Role.ADMIN, "Remove old backups by the rules of [backup], or by others",
        Given(name="tenants", schema=_TEXTS), Given(name="keep", schema=_KEPT), Given(name="keep_days", schema=_KEPT),
        _DRY_RUN, made=_OPERATION,
    ),
    _post(
        "/v1/backups/{tenant}/{moment}/verify", Role.ADMIN, "Restore a backup into a scratch place and compare",
        made=_OPERATION,
    ),
    _post(
        "/v1/backups/{tenant}/{moment}/restore", Role.ADMIN, "Make a tenant of a backup",
        Given(name="as", schema=_TEXT), Given(name="server", schema=_TEXT), _DRY_RUN, made=_OPERATION,
    ),
    _post(
        "/v1/doctor", Role.ADMIN, "Look on every server whether isolation holds, and repair what is safe",
        *(Given(name=name, schema=_TEXTS) for name in ("servers", "tenants", "ignore")),
        Given(name="fix", schema=_FLAG), _DRY_RUN, made=_OPERATION,
    ),
    _post(
        "/v1/prove", Role.ADMIN, "Try to break isolation in this deployment",
        Given(name="tenants", schema=_TEXTS), Given(name="checks", schema=_TEXTS),
        Given(name="read_only", schema=_FLAG),
        Given(name="timeout", schema={"type": "number", "minimum": 1, "maximum": 600}), made=_OPERATION,
    ),
    *(
        _post(
            f"/v1/persons/{verb}", Role.ADMIN, says, Given(name="email", schema=_TEXT),
            Given(name="user", schema=_TEXT), Given(name="tenants", schema=_TEXTS), _DRY_RUN, made=_OPERATION,
        )
        for verb, says in (
            ("export", "Write what tenants hold of a person into a folder"),
            ("erase", "Erase what tenants hold of a person"),
        )
    ),
    # --- sessions of people
    _get(
        "/v1/tenants/{tenant}/users/{user}/sessions", "The sessions of a user, the newest first", codes=(200, 404, 409)
    ),
    _post(
        "/v1/tenants/{tenant}/users/{user}/sessions", Role.OPERATE, "End all sessions of a user", method="DELETE"
    ),
    _post(
        "/v1/tenants/{tenant}/users/{user}/sessions/{session}", Role.OPERATE, "End one session of a user",
        method="DELETE",
    ),
)  # fmt: skip
"""All of them. Roles: what only looks is for `read`; what stops or starts what is there, and harms nothing for good,
for `operate`; what makes, moves or removes, or works with the servers' admin credentials for long, for `admin`."""

_BY_KEY: Final[Mapping[tuple[str, str], AdminRoute]] = {(each.method, each.path): each for each in ROUTES}


def route_for(method: str, pattern: str, values: Mapping[str, str]) -> AdminRoute | None:
    """The entry for a route that matched with these `values`; None: it is in no table.

    The verb of `/v1/tenants/{tenant}/{verb}` is part of the path here: each has its own role.
    """
    path = pattern.replace("{verb}", values.get("verb", "{verb}"))
    return _BY_KEY.get(("GET" if method == "HEAD" else method, path))
