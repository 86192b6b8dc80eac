"""What do several workers hold of a tenant's together, and how is it ended in each? See `sidecar.live`."""

from __future__ import annotations

from typing import Any

from tenantproxy.errors import TenantProxyError
from tenantproxy.sidecar.acted_on import Thing
from tenantproxy.sidecar.live import joined_statements, joined_views
from tenantproxy.sidecar.pg.colleagues import TenantVerb
from tenantproxy.sidecar.workers.link import LinkLost
from tenantproxy.sidecar.workers.staff import Staff
from tenantproxy.sidecar.workers.state import WorkerState

__all__ = ["LiveWorkers"]


class LiveWorkers:
    """See `live.Live`: of all workers that answer."""

    def __init__(self, staff: Staff) -> None:
        self._staff = staff

    async def tenant(self, tenant: str) -> dict[str, Any]:
        """See Live."""
        return joined_views(await self._all("tenant", tenant))

    async def statements(self, tenant: str) -> dict[str, Any]:
        """See Live."""
        return joined_statements(await self._all("statements", tenant))

    async def evict(self, tenant: str) -> list[Thing]:
        """See Live."""
        return [thing for each in await self._all("evict", tenant) for thing in each]

    async def end_client(self, client: int) -> tuple[str, Thing] | None:
        """See Live."""
        found = next((each for each in await self._all("end_client", client) if each), None)
        return None if found is None else (found[0], found[1])

    async def drain(self, tenant: str) -> list[Thing]:
        """See Live."""
        return [thing for each in await self._all("drain_tenant", tenant) for thing in each]

    async def stop(self, tenant: str, verb: TenantVerb) -> tuple[bool, list[Thing]]:
        """See Live: one worker looks whether there is the tenant, and lets all do it, as its console would."""
        is_idle, things = await self._staff.any_of(WorkerState.READY).ask("stop", [tenant, verb])
        return is_idle, things

    async def _all(self, verb: str, body: Any) -> list[Any]:
        """The answers of those that are there. Raises the first error of one, LinkLost where none answers."""
        answers = await self._staff.ask_all(verb, body)
        found = [answer for _, answer in answers if not isinstance(answer, BaseException)]
        failed = [answer for _, answer in answers if isinstance(answer, TenantProxyError | LinkLost)]
        if not found:
            raise failed[0] if failed else LinkLost("no worker answers", retry_after=1.0)
        return found
