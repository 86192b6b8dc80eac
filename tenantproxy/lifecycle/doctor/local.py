"""What is wrong that no catalogue tells? Versions, budgets, clocks, poolers, and who reads the files of secrets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tenantproxy.config import Settings, is_loopback
from tenantproxy.config.checks import WellFormedSections
from tenantproxy.config.secrets_check import each_secret
from tenantproxy.connect.checks import MAX_CLOCK_OFFSET
from tenantproxy.lifecycle.doctor.finding import DoctorFinding
from tenantproxy.lifecycle.doctor.rules import found

__all__ = ["ServerFacts", "budget_findings", "secret_findings", "server_findings"]

_FIRST_MAJOR: Final = 15
_FIXED: Final[Mapping[int, int]] = {15: 14, 16: 10, 17: 6}  # the first minor without the leaks of TPD031
_MOUNTED: Final = ("/run/secrets/", "/var/run/secrets/")  # by a container's runtime, whose one user reads it


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What a server says of itself on one connection. `offset`: its clock minus ours, seconds.

    `is_pooled`: the configuration says that a pooler is in between, where clocks do not matter either.
    """

    name: str
    host: str
    version: int
    identity: str
    max_connections: int
    reserved: int
    budget: int
    encrypted: bool
    offset: float
    pid: int
    told_pid: int
    is_pooled: bool = False


def server_findings(facts: ServerFacts) -> Iterator[DoctorFinding]:
    """Of one server by itself."""
    where = {"server": facts.name}
    problem = _version_problem(facts.version)
    if problem is not None:
        major, minor = divmod(facts.version, 10_000)
        yield found("TPD031", **where, object=f"{major}.{minor}", detail=problem)
    if facts.pid != facts.told_pid and not facts.is_pooled:
        yield found("TPD038", **where, detail="another process answers than the one that we logged in at")
    if abs(facts.offset) > MAX_CLOCK_OFFSET and not facts.is_pooled:
        yield found("TPD039", **where, detail=f"{facts.offset:+.1f} s")
    if not (facts.encrypted or facts.host.startswith("/") or is_loopback(f"[{facts.host}]:1")):
        yield found("TPD040", **where, object=facts.host)


def _version_problem(version: int) -> str | None:
    major, minor = divmod(version, 10_000)
    if major < _FIRST_MAJOR:
        return f"is older than {_FIRST_MAJOR}, which isolation needs"
    if minor < _FIXED.get(major, 0):
        return f"has known leaks that {major}.{_FIXED[major]} has not"
    return None


def budget_findings(servers: Sequence[ServerFacts]) -> Iterator[DoctorFinding]:
    """The budgets of all sections that name one server, together, against what it has for us."""
    same: dict[str, list[ServerFacts]] = {}
    for facts in servers:
        same.setdefault(facts.identity, []).append(facts)
    for each in same.values():
        total, first = sum(facts.budget for facts in each), each[0]
        room = first.max_connections - first.reserved
        if total > room:
            names = " and ".join(f"[servers.{facts.name}]" for facts in each)
            less = f"{first.max_connections} less {first.reserved} reserved"
            detail = f"{total} connections, and the server has {room} ({less})"
            yield found(
                "TPD041",
                server=first.name,
                object=names,
                detail=detail,
                sql=(f"ALTER SYSTEM SET max_connections = {total + first.reserved}",),
            )


def secret_findings(settings: Settings) -> Iterator[DoctorFinding]:
    """Files of secrets that other users of this machine can read or write."""
    if os.name != "posix":
        return
    parts = WellFormedSections(**{name: getattr(settings, name) for name in WellFormedSections.__dataclass_fields__})
    for key, secret, _ in each_secret(parts):
        if secret is None or secret.kind != "file" or secret.where.startswith(_MOUNTED):
            continue
        mode = stat.S_IMODE(Path(secret.where).stat().st_mode)
        if mode & (stat.S_IRWXO | stat.S_IWGRP):
            yield found("TPD042", object=key, detail=f"{mode:04o}")
