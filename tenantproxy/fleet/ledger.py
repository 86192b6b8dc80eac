"""How do the processes of one host share a budget without a main database? A file that one of them changes at a time.

It answers reports as the main database does, but needs no expiry: a process is alive as long as it holds the lock of
its file (`HostSlot`). What a dead one had stays reserved until its connections have been counted on the server.
State: the file; in memory nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from tenantproxy.fleet.balance import Asker, raises, targets
from tenantproxy.fleet.host import HostSlot, locked
from tenantproxy.fleet.stats import FleetProcess
from tenantproxy.fleet.values import FleetReport, ServerGrant

__all__ = ["HostLedger", "answer"]

_Server = dict[str, Any]
"""Of one server: `epoch`, `ghosts`, and `rows` by process id."""
_HEARING: Final = 3.0
"""Seconds in which each process that lives reports: when the folder is lost, so are the files that say which do."""
_NEW: Final[Mapping[str, Any]] = {"epoch": 0, "ghosts": 0}


def answer(
    state: dict[str, _Server],
    report: FleetReport,
    alive: frozenset[UUID],
    awaited: set[UUID] | None = None,
    *,
    is_hearing: bool = False,
) -> list[ServerGrant]:
    """What `report` is granted by `state`, which is changed; `alive`: the other processes of the host that run.

    `awaited`, which is changed too: processes that were granted something by a file that is lost. What they say that
    they keep is theirs, and nothing is raised before all of them that live have said it. `is_hearing`: it is not known
    which they are, so that holds for each process.
    """
    awaited = set() if awaited is None else awaited
    adopts = is_hearing or report.process in awaited
    awaited &= alive - {report.process}
    for server in state.values():
        dead = [row for process, row in server["rows"].items() if UUID(process) not in alive | {report.process}]
        if not all(row["dead"] for row in dead):
            server["epoch"] += 1
        for row in dead:
            row["dead"] = True
    me = str(report.process)
    if report.leaves:
        for server in state.values():
            server["rows"].pop(me, None)
    for claim in report.claims:
        server = state.setdefault(claim.server, {**_NEW, "rows": {}})
        joined = max((row["joined"] for row in server["rows"].values()), default=0) + 1
        kept = claim.keep if adopts and claim.epoch >= 0 else 0
        row = server["rows"].setdefault(me, {"granted": kept, "joined": joined, "dead": False})
        if claim.lowers:
            row["granted"] = min(row["granted"], claim.keep)
        terms = claim.terms
        row |= {"used": claim.used, "want": claim.want, "floor": terms.floor, "weight": terms.weight, "cap": terms.cap}
        row |= {"epoch": claim.epoch, "pids": list(claim.pids)}
        if report.ends:  # as one that is dead: what it keeps is reserved until it was counted, and nothing is added
            row["dead"] = True
            server["epoch"] += 1
    for census in report.census:
        server = state.get(census.server, {**_NEW, "rows": {}})
        if census.epoch == server["epoch"]:
            _count(server, census.pids)
    if report.ends:
        return []
    return [
        _balance(state[claim.server], claim.server, me, raises_any=not awaited and not is_hearing)
        for claim in report.claims
    ]


def _charge(row: Mapping[str, Any]) -> int:
    return max(int(row["granted"]), int(row["used"]))


def _count(server: _Server, pids: tuple[int, ...]) -> None:
    """What no living process claims is left of the dead, who cannot open anything any more."""
    rows = server["rows"]
    claimed = {
        pid for row in rows.values() if not row["dead"] and row["epoch"] == server["epoch"] for pid in row["pids"]
    }
    gone = [process for process, row in rows.items() if row["dead"]]
    reserved = server["ghosts"] + sum(_charge(rows.pop(process)) for process in gone)
    server["ghosts"] = min(reserved, sum(pid not in claimed for pid in pids))


def _balance(server: _Server, name: str, me: str, *, raises_any: bool) -> ServerGrant:
    living = {process: row for process, row in server["rows"].items() if not row["dead"]}
    dead = sum(_charge(row) for row in server["rows"].values() if row["dead"])
    askers = [
        Asker(
            key=UUID(process).int,
            granted=row["granted"],
            charge=_charge(row),
            want=row["want"],
            floor=row["floor"],
            weight=row["weight"],
            joined=row["joined"],
        )
        for process, row in living.items()
    ]
    left = min(row["cap"] for row in living.values()) - server["ghosts"] - dead
    wanted = targets(askers, left)
    granted = raises(askers, wanted, left - sum(asker.charge for asker in askers)) if raises_any else {}
    for process, row in living.items():
        row["granted"] = granted.get(UUID(process).int, row["granted"])
    is_due = bool(server["ghosts"] or dead)
    return ServerGrant(
        server=name,
        granted=living[me]["granted"],
        target=wanted[UUID(me).int],
        epoch=server["epoch"],
        counted=is_due,
        is_witness=is_due,
        processes=len(living),
        ghosts=server["ghosts"],
    )


class HostLedger:
    """The file of a fleet in `folder`, in the place of a link to the main database."""

    reaches_main = False
    count = 0
    pids: tuple[int, ...] = ()

    def __init__(self, folder: str, fleet: str, slot: HostSlot) -> None:
        self._file = Path(folder) / f"{fleet}.ledger"
        self._slot = slot

    async def sync(self, report: FleetReport, *, timeout: float) -> list[ServerGrant]:
        """As `FleetLink.sync`. Raises TimeoutError, OSError."""
        async with asyncio.timeout(timeout):
            return await asyncio.to_thread(self._sync, report)

    def _sync(self, report: FleetReport) -> list[ServerGrant]:
        self._slot.claim(report.process)
        with locked(self._file.with_suffix(".lock")):
            now = time.monotonic()  # the same clock in all processes of a host
            found = self._read()
            if found is None:
                was_granted = any(claim.epoch >= 0 for claim in report.claims)  # by a file that is lost
                found = {}, set(self._slot.alive()), now + _HEARING if was_granted else now
            state, awaited, opens = found
            is_hearing = now < opens <= now + _HEARING  # later: of a time before the host was started again
            grants = answer(state, report, self._slot.alive(), awaited, is_hearing=is_hearing)
            new = self._file.with_suffix(".new")
            told = {"servers": state, "awaited": [str(process) for process in awaited], "opens": opens}
            new.write_text(json.dumps(told))
            new.replace(self._file)
            return grants

    def _read(self) -> tuple[dict[str, _Server], set[UUID], float] | None:
        """What is in the file; None: it was removed, or is damaged, and those that live know what they have."""
        try:
            found = json.loads(self._file.read_text())
            return found["servers"], {UUID(process) for process in found["awaited"]}, float(found.get("opens", 0.0))
        except (FileNotFoundError, ValueError, LookupError, TypeError):
            return None

    async def processes(self, *, timeout: float) -> list[FleetProcess]:
        """As `FleetLink.processes`, of the processes of the host. Raises TimeoutError, OSError."""
        async with asyncio.timeout(timeout):
            found = await asyncio.to_thread(self._read)
        return [
            FleetProcess(
                server=name,
                process=process,
                state="dead" if row["dead"] else "live",
                granted=row["granted"],
                used=row["used"],
                wanted=round(row["want"], 1),
            )
            for name, server in sorted((found[0] if found is not None else {}).items())
            for process, row in server["rows"].items()
        ]

    async def shared(self) -> None:
        """There is no connection to share."""

    async def pids_of(self, users: tuple[str, ...], *, timeout: float) -> tuple[int, ...]:
        """See `reaches_main`."""
        raise NotImplementedError

    def drop(self) -> None:
        """Nothing is held."""

    async def close(self, *, timeout: float = 1.0) -> None:
        """Nothing is held."""
