"""When is it looked at what a tenant's role reaches and writes, and what follows? One for all pools of a router's side.

State: when each pool was last found good, and what was told of it. Changed by connectors that open.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

from tenantproxy.config import Settings, names
from tenantproxy.connect import reader
from tenantproxy.connect.reach import REACH, Reach, argument, parse, refusal
from tenantproxy.errors import Exposure
from tenantproxy.events import FunctionsNotVerified, Observer, RightsGiven
from tenantproxy.isolation.policies import tenant_form
from tenantproxy.model import PoolKey
from tenantproxy.pools.base import Clock

__all__ = ["GOOD_SECONDS", "ReachCheck", "ReachQuestion"]

GOOD_SECONDS: Final = 60.0  # a new connection of a pool does not look again for so long after one that found no fault
_TOLD: Final = 20
_KNOWN: Final = 1000  # pools remembered before those that were looked at long ago are forgotten


@dataclass(frozen=True, slots=True)
class ReachQuestion:
    """`sql` has the one parameter `argument`, and the path that `reach.PIN_PATH` pins; `judge` takes its answer.

    That raises an IsolationError when the connection must not serve.
    """

    sql: str
    argument: str
    judge: Callable[[str], None]


class ReachCheck:
    """Refuses connections whose role reaches more than their tenant's own. `violated(check, key, detail)` tells it."""

    def __init__(
        self,
        settings: Settings,
        *,
        observer: Observer,
        violated: Callable[[str, PoolKey, str], None],
        clock: Clock = monotonic,
    ) -> None:
        self._observer = observer
        self._violated = violated
        self._clock = clock
        self._shared_role = settings.schema_.shared_role
        self._unprotected = names(settings.row.unprotected)
        self._common = names(settings.schema_.common)
        self._paths = {name: server.search_path for name, server in settings.servers.items()}
        self._signed_form = tenant_form()
        self._row_form = self._signed_form if settings.row.signed else tenant_form(settings.row.setting)
        roles = settings.tenant_roles
        self._reader = reader.reader_argument(roles.reader_functions if roles is not None else ())
        self._good_at: dict[PoolKey, float] = {}
        self._reads_only_at: dict[PoolKey, float] = {}
        self._could_write: dict[PoolKey, str] = {}  # of pools that are refused now
        self._told: dict[PoolKey, tuple[Exposure, ...]] = {}  # of pools that are refused now
        self._given: dict[PoolKey, tuple[tuple[str, str], ...]] = {}  # relations that others gave, of pools that serve
        self._named: set[tuple[str, str, str]] = set()

    def due(self, key: PoolKey) -> list[ReachQuestion]:
        """What a new connection of this pool has to ask."""
        found = []
        if self.is_due(key):
            found.append(ReachQuestion(REACH, self.argument(key), lambda answer: self.judge(key, answer)))
        good_at = self._reads_only_at.get(key)
        if key.reader and (good_at is None or self._clock() - good_at >= GOOD_SECONDS):
            found.append(ReachQuestion(reader.READER, self._reader, lambda answer: self._judge_reader(key, answer)))
        return found

    def is_due(self, key: PoolKey) -> bool:
        """Whether a new connection of this pool has to look. One that found a fault is no reason not to."""
        if not key.shared and (key.schema is None or self._shared_role):
            return False  # a database of its own: its grants are the server's matter
        good_at = self._good_at.get(key)
        return good_at is None or self._clock() - good_at >= GOOD_SECONDS

    def argument(self, key: PoolKey) -> str:
        """The parameter of REACH for this pool."""
        if key.shared:
            return argument(self._unprotected, path=self._paths[key.server], common=self._common)
        own = (key.schema or "", *key.systems)
        return argument([*self._common, *((schema, None) for schema in own)])

    def judge(self, key: PoolKey, answer: str) -> None:
        """Raises UnprotectedRelations when a connection must not serve; told as an event only when that changes."""
        reach = parse(answer)
        error = refusal(reach, key, form=self._row_form if key.shared else self._signed_form)
        if error is not None:
            self._good_at.pop(key, None)
            if self._told.get(key) != error.exposures:
                if len(self._told) >= _KNOWN:
                    self._told.clear()  # some are told again
                self._told[key] = error.exposures
                self._violated("reach", key, f"{error.message}: {error.detail}")
            raise error
        self._told.pop(key, None)
        self._good_at = self._remembered(self._good_at, key)
        self._tell_given(key, reach)
        place = (key.server, key.database, reach.role)
        if reach.definers and place not in self._named:
            self._named.add(place)
            functions = ", ".join(reach.definers)
            self._observer(FunctionsNotVerified(server=key.server, database=key.database, functions=functions))

    def _tell_given(self, key: PoolKey, reach: Reach) -> None:
        given = tuple((each.giver, each.label) for each in reach.relations if each.giver is not None)
        if self._given.get(key, ()) == given:
            return
        if len(self._given) >= _KNOWN:
            self._given.clear()
        self._given[key] = given
        by_giver: dict[str, list[str]] = {}
        for giver, relation in given:
            by_giver.setdefault(giver, []).append(relation)
        for giver, relations in by_giver.items():
            more = f" and {len(relations) - _TOLD} more" if len(relations) > _TOLD else ""
            told = ", ".join(relations[:_TOLD]) + more
            self._observer(
                RightsGiven(server=key.server, database=key.database, role=reach.role, giver=giver, relations=told)
            )

    def _judge_reader(self, key: PoolKey, answer: str) -> None:
        """Raises IsolationError when the role of a pool that only reads could write."""
        error = reader.refusal(answer, key)
        if error is None:
            self._could_write.pop(key, None)
            self._reads_only_at = self._remembered(self._reads_only_at, key)
            return
        self._reads_only_at.pop(key, None)
        if self._could_write.get(key) != error.detail:
            if len(self._could_write) >= _KNOWN:
                self._could_write.clear()  # some are told again
            self._could_write[key] = error.detail or ""
            self._violated("read_only", key, f"{error.message}: {error.detail}")
        raise error

    def _remembered(self, good_at: dict[PoolKey, float], key: PoolKey) -> dict[PoolKey, float]:
        now = self._clock()
        if len(good_at) >= _KNOWN:
            good_at = {each: at for each, at in good_at.items() if now - at < GOOD_SECONDS}
        good_at[key] = now
        return good_at
