"""How does an operator's program make, change and remove tenants? `/v1/tenants`, by what `router.lifecycle` does.

Each request that changes something needs a token whose role may do it, and is written to the audit table. The same
request again, with the same `Idempotency-Key`, finds what became of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any, Final, cast

from aiohttp import web

from tenantproxy.errors import TenantNotFound
from tenantproxy.lifecycle.desk import Lifecycle, StatusChange
from tenantproxy.lifecycle.gdpr import has_failed
from tenantproxy.lifecycle.move import MoveOptions
from tenantproxy.lifecycle.operations import Finished, Progress
from tenantproxy.model import Isolation, Tenant, TenantStatus, tenant_id
from tenantproxy.router import Router
from tenantproxy.sidecar.admin_desk import AdminDesk, UnknownTenant, told
from tenantproxy.sidecar.bodies import body_of, idempotency_key, one_of, whole_number
from tenantproxy.sidecar.exports import export_folder
from tenantproxy.sidecar.tenant_json import backup_json, erased_json, migrated_json, saga_json, tenant_json, wanted_json
from tenantproxy.sidecar.tenant_pages import page_of

__all__ = ["TenantRoutes"]

_MAX_PAGE: Final = 1000

Body = dict[str, Any]


class TenantRoutes:
    """The handlers of one tenant, and of the list of them."""

    def __init__(self, desk: AdminDesk) -> None:
        self._desk = desk
        self._router = desk.router
        self._verbs: Mapping[str, tuple[Mapping[str, type], Callable[..., Awaitable[web.Response]]]] = {
            "suspend": ({"dry_run": bool}, self._simple),
            "resume": ({"dry_run": bool}, self._simple),
            "undelete": ({"dry_run": bool}, self._simple),
            "finish": ({}, self._made),
            "abandon": ({}, self._made),
            "archive": ({"drop_place": bool, "dry_run": bool}, self._archived),
            "migrate": ({"to": str, "dry_run": bool}, self._migrated),
            "move": ({"server": str, "isolation": str, "drop_old": bool, "dry_run": bool}, self._moved),
            "backup": ({}, self._saved),
            "export": ({"dry_run": bool}, self._exported),
            "erase": ({"id": str, "keep_backups": bool, "dry_run": bool}, self._erased),
        }

    def routes(self) -> list[web.RouteDef]:
        """Of the admin listener."""
        return [
            web.get("/v1/tenants", self.listed),
            web.post("/v1/tenants", self.created),
            web.get("/v1/tenants/unfinished", self.unfinished),
            web.get("/v1/tenants/{tenant}", self.shown),
            web.delete("/v1/tenants/{tenant}", self.deleted),
            web.get("/v1/tenants/{tenant}/backups", self.backups),
            web.post("/v1/tenants/{tenant}/{verb}", self.acted),
        ]

    @property
    def _life(self) -> Lifecycle:
        return self._router.lifecycle

    # --- looking -----------------------------------------------------------------------------------------------------
    async def listed(self, request: web.Request) -> web.Response:
        """Those behind `after`, at most `limit`, of one `status` or `isolation`; `next` is where to go on."""
        limit = whole_number(request.query.get("limit", "100"), "limit", 1, _MAX_PAGE)
        status = one_of(TenantStatus, request.query.get("status"), "status")
        isolation = one_of(Isolation, request.query.get("isolation"), "isolation")
        after = request.query.get("after", "")
        if after:
            try:
                after = tenant_id(after)
            except TenantNotFound:
                raise web.HTTPBadRequest(reason="after is no tenant identifier: give what next was") from None

        def fits(tenant: Tenant) -> bool:
            return status in (None, tenant.status) and isolation in (None, tenant.placement.isolation)

        page, following = await page_of(self._router.tenants_after(after), limit, fits)
        return web.json_response({"tenants": [tenant_json(each) for each in page], "next": following})

    async def shown(self, request: web.Request) -> web.Response:
        """One tenant, whatever its status is, as the registry itself has it now."""
        try:
            found = await _registered(self._router, request.match_info["tenant"])
        except TenantNotFound:
            raise web.HTTPNotFound(reason="tenant not found") from None
        return web.json_response(tenant_json(found))

    async def unfinished(self, request: web.Request) -> web.Response:
        """Those that are being made, or whose making was interrupted."""
        sagas = await self._desk.looked(self._life.unfinished)
        return web.json_response({"tenants": [saga_json(each) for each in sagas]})

    async def backups(self, request: web.Request) -> web.Response:
        """The finished backups of a tenant, the oldest first."""
        found = await self._desk.looked(lambda: self._life.backups(request.match_info["tenant"]))
        return web.json_response({"backups": [backup_json(each) for each in found]})

    # --- changing ----------------------------------------------------------------------------------------------------
    async def created(self, request: web.Request) -> web.Response:
        """201 with the tenant; the same request with the same Idempotency-Key again finds it made."""
        texts = ("id", "isolation", "server", "tier", "region", "domain")
        body = await body_of(request, dict.fromkeys(texts, str) | {"dry_run": bool}, needed=("id",))
        key, asked = idempotency_key(request), dict(body)
        one_of(Isolation, body.get("isolation"), "isolation")
        dry_run = body.pop("dry_run", False)

        async def work() -> web.Response:
            life = self._life
            want = life.wanted(body["id"], **{name: given for name, given in body.items() if name != "id"})
            if dry_run:
                return web.json_response(wanted_json(want.tenant(TenantStatus.PROVISIONING)))
            saga = await life.create(want, key=key)
            return web.json_response(saga_json(saga), status=201)

        return await self._desk.changed(request, "create", body["id"], work, asked)

    async def acted(self, request: web.Request) -> web.Response:
        """`POST /v1/tenants/{id}/{verb}`."""
        verb = request.match_info["verb"]
        if verb not in self._verbs:
            raise web.HTTPNotFound(reason="no such action")
        tenant, (known, work) = _tenant_of(request), self._verbs[verb]
        return await work(request, verb, tenant, await body_of(request, known))

    async def _simple(self, request: web.Request, verb: str, tenant: str, body: Body) -> web.Response:
        if body.get("dry_run"):
            return await self._would(verb, tenant)

        async def work() -> web.Response:
            return web.json_response(asdict(await getattr(self._life, verb)(tenant)))

        return await self._desk.changed(request, verb, tenant, work, body)

    async def _would(self, verb: str, tenant: str) -> web.Response:
        """What a dry run says: the status that the tenant has now, where the change could be made."""
        before = await told(self._life.would(tenant, cast("StatusChange", verb)))
        return web.json_response({"tenant": tenant, "state": f"would_{verb}", "before": before})

    async def _made(self, request: web.Request, verb: str, tenant: str, body: Body) -> web.Response:
        async def work() -> web.Response:
            return web.json_response(saga_json(await getattr(self._life, verb)(tenant)))

        return await self._desk.changed(request, verb, tenant, work, body)

    async def _archived(self, request: web.Request, verb: str, tenant: str, body: Body) -> web.Response:
        if body.get("dry_run"):
            return await self._would(verb, tenant)
        await told(_registered(self._router, tenant))
        drop_place = body.get("drop_place", False)

        async def work(progress: Progress) -> Finished:
            return Finished(result=asdict(await self._life.archive(tenant, drop_place=drop_place)))

        return await self._desk.begun(request, verb, tenant, work, body)

    async def _migrated(self, request: web.Request, verb: str, tenant: str, body: Body) -> web.Response:
        if body.get("dry_run"):
            plan = await told(self._life.migration_plan([tenant]))
            return web.json_response({"places": [migrated_json(each) for each in plan]})
        await told(_registered(self._router, tenant))

        async def work(progress: Progress) -> Finished:
            outcomes = await self._life.migrate([tenant], to=body.get("to"), progress=progress)
            rows = [migrated_json(each) for each in outcomes]
            return Finished(result={"places": rows}, has_failed=any(row["error"] for row in rows))

        return await self._desk.begun(request, verb, tenant, work, body)

    async def _moved(self, request: web.Request, verb: str, tenant: str, body: Body) -> web.Response:
        options = MoveOptions(
            server=body.get("server"), isolation=one_of(Isolation, body.get("isolation"), "isolation"),
            drop_old=body.get("drop_old", False),
        )  # fmt: skip
        if body.get("dry_run"):
            new = await told(self._life.move_plan(tenant, options))
            return web.json_response(tenant_json(new.tenant(TenantStatus.ACTIVE)) | {"status": "would_move"})
        await told(_registered(self._router, tenant))

        async def work(progress: Progress) -> Finished:
            return Finished(result=asdict(await self._life.move(tenant, options, progress=progress)))

        return await self._desk.begun(request, verb, tenant, work, body)

    async def _saved(self, request: web.Request, verb: str, tenant: str, body: Body) -> web.Response:
        await told(_registered(self._router, tenant))

        async def work(progress: Progress) -> Finished:
            return Finished(result=backup_json(await self._life.back_up(tenant)))

        return await self._desk.begun(request, verb, tenant, work, body)

    async def _exported(self, request: web.Request, verb: str, tenant: str, body: Body) -> web.Response:
        into = export_folder(self._router.settings, idempotency_key(request))
        if body.get("dry_run"):
            rows = await told(self._life.export(into, tenants=[tenant], dry_run=True))
            return web.json_response({"rows": rows})
        await told(_registered(self._router, tenant))

        async def work(progress: Progress) -> Finished:
            rows = await self._life.export(into, tenants=[tenant], progress=progress)
            return Finished(result={"folder": str(into), "rows": rows}, has_failed=has_failed(rows))

        return await self._desk.begun(request, verb, tenant, work, body)

    async def _erased(self, request: web.Request, verb: str, tenant: str, body: Body) -> web.Response:
        _check_repeated(body, tenant)
        keep, dry_run = body.get("keep_backups", False), body.get("dry_run", False)
        if dry_run:
            would, report = await told(self._life.erase_tenant(tenant, keep_backups=keep, dry_run=True))
            return web.json_response(erased_json(would, report))

        async def work(progress: Progress) -> Finished:
            erased, report = await self._life.erase_tenant(tenant, keep_backups=keep, progress=progress)
            return Finished(result=erased_json(erased, report))

        return await self._desk.begun(request, verb, tenant, work, body)

    async def deleted(self, request: web.Request) -> web.Response:
        """The id is repeated in the body; a grace of 0 days removes it now, behind a verified backup."""
        tenant = _tenant_of(request)
        body = await body_of(request, {"id": str, "grace_days": float, "dry_run": bool})
        _check_repeated(body, tenant)
        how = {name: given for name, given in body.items() if name != "id"}

        async def work() -> web.Response:
            return web.json_response(asdict(await self._life.delete(tenant, **how)))

        return await self._desk.changed(request, "delete", tenant, work, body)


def _tenant_of(request: web.Request) -> str:
    """Raises UnknownTenant, before anything is written down, for what cannot be the identifier of one."""
    try:
        return tenant_id(request.match_info["tenant"])
    except TenantNotFound as exc:
        raise UnknownTenant(exc.message, detail=exc.detail, hint=exc.hint) from exc


async def _registered(router: Router, tenant: str) -> Tenant:
    """As the registry itself has it now. Raises TenantNotFound."""
    return await router.registry.ask(tenant_id(tenant))


def _check_repeated(body: Body, tenant: str) -> None:
    """What is gone for good is named twice."""
    if "id" not in body:
        raise web.HTTPBadRequest(reason="id is missing")
    if body["id"] != tenant:
        raise web.HTTPBadRequest(reason="the id in the body is another one")
