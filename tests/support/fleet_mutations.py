"""Which rule of a fleet is each test about? Every rule that keeps the cap, and how it is left out.

`MUTATIONS[name]` is a block in which the rule does not hold for processes, and the names of rules that main (and the
world) leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final
from unittest.mock import PropertyMock, patch

from tenantproxy.fleet.member import Member
from tenantproxy.fleet.share import Holding, Lease, Share
from tenantproxy.fleet.values import Claim, ServerGrant

__all__ = ["MUTATIONS"]

Block = Callable[[], AbstractContextManager[Any]]

_claim, _accept = Share.claim, Share.accept


def _tells_first(self: Share, server: str, now: float, holding: Holding) -> Claim:
    limit = self.limit
    claim = _claim(self, server, now, holding)
    self.limit = limit
    return claim


def _renews_when_heard(self: Share, grant: ServerGrant, *, asked: float, now: float) -> None:
    _accept(self, grant, asked=now, now=now)


def _hears_all(self: Member, seq: int, grants: Iterable[ServerGrant], *, now: float) -> bool:
    for grant in grants:
        self.shares[grant.server].accept(grant, asked=now, now=now)
    return True


def _instead(owner: type, name: str, value: Any) -> Block:
    return lambda: patch.object(owner, name, value)


def _main(*rules: str) -> tuple[Block, tuple[str, ...]]:
    return nullcontext, rules


def _never_old(self: Share, _now: float) -> Lease:
    return Lease.LOST if self.renewed is None else Lease.FRESH


MUTATIONS: Final[dict[str, tuple[Block, tuple[str, ...]]]] = {
    "a forked child has a new id and no grant": (_instead(Member, "begin_again", lambda self: None), ()),
    "only the answer to the newest report counts": (_instead(Member, "hear", _hears_all), ()),
    "the age counts from before the report was sent": (_instead(Share, "accept", _renews_when_heard), ()),
    "a process binds before it tells": (_instead(Share, "claim", _tells_first), ()),
    "an old process vouches for what it holds alone": (_instead(Share, "may_be_others", lambda self, now: False), ()),
    "a limit ends with its age": (_instead(Share, "lease", _never_old), ()),
    "the floor is kept only when main has known it for a ttl": (
        lambda: patch.object(Share, "_owns_floor", PropertyMock(return_value=True)),
        (),
    ),
    "what is allowed is looked at again at connect(2)": _main("recheck"),
    "an old report changes nothing": _main("seq"),
    "a grant falls to what the process says": _main("keep"),
    "time passes by the logical clock": _main("logical"),
    "a silent process keeps its whole charge": _main("hold"),
    "a census leaves room for a burst": _main("burst"),
    "a silent process is forgotten after a census only": _main("forget"),
    "a failover settles before anything is raised": _main("settle"),
    "after a failover a census comes before a raise": _main("blind"),
    "rows deleted by hand are grants that are not known": _main("emptied"),
    "an answer never exceeds what was kept in a failover": _main("adopt"),
}
"""By the rule that does not hold."""
