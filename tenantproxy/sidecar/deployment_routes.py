"""What does a program ask of all tenants at once? Migrations, backups, the audit, the proof, and persons' requests.

And of what it asked for before: operations. The rules are those of `admin_desk`.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from tenantproxy.lifecycle.backup import SaveRequest, StoredBackup
from tenantproxy.lifecycle.desk import Lifecycle
from tenantproxy.lifecycle.doctor.repair import audit_mapping
from tenantproxy.lifecycle.gdpr import Person, has_failed
from tenantproxy.lifecycle.operations import Finished, Progress
from tenantproxy.lifecycle.prove import CHECKS, Options
from tenantproxy.model import TenantStatus
from tenantproxy.sidecar.admin_desk import AdminDesk, operation_json, told
from tenantproxy.sidecar.bodies import body_of, idempotency_key, whole_number
from tenantproxy.sidecar.exports import export_folder
from tenantproxy.sidecar.tenant_json import (
    backup_json,
    migrated_json,
    outcome_json,
    saga_json,
    tried_json,
    wanted_json,
)

__all__ = ["DeploymentRoutes"]

_MAX_OPERATIONS: Final = 200
_HIGHEST: Final = 10**18 - 1
_MOST_KEPT: Final = 100_000
_BACKUP: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}/\d{8}T\d{6}Z-[0-9a-f]{8}")
_PERSON: Final = {"email": str, "user": str, "tenants": list, "dry_run": bool}


class DeploymentRoutes:
    """The handlers."""

    def __init__(self, desk: AdminDesk) -> None:
        self._desk = desk
        self._router = desk.router

    def routes(self) -> list[web.RouteDef]:
        """Of the admin listener."""
        return [
            web.get("/v1/operations", self.operations),
            web.get("/v1/operations/{number}", self.operation),
            web.post("/v1/operations/{number}/cancel", self.cancel),
            web.get("/v1/migrations", self.migrations),
            web.post("/v1/migrations", self.migrate),
            web.get("/v1/backups", self.backups),
            web.post("/v1/backups", self.save),
            web.post("/v1/backups/verify", self.verify_all),
            web.post("/v1/backups/prune", self.prune),
            web.post("/v1/backups/{tenant}/{moment}/verify", self.verify),
            web.post("/v1/backups/{tenant}/{moment}/restore", self.restore),
            web.post("/v1/doctor", self.doctor),
            web.post("/v1/prove", self.prove),
            web.post("/v1/persons/export", self.export),
            web.post("/v1/persons/erase", self.erase),
        ]

    @property
    def _life(self) -> Lifecycle:
        return self._router.lifecycle

    # --- operations --------------------------------------------------------------------------------------------------
    async def operations(self, request: web.Request) -> web.Response:
        """The newest, at most `limit`, with numbers below `before`; `next` is where to go on."""
        limit = whole_number(request.query.get("limit", "50"), "limit", 1, _MAX_OPERATIONS)
        before = whole_number(request.query.get("before", str(_HIGHEST)), "before", 1, _HIGHEST)
        found = await self._desk.looked(lambda: self._desk.operations.newest(before=before, limit=limit + 1))
        following = found[limit - 1].id if len(found) > limit else None
        return web.json_response({"operations": [operation_json(each) for each in found[:limit]], "next": following})

    async def operation(self, request: web.Request) -> web.Response:
        """One: its state, how far it is, and what came of it."""
        number = whole_number(request.match_info["number"], "the operation", 1, _HIGHEST)
        found = await self._desk.looked(lambda: self._desk.operations.find(number))
        if found is None:
            raise web.HTTPNotFound(reason="operation not found")
        return web.json_response(operation_json(found))

    async def cancel(self, request: web.Request) -> web.Response:
        """Ask one to end at its next safe step."""
        number = whole_number(request.match_info["number"], "the operation", 1, _HIGHEST)
        await body_of(request, {})
        return await self._desk.cancelled(request, number)

    # --- migrations --------------------------------------------------------------------------------------------------
    async def migrations(self, request: web.Request) -> web.Response:
        """The newest run, of any process, and how far it is."""
        found = await self._desk.looked(self._life.migration_status)
        return web.json_response(found or {"state": "none yet"}, dumps=_dumps)

    async def migrate(self, request: web.Request) -> web.Response:
        """Bring these tenants, or all, to the newest version, or up to `to`; or back to `back_to`."""
        body = await body_of(request, {"tenants": list, "to": str, "back_to": str, "dry_run": bool})
        tenants, back = body.get("tenants", []), body.get("back_to")
        if back is not None and "to" in body:
            raise web.HTTPBadRequest(reason="name one of to and back_to")
        if body.get("dry_run"):
            plan = await told(self._life.migration_plan(tenants))
            return web.json_response({"places": [migrated_json(each) for each in plan]})

        async def work(progress: Progress) -> Finished:
            if back is not None:
                outcomes = await self._life.roll_back(back, tenants, progress=progress)
            else:
                outcomes = await self._life.migrate(tenants, to=body.get("to"), progress=progress)
            rows = [migrated_json(each) for each in outcomes]
            return Finished(result={"places": rows}, has_failed=any(row["error"] for row in rows))

        return await self._desk.begun(request, "migrate" if back is None else "roll_back", None, work, body)

    # --- backups -----------------------------------------------------------------------------------------------------
    async def backups(self, request: web.Request) -> web.Response:
        """All that are finished, the oldest of each tenant first."""
        found: list[StoredBackup] = await self._desk.looked(self._life.backups)
        return web.json_response({"backups": [backup_json(each) for each in found]})

    async def save(self, request: web.Request) -> web.Response:
        """Save these tenants (`main` is the main database), or all, or go on with the newest run."""
        body = await body_of(request, {"tenants": list, "all": bool, "resume": bool, "dry_run": bool})
        wanted = SaveRequest(
            tenants=tuple(body.get("tenants", ())), everything=body.get("all", False), resume=body.get("resume", False)
        )
        if sum((bool(wanted.tenants), wanted.everything, wanted.resume)) != 1:
            raise web.HTTPBadRequest(reason="name one of tenants, all and resume")
        if body.get("dry_run"):
            would = await told(self._life.back_up_all(wanted, dry_run=True))
            return web.json_response({"backups": [outcome_json(each) for each in would]})
        key = idempotency_key(request)

        async def work(progress: Progress) -> Finished:
            outcomes = await self._life.back_up_all(wanted, key=key, progress=progress)
            rows = [outcome_json(each) for each in outcomes]
            return Finished(result={"backups": rows}, has_failed=any(row["error"] for row in rows))

        return await self._desk.begun(request, "backup", None, work, body)

    async def verify_all(self, request: web.Request) -> web.Response:
        """Try these backups, or the newest of each tenant, one after the other."""
        body = await body_of(request, {"backups": list, "dry_run": bool})
        names = body.get("backups", [])
        if not all(_BACKUP.fullmatch(each) for each in names):
            raise web.HTTPBadRequest(reason="backups are named as they are listed: TENANT/MOMENT")
        if body.get("dry_run"):
            would = await told(self._life.verify_all(names, dry_run=True))
            return web.json_response({"backups": [tried_json(each) for each in would]})

        async def work(progress: Progress) -> Finished:
            rows = [tried_json(each) for each in await self._life.verify_all(names, progress=progress)]
            return Finished(result={"backups": rows}, has_failed=any(row["error"] for row in rows))

        return await self._desk.begun(request, "verify", None, work, body)

    async def prune(self, request: web.Request) -> web.Response:
        """Remove old backups, of these tenants or of all, by `[backup]` or by the rules given."""
        body = await body_of(request, {"tenants": list, "keep": int, "keep_days": int, "dry_run": bool})
        keep, keep_days, tenants = body.get("keep"), body.get("keep_days"), body.get("tenants", [])
        if any(each is not None and not 0 <= each <= _MOST_KEPT for each in (keep, keep_days)):
            raise web.HTTPBadRequest(reason=f"keep and keep_days are numbers from 0 to {_MOST_KEPT}")
        if body.get("dry_run"):
            would = await told(self._life.prune(tenants, keep=keep, keep_days=keep_days, dry_run=True))
            return web.json_response({"backups": would})

        async def work(progress: Progress) -> Finished:
            gone = await self._life.prune(tenants, keep=keep, keep_days=keep_days, progress=progress)
            return Finished(result={"backups": gone})

        return await self._desk.begun(request, "prune", None, work, body)

    async def verify(self, request: web.Request) -> web.Response:
        """Restore it into a scratch place and compare."""
        name, _ = _backup_of(request), await body_of(request, {})

        async def work(progress: Progress) -> Finished:
            return Finished(result=backup_json(await self._life.verify(name)))

        return await self._desk.begun(request, "verify", None, work, {"backup": name})

    async def restore(self, request: web.Request) -> web.Response:
        """Make a tenant of it, `as` a name that is free, on a `server`."""
        name, body = _backup_of(request), await body_of(request, {"as": str, "server": str, "dry_run": bool})
        where = {"as_id": body.get("as"), "server": body.get("server")}
        if body.get("dry_run"):
            want = await told(self._life.restore_plan(name, **where))
            return web.json_response(wanted_json(want.tenant(TenantStatus.PROVISIONING)))

        key = f"restore {secrets.token_hex(16)}"

        async def work(progress: Progress) -> Finished:
            done = await self._life.restore(name, **where, key=key)
            return Finished(result=saga_json(done.saga) | {"notes": list(done.notes)})

        async def undo() -> None:
            """What it began of the tenant, if it did; another one of that name is someone else's."""
            for saga in await self._life.unfinished():
                if saga.key == key:
                    await self._life.abandon(saga.wanted.id)

        return await self._desk.begun(request, "restore", None, work, {"backup": name, **body}, undo=undo)

    # --- does isolation hold? ----------------------------------------------------------------------------------------
    async def doctor(self, request: web.Request) -> web.Response:
        """Look on every server and database; `fix` runs the SQL of findings that is safe at any time."""
        lists = dict.fromkeys(("servers", "tenants", "ignore"), list)
        body = await body_of(request, lists | {"fix": bool, "dry_run": bool})
        fix = body.get("fix", False) and not body.get("dry_run", False)
        given = {"servers": body.get("servers", ()), "tenants": body.get("tenants", ())}

        async def work(progress: Progress) -> Finished:
            report, repairs = await self._life.doctor(
                **given, ignored=body.get("ignore", ()), fix=fix, progress=progress
            )
            return Finished(result=audit_mapping(report, repairs))

        return await self._desk.begun(request, "doctor_fix" if fix else "doctor", None, work, body)

    async def prove(self, request: web.Request) -> web.Response:
        """Try to break isolation by the doors of the configuration, never by another address."""
        body = await body_of(request, {"tenants": list, "checks": list, "read_only": bool, "timeout": float})
        options = _options(body)

        async def work(progress: Progress) -> Finished:
            proof = await self._life.prove(options, progress=progress)
            report = json.loads(self._life.signed_proof(proof)) if self._router.settings.auth.keys() else None
            results = [{**asdict(each), "state": each.state.value} for each in proof.results]
            shown = {"ok": proof.exit_code == 0, "complete": proof.exit_code != 2, "results": results}
            return Finished(result=shown | {"report": report})

        return await self._desk.begun(request, "prove", None, work, body)

    # --- persons -----------------------------------------------------------------------------------------------------
    async def export(self, request: web.Request) -> web.Response:
        """Write what tenants hold of a person into a folder of `[gdpr] folder`."""
        body = await body_of(request, _PERSON)
        person, tenants = _person_of(body), body.get("tenants", [])
        into = export_folder(self._router.settings, idempotency_key(request))
        if body.get("dry_run"):
            rows = await told(self._life.export(into, tenants=tenants, person=person, dry_run=True))
            return web.json_response({"rows": rows})

        async def work(progress: Progress) -> Finished:
            rows = await self._life.export(into, tenants=tenants, person=person, progress=progress)
            return Finished(result={"folder": str(into), "rows": rows}, has_failed=has_failed(rows))

        return await self._desk.begun(request, "export_person", None, work, body)

    async def erase(self, request: web.Request) -> web.Response:
        """Erase a person by `[[gdpr.person]]`; a dry run counts, and rolls back."""
        body = await body_of(request, _PERSON)
        person, tenants, dry_run = _person_of(body), body.get("tenants", []), body.get("dry_run", False)

        async def work(progress: Progress) -> Finished:
            rows, report = await self._life.erase(person, tenants=tenants, dry_run=dry_run, progress=progress)
            return Finished(result={"rows": rows, "report": json.loads(report)}, has_failed=has_failed(rows))

        return await self._desk.begun(request, "count_person" if dry_run else "erase_person", None, work, body)


