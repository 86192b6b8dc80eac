"""BuildFlow's service: agencies are founded, people log in, and each works in the database of its own agency.

`TENANTPROXY_CONFIG` is the path of the configuration, `BUILDFLOW_PLATFORM_KEY_FILE` a file with the key that the
platform's own staff send as `X-Platform-Key`: by default tenantproxy.toml and secrets/platform_key next to it.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import re
import uuid
from pathlib import Path
from typing import Any

from aiohttp import web

from tenantproxy import Router, current
from tenantproxy.auth.passwords import Passwords
from tenantproxy.auth.tokens import Tokens
from tenantproxy.lifecycle.access import admin_connection
from tenantproxy.lifecycle.provision import FirstAdmin, ProvisioningFailed, SagaState, first_admin
from tenantproxy.middleware.aiohttp import setup

_KEYS = uuid.UUID("5b0c1f0e-6a1d-4c0e-9a50-6f4b3f8f2c11")  # the agencies of Idempotency-Keys have ids in it
_LONGEST_KEY = 200
_DOMAIN = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,38}[a-z0-9])?")
_MONITOR = """
select d.datname as database, pg_database_size(d.oid) as bytes,
       (select count(*) from pg_stat_activity as s where s.datid = d.oid) as connections
from pg_database as d where d.datname = any($1::text[]) order by 2 desc, 1"""


def database_name(domain: str, agency: uuid.UUID) -> str:
    """agency_<domain>_<uuid8>."""
    return f"agency_{re.sub('[^a-z0-9]', '_', domain)}_{agency.hex[:8]}"


class Agencies:
    """What the platform itself does, with the key of its staff."""

    def __init__(self, router: Router, key: str) -> None:
        self._router, self._key = router, key
        self._passwords = Passwords()

    async def found(self, request: web.Request) -> web.Response:
        """`POST /api/agencies`: its record, its database with the whole schema, its first administrator.

        What a process that died had begun is gone on with: by the same `Idempotency-Key`, or without one by the same
        name and domain. With a key of before, an agency that is active is answered again (200).
        """
        self._check(request)
        body = await _body(request, "name", "domain", "adminEmail", "adminPassword")
        if not _DOMAIN.fullmatch(body["domain"]):
            raise _refused(web.HTTPBadRequest, "domain: lower-case letters, digits, dots and hyphens, at most 40")
        key = request.headers.get("Idempotency-Key", "")
        if len(key) > _LONGEST_KEY:
            raise _refused(web.HTTPBadRequest, f"Idempotency-Key: at most {_LONGEST_KEY} characters")
        admin = first_admin(body["adminEmail"], await self._passwords.hash(body["adminPassword"]))
        agency, status = await self._begun(uuid.uuid5(_KEYS, key) if key else uuid.uuid4(), body, has_key=bool(key))
        name = database_name(body["domain"], agency)
        answer = {"id": str(agency), "agencyDatabase": name}
        if status != "provisioning":
            return web.json_response(answer)
        await self._made(agency, name, admin)
        async with self._router.tenant(name).transaction() as conn:
            await conn.execute("UPDATE profiles SET agency_id = $1", agency)
            await conn.execute("UPDATE agency_settings SET agency_name = $1, domain = $2", body["name"], body["domain"])
        await self._router.main().execute("UPDATE agencies SET status = 'active' WHERE id = $1", agency)
        return web.json_response(answer, status=201)

    async def _begun(self, new: uuid.UUID, body: dict[str, str], *, has_key: bool) -> tuple[uuid.UUID, str]:
        """The agency that is to be made, or goes on to be, and its status. Raises HTTPConflict: it is another one."""
        main = self._router.main()
        await main.execute(
            "INSERT INTO agencies (id, name, domain, database_name) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            new, body["name"], body["domain"], database_name(body["domain"], new),
        )  # fmt: skip
        found = await main.fetch(
            "SELECT id, name, domain, status FROM agencies WHERE id = $1 OR domain = $2", new, body["domain"]
        )
        same = [row for row in found if (row["name"], row["domain"]) == (body["name"], body["domain"])]
        if len(found) != 1 or not same or (has_key and same[0]["id"] != new):
            raise _refused(web.HTTPConflict, "an agency has this domain already, or this key was another request's")
        if not has_key and same[0]["status"] != "provisioning":
            raise _refused(web.HTTPConflict, "an agency has this domain already")
        return same[0]["id"], same[0]["status"]

    async def _made(self, agency: uuid.UUID, name: str, admin: FirstAdmin) -> None:
        """Its tenant. The saga has the agency as its key: one that was interrupted is gone on with.

        What fails and is undone takes its record with it, now or, where the process died before, at the next try.
        """
        lifecycle, cause = self._router.lifecycle, None
        try:
            saga = await lifecycle.create(lifecycle.wanted(name), key=str(agency), admin=admin)
        except ProvisioningFailed as exc:
            saga, cause = exc.saga, exc
        if saga.state is SagaState.CLEANED:
            await self._router.main().execute("DELETE FROM agencies WHERE id = $1 AND status = 'provisioning'", agency)
            if cause is None:
                raise _refused(web.HTTPConflict, "it could not be made, and nothing is left: send it with another key")
        if cause is not None:
            raise cause

    async def monitor(self, request: web.Request) -> web.Response:
        """`GET /api/agencies`: each with the size of its database and the connections to it."""
        self._check(request)
        agencies = await self._router.main().fetch("SELECT id, name, database_name, status FROM agencies ORDER BY name")
        settings = self._router.settings  # the service's own role sees the sizes of what it may enter alone
        async with admin_connection(settings, settings.main.server, settings.main.database) as conn:
            rows = await conn.fetch(_MONITOR, [row["database_name"] for row in agencies])
        use = {row["database"]: {"bytes": row["bytes"], "connections": row["connections"]} for row in rows}
        found = [
            {"id": str(row["id"]), "name": row["name"], "agencyDatabase": row["database_name"],
             "status": row["status"], **use.get(row["database_name"], {})}
            for row in agencies
        ]  # fmt: skip
        return web.json_response({"count": len(found), "agencies": found})

    def _check(self, request: web.Request) -> None:
        given = request.headers.get("X-Platform-Key", "")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise _refused(web.HTTPUnauthorized, "the key of the platform is needed: X-Platform-Key")

    async def close(self, app: web.Application) -> None:
        """At the end of the application."""
        self._passwords.close()


class People:
    """Who logs in."""

    def __init__(self, router: Router, tokens: Tokens) -> None:
        self._router, self._tokens = router, tokens

    async def log_in(self, request: web.Request) -> web.Response:
        """`POST /api/auth/login`: which agency the account is in is found; the token names it as `agencyDatabase`."""
        body = await _body(request, "email", "password", optional=("agencyDatabase",))
        accounts = await self._router.login(
            body["email"], body["password"], address=request.remote, tenant=body.get("agencyDatabase")
        )
        if len(accounts) > 1:
            return web.json_response({"agencies": [account.tenant for account in accounts]}, status=300)
        account = accounts[0]
        tenant = await self._tokens.look_up(account.tenant)
        token = self._tokens.issue(tenant=tenant, user=account.user, role=str(account.claims["role"]))
        return web.json_response({"token": token, "agencyDatabase": account.tenant})


async def projects(request: web.Request) -> web.Response:
    """`GET /api/projects`: those of the agency, with the name of the client."""
    rows = await current().fetch(
        "SELECT p.id, p.name, p.status, c.company_name FROM projects AS p LEFT JOIN clients AS c ON c.id = p.client_id"
        " ORDER BY p.name"
    )
    return web.json_response([{**row, "id": str(row["id"])} for row in rows])


async def new_project(request: web.Request) -> web.Response:
    """`POST /api/projects`."""
    body = await _body(request, "name")
    found = await current().fetchval("INSERT INTO projects (name) VALUES ($1) RETURNING id", body["name"])
    return web.json_response({"id": str(found)}, status=201)


def make_app(router: Router, platform_key: str) -> web.Application:
    """The application; the router is opened and closed with it."""
    tokens = Tokens(router.settings.auth, tenants=router.registry)
    agencies, people = Agencies(router, platform_key), People(router, tokens)
    app = web.Application()
    app.add_routes([
        web.post("/api/agencies", agencies.found),
        web.get("/api/agencies", agencies.monitor),
        web.post("/api/auth/login", people.log_in),
        web.get("/api/projects", projects),
        web.post("/api/projects", new_project),
    ])  # fmt: skip
    setup(app, router=router, tokens=tokens)
    app.on_cleanup.append(agencies.close)
    return app


def _refused(kind: type[web.HTTPError], text: str) -> web.HTTPError:
    return kind(text=text)


async def _body(request: web.Request, *needed: str, optional: tuple[str, ...] = ()) -> dict[str, str]:
    """The strings of a JSON object. Raises HTTPBadRequest that names what is missing."""
    try:
        body: Any = await request.json()
    except ValueError:
        raise _refused(web.HTTPBadRequest, "the body is no JSON") from None
    if not isinstance(body, dict):
        raise _refused(web.HTTPBadRequest, "the body is no JSON object")
    found = {name: body[name] for name in (*needed, *optional) if isinstance(body.get(name), str)}
    if missing := [name for name in needed if not found.get(name)]:
        raise _refused(web.HTTPBadRequest, f"missing: {', '.join(missing)}")
    return found


async def _main() -> web.Application:
    config = Path(os.environ.get("TENANTPROXY_CONFIG", "tenantproxy.toml"))
    key = Path(os.environ.get("BUILDFLOW_PLATFORM_KEY_FILE", config.parent / "secrets" / "platform_key"))
    text = (await asyncio.to_thread(key.read_text)).strip()
    if not text:
        raise SystemExit(f"{key} is empty: write a key into it, openssl rand -hex 32")
    return make_app(Router.from_file(config), text)


if __name__ == "__main__":
    web.run_app(_main(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
