"""Which host of a cluster may serve? Decided from what each of them said of itself. Pure; no state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

__all__ = ["Choice", "HostRefusal", "HostState", "Serves", "choose", "fits", "most_common_system"]

Serves = Literal["any", "read-write", "read-only", "primary", "standby", "prefer-standby"]
"""libpq's words for `target_session_attrs`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostState:
    """What a host says of itself.

    `system` identifies the cluster ("" where our role may not ask), `timeline` rises with each promotion (0: of a
    standby, which cannot tell), `started` is when its server process began: two names with one process are one server.
    `lsn`: up to where the write-ahead log is written, or replayed on a standby, in bytes.
    """

    standby: bool
    read_only: bool
    system: str
    timeline: int
    started: str
    lsn: int

    @property
    def incarnation(self) -> tuple[str, int]:
        """What changes when another server answers under the same name, or this one was promoted or restarted."""
        return self.started, self.timeline


class HostRefusal(StrEnum):
    """Why a host must not serve although it answers."""

    CLUSTER = "another_cluster"
    FORMER = "former_primary"  # it is on a timeline before the newest one that was seen
    SPLIT = "split_brain"  # two primaries on one timeline


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which host serves (None: no host), which ones must not, and the newest timeline of a primary."""

    host: int | None
    refused: Mapping[int, HostRefusal] = field(default_factory=dict)
    timeline: int = 0


def fits(state: HostState, serves: Serves) -> bool:
    """Whether a host in this state is what is looked for, as libpq means it; a second choice does not count."""
    if serves in ("standby", "prefer-standby"):
        return state.standby
    if serves == "primary":
        return not state.standby
    if serves == "read-write":
        return not (state.standby or state.read_only)
    return serves == "any" or state.standby or state.read_only


def choose(
    states: Sequence[HostState | None], serves: Serves, *, current: int | None, system: str, timeline: int
) -> Choice:
    """The host that is to serve. None in `states`: it does not answer. The `current` one stays as long as it fits.

    `system`: the cluster that the hosts must be of ("" where it is not known), `timeline`: the newest one seen so far.
    """
    refused: dict[int, HostRefusal] = {}
    answering = {number: state for number, state in enumerate(states) if state is not None}
    for number, state in answering.items():
        if system and state.system and state.system != system:
            refused[number] = HostRefusal.CLUSTER
    primaries = {n: state for n, state in answering.items() if n not in refused and not state.standby}
    newest = max([timeline, *(state.timeline for state in primaries.values())])
    former = {n for n, state in primaries.items() if state.timeline and state.timeline < newest}
    refused |= dict.fromkeys(former, HostRefusal.FORMER)
    rivals = {n: state for n, state in primaries.items() if n not in former}
    if len({state.started for state in rivals.values()}) > 1:
        refused |= dict.fromkeys(rivals, HostRefusal.SPLIT)
    allowed = {n: state for n, state in answering.items() if n not in refused}
    found = [n for n, state in allowed.items() if fits(state, serves)]
    if not found and serves == "prefer-standby":
        found = list(allowed)
    host = current if current in found else min(found, default=None)
    return Choice(host=host, refused=refused, timeline=newest)


def most_common_system(states: Sequence[HostState | None]) -> str:
    """Of which cluster most hosts are; where as many are of another, that of the first one in the list. "": unknown."""
    counts = Counter(state.system for state in states if state is not None and state.system)
    return counts.most_common(1)[0][0] if counts else ""