def _dumps(value: Any) -> str:
    return json.dumps(value, default=str)


def _backup_of(request: web.Request) -> str:
    """Its name, and never a path: it is looked for in `[backup] folder` alone."""
    name = f"{request.match_info['tenant']}/{request.match_info['moment']}"
    if not _BACKUP.fullmatch(name):
        raise web.HTTPNotFound(reason="backup not found")
    return name


def _person_of(body: dict[str, Any]) -> Person:
    if ("email" in body) == ("user" in body):
        raise web.HTTPBadRequest(reason="name one of email and user")
    if "user" in body and len(body.get("tenants", [])) != 1:
        raise web.HTTPBadRequest(reason="user is an id of one tenant: name it in tenants")
    return Person(email=body.get("email"), user=body.get("user"))


def _options(body: dict[str, Any]) -> Options:
    tenants, checks = tuple(body.get("tenants", ())), tuple(body.get("checks", ()))
    if tenants and len(set(tenants)) != 2:
        raise web.HTTPBadRequest(reason="tenants are two of one kind")
    if unknown := [each for each in checks if each not in CHECKS]:
        raise web.HTTPBadRequest(reason=f"{len(unknown)} of checks are not known; they are: {', '.join(CHECKS)}")
    timeout = body.get("timeout", 60.0)
    if not 1 <= timeout <= 600:
        raise web.HTTPBadRequest(reason="timeout is a number of seconds from 1 to 600")
    return Options(timeout=timeout, tenants=tenants, checks=checks, read_only=body.get("read_only", False))
