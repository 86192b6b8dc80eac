"""Does any client of two tenants on one backend get a wrong answer? A relay before a model, moved one step at a time.

`Machine(seed).play(steps)` raises WrongAnswer at the first answer that is foreign, missing, repeated or out of order,
and at a backend that is lent again while anything is under way on it. The same seed makes the same steps.

Polite clients must see exactly what they would see alone on a server of their own, and what they asked for runs as
often as there. Timeouts, requests to cancel and a server that dies strike only rude ones, that send anything at any
time: what they see must be what the server said while they had it, in that order.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from math import inf
from typing import Any, Final

from tenantproxy.errors import PoolTimeout
from tenantproxy.model import Route
from tenantproxy.raw.backend import RawBackend, Settings
from tenantproxy.raw.lender import Lessee
from tenantproxy.sidecar.pg.inbox import Hold
from tenantproxy.sidecar.pg.relay import Relay
from tenantproxy.wire import answers
from tenantproxy.wire.frames import HEADER, length_of
from tenantproxy.wire.pipeline import MAX_OUTSTANDING, Certainty
from tenantproxy.wire.statements import ServerStatements, Statements
from tests.support.model_server import ModelServer, query
from tests.support.relay_desk import Backend, Lender
from tests.support.relay_players import (
    HEAR,
    LEAVE,
    READY,
    STRIKE,
    Player,
    Polite,
    Rude,
    WrongAnswer,
    messages_of,
    wrong,
)

__all__ = ["Machine", "WrongAnswer"]

EPISODE: Final = 200  # steps, then all leave and others come
MESSAGE: Final = 0  # up to the end of the next message
PIECES: Final = (1, 5, 30, MESSAGE, MESSAGE, MESSAGE, MESSAGE, None)
TENANTS: Final = ("acme", "globex")
TURNS: Final = 40  # of the loop, for one that sends more than it may in one
PATIENCE: Final = 5000  # steps of polite clients alone
ROOM: Final = MAX_OUTSTANDING + 300  # a turn reads at most so many more
RESTS: Final = 0.2  # of the times that a client may
BUSY: Final = PoolTimeout("no connection became free")
REFUSED: Final = answers.error_response(BUSY)


class Desk(Lender):
    """Lends to two tenants; between them a backend is as new."""

    def __init__(self, size: int, *, is_18: bool, limit: int) -> None:
        self.is_18, self.limit = is_18, limit
        self.wanted: dict[int, str] = {}
        self.over: list[ModelServer] = []  # sessions that were reset
        super().__init__(size)

    def _open(self) -> Backend:
        backend = super()._open()
        self.renew(backend)
        return backend

    def renew(self, backend: Backend) -> None:
        """As after a reset."""
        self.over.append(backend.model)
        backend.model = ModelServer(is_18=self.is_18)
        backend.prepared = ServerStatements(self.limit)
        backend.tenant = ""

    def lease_nowait(self, pool: object, route: Route, session: Settings) -> RawBackend | None:
        if self.is_busy or not self.idle:
            return None
        return self._to(str(route.tenant), session)

    def _to(self, tenant: str, session: Settings) -> Backend:
        backend = self.idle[0]
        if not backend.model.is_quiet or backend.answers:
            raise wrong("a backend is lent while something is under way", backend.tenant, tenant)
        if backend.tenant not in ("", tenant):
            self.renew(backend)
        backend.tenant = tenant
        return self._lend(session)

    def acquire(self, pool: object, route: Route, session: Settings, lessee: Lessee) -> Any:
        waiting = super().acquire(pool, route, session, lessee)
        self.wanted[id(waiting)] = str(route.tenant)
        return waiting

    def is_first(self, relay: Relay) -> bool:
        """Whether its client is the first who waits."""
        awake = relay._awake
        return bool(self.waiting) and awake is not None and self.waiting[0].lessee is awake.checkout

    def grant(self) -> bool:
        if not (self.waiting and self.idle):
            return False
        first = self.waiting.pop(0)
        first.lessee.leased(self._to(self.wanted.pop(id(first)), ()))
        return True

    def release(self, backend: Backend, route: Route, *, is_dirty: bool) -> float:
        if not backend.model.is_quiet or backend.answers:
            raise wrong("a backend came back while something is under way", backend.tenant, backend.answers)
        self.over.append(backend.model)
        held = super().release(backend, route, is_dirty=is_dirty)
        if is_dirty:
            self.renew(backend)
        return held


def has_had_its_turn(player: Player) -> bool:
    return player.relay._forwarder.inbox.hold is Hold.TURN


class Machine:
    """Two tenants, a backend or two, and what happens to them. Needs a running loop."""

    def __init__(self, seed: int, *, attacks: float = 0.3) -> None:
        """`attacks`: how much of what the rude send."""
        self.rng = random.Random(seed)
        self.attacks = attacks
        self.seed = seed
        self.done = 0
        self.desk: Desk
        self.players: list[Player] = []
        self.names = 0
        self.statements = Statements()
        self.ran: Counter[bytes] = Counter()
        self.halves: dict[Backend, bytes] = {}  # of a message that has not arrived whole
        self.seen: dict[ModelServer, int] = {}

    async def play(self, steps: int) -> None:
        """So many, in episodes. Raises WrongAnswer, and whatever else the relay raises."""
        while self.done < steps:
            self._begin()
            for _ in range(min(EPISODE, steps - self.done)):
                self.done += 1
                self._step()
                if not self.done % 16:
                    for _ in range(1 + TURNS * any(map(has_had_its_turn, self.players))):
                        await asyncio.sleep(0)
            await self._end()

    def _begin(self) -> None:
        rng = self.rng
        self.desk = Desk(rng.choice((1, 1, 2)), is_18=rng.random() < 0.5, limit=rng.choice((2, 500)))
        self.statements = Statements()
        self.ran.clear()
        self.halves.clear()
        self.seen.clear()
        self.players = []
        for kind, tenant in ((Polite, "globex"), (Polite, "acme"), (Rude, "acme"), (Rude, rng.choice(TENANTS))):
            self._join(kind, tenant)

    def _join(self, kind: type[Player], tenant: str) -> None:
        self.names += 1
        player = kind(self.desk, f"c{self.names}", tenant, self.statements, self.rng)
        player.attacks = self.attacks
        self.players.append(player)

    # --- one step ----------------------------------------------------------------------------------------------------
    def _step(self) -> None:
        rng, desk = self.rng, self.desk
        kind = rng.randrange(100)
        if kind < 45:
            self._move(rng.choice(self.players))
        elif kind < 85:
            self._deliver(rng.choice(desk.backends))
        elif kind < 89:
            desk.grant()
        elif kind == 89:
            self._refuse()
        else:
            self._happen(kind, rng.choice(desk.backends), rng.choice(self.players))
        self._check()

    def _move(self, player: Player) -> None:
        forwarder = player.relay._awake
        if forwarder is not None and forwarder.may_rest and self.rng.random() < RESTS:
            player.relay.rest_if_idle(inf)
        if player.line.is_closed and isinstance(player, Rude):
            self._leave(player)
            self._join(Rude, player.tenant)
        elif not player.line.is_reading_paused:
            player.move()
        if isinstance(player, Rude) and player.token:
            self._token(player, player.token)
            player.token = b""
        forwarder = player.relay._awake
        if forwarder is not None and forwarder.pipeline.outstanding > ROOM:
            raise wrong("more is outstanding than there is room for", player.name)

    def _token(self, player: Rude, token: bytes) -> None:
        if token is STRIKE and player.relay.backend is not None:
            player.backend.model.pass_time()
        elif token in (HEAR, LEAVE):
            while player.relay.backend is not None and player.backend.answers and not player.backend.is_paused:
                self._deliver(player.backend)
        if token is LEAVE:
            self._leave(player)
            self._join(Rude, player.tenant)

    def _deliver(self, backend: Backend) -> None:
        holder = self._holder(backend)
        if isinstance(holder, Rude) and holder.holds:
            return
        if backend.is_paused or backend.is_closed or not (backend.answers or backend.model.is_closed):
            return
        half = self.halves.get(backend, b"")
        size = self.rng.choice(PIECES)
        if size == MESSAGE:
            begun = half + backend.answers
            size = length_of(begun, 0) - len(half) if len(begun) >= HEADER else None
        half += backend.answers[:size]
        if holder is not None:
            whole = messages_of(half)
            holder.heard += whole
            self.halves[backend] = half[sum(map(len, whole)) :]
        backend.deliver(size)

    def _refuse(self) -> None:
        """The first who waits gets no backend, and hears so."""
        player = next((each for each in self.players if self.desk.is_first(each.relay)), None)
        if player is None or not player.may_be_refused():
            return
        before = len(player.line.received)
        self.desk.refuse(BUSY)
        said = player.line.received[before:]
        if not said.startswith(REFUSED):
            raise wrong("a client that gets no backend does not hear that", player.name, said)
        player.was_refused(REFUSED + READY if isinstance(player, Polite) else said)

    def _holder(self, backend: Backend) -> Player | None:
        return next((each for each in self.players if each.relay.backend is backend), None)

    def _happen(self, kind: int, backend: Backend, player: Player) -> None:
        """What is no client's doing."""
        holder = self._holder(backend)
        is_rude = isinstance(holder, Rude)
        if kind < 93 and is_rude:
            backend.model.pass_time()
        elif kind == 93 and isinstance(holder, Rude):
            holder.relay.cancel(lambda: None)
            backend.model.is_due = backend.model.copied is not None
        elif (
            kind == 94
            and is_rude
            and self.rng.random() < 0.2
            and not (backend.model.is_quiet or backend.model.is_closed)
        ):
            backend.answers += backend.model.die()
        elif kind == 95:
            player.is_slow = not player.is_slow
            (player.relay.pause_writing if player.is_slow else player.relay.resume_writing)()
        elif kind == 96:
            backend.on_writable(self.rng.random() < 0.7)
        elif kind == 97:
            backend.model.stale |= {
                text for text in backend.model.statements.values() if text.endswith(b"all.0:rows 4")
            }
        elif kind > 97 and isinstance(player, Rude) and self.rng.random() < 0.3:
            self._leave(player)
            self._join(Rude, player.tenant)

    def _leave(self, player: Player) -> None:
        player.compare()
        backend, forwarder = player.relay.backend, player.relay._forwarder
        if isinstance(backend, Backend) and backend.model.is_quiet and not (backend.answers or player.sending):
            pipeline = forwarder.pipeline
            is_known = (
                pipeline.certainty is Certainty.KNOWN and not pipeline.is_open and forwarder.inbox.hold is Hold.NOTHING
            )
            if is_known and not player.is_slow:
                raise wrong("a backend is kept on which nothing is under way", player.name, forwarder.pipeline)
        player.leave()
        self.players.remove(player)

    def _check(self) -> None:
        """What ran is its holder's."""
        for model in self.desk.over:
            self._count(model, None)
        self.desk.over.clear()
        for backend in self.desk.backends:
            self._count(backend.model, backend)

    def _count(self, model: ModelServer, backend: Backend | None) -> None:
        begin = self.seen.get(model, 0)
        if begin == len(model.ran):
            return
        self.seen[model] = len(model.ran)
        new = model.ran[begin:]
        self.ran.update(new)
        holder = None if backend is None else self._holder(backend)
        if holder is not None and not all(map(holder.may_have, new)):
            raise wrong("a client runs what is another's", holder.name, holder.tenant, new)

    async def _end(self) -> None:
        """The rude leave; the polite must get all that they have asked for."""
        for player in list(self.players):
            player.relay.resume_writing()
            if isinstance(player, Rude):
                self._leave(player)
        polite = [player for player in self.players if isinstance(player, Polite)]
        for step in range(PATIENCE):
            if not self._goes_on(polite):
                break
            if not step % 16:
                await asyncio.sleep(0)
        else:
            raise wrong("a polite client waits without end", [(p.name, p.line.received, p.expected) for p in polite])
        for player in polite:
            player.compare()
            asked = Counter(text for text in player.alone.ran if f".{player.name}.".encode() in text)
            ran = Counter({text: count for text, count in self.ran.items() if f".{player.name}.".encode() in text})
            if asked != ran:
                raise wrong("something ran more or less often than it was asked for", asked - ran, ran - asked)
            player.leave()
        await asyncio.sleep(0)
        self.desk.check()

    def _goes_on(self, polite: list[Polite]) -> bool:
        """A step of polite clients alone; False: all have got what they asked for."""
        for backend in list(self.desk.backends):
            backend.on_writable(True)
            self._deliver(backend)
        self.desk.grant()
        self._check()
        left = [player for player in polite if not player.is_answered or player.next or player.alone.status != b"I"]
        for player in left:
            if player.is_answered and not player.next:
                player.next = [query(b"rollback")]
            self._move(player)
        return bool(left)
