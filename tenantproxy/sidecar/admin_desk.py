"""How is a change carried out that a program asks the admin listener for? Audited, to its end, and told in full.

A short one answers when it is done, and goes on when its client goes away. A long one, and a short one that is asked
for with `Prefer: respond-async`, answers 202 with an operation to look at.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, TypeVar

from aiohttp import web

from tenantproxy.errors import ConfigurationError, TenantNotFound, TenantProxyError
from tenantproxy.events import TenantChangeAsked
from tenantproxy.lifecycle.operations import (
    Finished,
    KeyReused,
    Operation,
    OperationRequest,
    Operations,
    OperationState,
    Progress,
)
from tenantproxy.lifecycle.operations.run import TooManyOperations
from tenantproxy.router import Router
from tenantproxy.sidecar.admin_gate import CALLER
from tenantproxy.sidecar.bodies import idempotency_key, prefers_async

__all__ = ["AdminDesk", "ChangeRefused", "UnknownTenant", "operation_json", "told"]

_MOST_LOOKS: Final = 4
T = TypeVar("T")


class ChangeRefused(TenantProxyError):
    """A tenant cannot be made or changed as it was asked; the detail says why, and the hint what can be done."""

    http_status, sqlstate, code = 409, "55000", "change_refused"


class UnknownTenant(TenantProxyError):
    """No tenant has this identifier, or none can; a caller of the public listener would hear of a mismatch."""

    http_status, sqlstate, code = 404, "3D000", "unknown_tenant"


class AdminDesk:
    """`may_change` raises AccessDenied where nothing may be changed. State: what is under way."""

    def __init__(self, router: Router, may_change: Callable[[], None]) -> None:
        self.router = router
        self.operations = Operations(lambda: router.settings, router.observer)
        self._may_change = may_change
        self._under_way: set[asyncio.Task[Any]] = set()  # not ended with their clients' connections
        self._looks = asyncio.Semaphore(_MOST_LOOKS)

    async def close(self, *, timeout: float) -> None:
        """Wait up to `timeout` seconds for what is under way, then end it: the same request goes on with it."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout)
        for task in tuple(self._under_way):
            task.cancel()
        await self.operations.close(timeout=timeout)

    async def looked(self, look: Callable[[], Awaitable[T]]) -> T:
        """What `look` gives, told as `told` does; a few at once, the others wait.

        Each connects as the server's admin user, apart from all budgets: readers could use up what a server can have.
        """
        async with self._looks:
            return await told(look())

    async def changed(
        self, request: web.Request, verb: str, tenant: str, work: Callable[[], Coroutine[Any, Any, web.Response]],
        asked: Mapping[str, Any],
    ) -> web.Response:  # fmt: skip
        """The answer of `work`, which goes on when the client goes away; an operation where the client prefers one."""
        if prefers_async(request):

            async def as_operation(progress: Progress) -> Finished:
                answer = await work()
                return Finished(result=_parsed(answer), has_failed=answer.status >= 400)

            return await self.begun(request, verb, tenant, as_operation, asked)
        self._note(request, verb, tenant)
        task = asyncio.create_task(told(work()), name=f"tenantproxy {verb}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def begun(
        self, request: web.Request, verb: str, tenant: str | None, work: Callable[[Progress], Awaitable[Finished]],
        asked: Mapping[str, Any], *, undo: Callable[[], Awaitable[None]] | None = None,
    ) -> web.Response:  # fmt: skip
        """202 with the operation that does `work`; with the same key again the same one, 200 when it is over.

        `undo`: takes away what `work` leaves where it is cancelled.
        """
        key = idempotency_key(request)
        self._note(request, verb, tenant or "")
        wanted = OperationRequest(
            change=verb, tenant=tenant, key=key, asked=asked, by=request[CALLER].by, address=request.remote or "",
            undo=undo,
        )  # fmt: skip
        # Written down and begun, or neither, whether or not the client waits for the answer.
        found = await asyncio.shield(asyncio.ensure_future(told(self.operations.begin(wanted, work))))
        where = {"Location": f"/v1/operations/{found.id}"}
        if found.state is not OperationState.RUNNING:
            return web.json_response(operation_json(found), headers=where)
        return web.json_response(operation_json(found), status=202, headers={**where, "Retry-After": "1"})

    async def cancelled(self, request: web.Request, number: int) -> web.Response:
        """202 with an operation that is asked to end, of whichever process; 200 where it is cancelled by now."""
        self._note(request, "cancel", "")
        found = await told(self.operations.cancel(number))
        if found is None:
            raise web.HTTPNotFound(reason="operation not found")
        is_over = found.state is not OperationState.RUNNING
        return web.json_response(operation_json(found), status=200 if is_over else 202)

    def _note(self, request: web.Request, verb: str, tenant: str) -> None:
        self._may_change()
        by = request[CALLER].by
        self.router.observer(TenantChangeAsked(tenant=tenant, change=verb, address=request.remote or "", by=by))


def _parsed(answer: web.Response) -> dict[str, Any]:
    return dict(json.loads(answer.text or "{}"))


async def told(work: Awaitable[T]) -> T:
    """What `work` gives; what refuses it is told in full, to the operator, who has the token."""
    try:
        return await work
    except (KeyReused, TooManyOperations):
        raise
    except ConfigurationError as exc:
        raise ChangeRefused("the tenant cannot be changed so", detail=exc.message) from exc
    except TenantNotFound as exc:
        raise UnknownTenant(exc.message, detail=exc.detail, hint=exc.hint) from exc
    except TenantProxyError as exc:
        raise ChangeRefused(exc.message, detail=exc.detail, hint=exc.hint, retry_after=exc.retry_after) from exc


def operation_json(operation: Operation) -> dict[str, Any]:
    """An operation in an answer: its state, how far it is, and what came of it."""
    return {
        "id": operation.id,
        "change": operation.change,
        "tenant": operation.tenant,
        "state": operation.state.value,
        "progress": {"done": operation.done, "total": operation.total, "what": operation.what},
        "result": operation.result,
        "error": operation.error,
        "started_at": operation.started_at.isoformat(),
        "ended_at": None if operation.ended_at is None else operation.ended_at.isoformat(),
        "is_cancelling": operation.cancel_at is not None and operation.state is OperationState.RUNNING,
    }
