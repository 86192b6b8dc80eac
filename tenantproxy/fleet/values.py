"""What do a process and the main database say to each other about a budget? Frozen values, and their text."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

__all__ = ["PROTOCOL", "Census", "Claim", "FleetReport", "ServerGrant", "Terms", "body", "signature"]

PROTOCOL: Final = 1
"""Version of what is said. The main database refuses another one, so that two rules never share a budget."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a process asks of one server, by its configuration.

    `cap`: the most connections all processes together may have there. `floor`: what it may keep while it cannot renew.
    `burst`: connects under way at once. `ttl`: seconds after which a process that is not heard of counts as silent.
    """

    cap: int
    floor: int = 1
    burst: int = 1
    weight: float = 1.0
    ttl: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What a process holds and wants on one server.

    `used`: every connection that the server may count. `keep`: the limit that the process has put on itself before it
    said so; `lowers`: it is below what the last answer granted. `pids` with the `epoch` in which they were read.
    """

    server: str
    used: int
    want: float
    keep: int
    lowers: bool
    terms: Terms
    epoch: int
    pids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """All process ids of the fleet's login users on one server, read after `epoch` was known."""

    server: str
    epoch: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """One call of a process. `buried`: processes of its host that are known to be dead. `leaves`: it holds nothing.

    `ends`: what it holds is all that it will ever hold. Main hears that by the report which buries it.
    """

    process: UUID
    seq: int
    claims: tuple[Claim, ...]
    census: tuple[Census, ...] = ()
    buried: tuple[UUID, ...] = ()
    leaves: bool = False
    ends: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerGrant:
    """The answer for one server.

    `granted`: the most connections from now on. `target`: what it should come down, or will come up, to. `counted`: a
    census is due, so the process ids of all are wanted; `is_witness`: this process takes it. `processes` are alive, and
    `ghosts` are connections of silent ones that were seen on the server. `is_pending`: what was reported is not
    balanced yet, so it is to be reported again soon.
    """

    server: str
    granted: int
    target: int
    epoch: int
    counted: bool = False
    is_witness: bool = False
    processes: int = 0
    ghosts: int = 0
    is_pending: bool = False


def body(report: FleetReport, *, ttl: float) -> str:
    """`report` as the text that is signed and sent: JSON with the short names of `fleet.sql`."""
    said: dict[str, object] = {
        "v": PROTOCOL,
        "ttl": round(ttl * 1000),
        "leave": report.leaves,
        "shares": [_share(claim) for claim in report.claims],
    }
    if report.census:
        said["census"] = [{"s": one.server, "e": one.epoch, "p": one.pids} for one in report.census]
    if report.buried:
        said["bury"] = [str(process) for process in report.buried]
    return json.dumps(said, separators=(",", ":"))


def _share(claim: Claim) -> dict[str, str | float | bool | Sequence[int]]:
    terms = claim.terms
    share: dict[str, str | float | bool | Sequence[int]] = {
        "s": claim.server,
        "u": claim.used,
        "w": round(claim.want, 1),
        "k": claim.keep,
        "l": claim.lowers,
        "c": terms.cap,
        "f": terms.floor,
        "b": terms.burst,
        "x": terms.weight,
        "e": claim.epoch,
    }
    if claim.pids:
        share["p"] = claim.pids
    return share


def signature(key: bytes, *, fleet: str, process: UUID, seq: int, text: str) -> bytes:
    """HMAC-SHA256 over all that a call says. `text`: what `body` returned."""
    return hmac.new(key, f"fleet1|{fleet}|{process}|{seq}|{text}".encode(), hashlib.sha256).digest()
