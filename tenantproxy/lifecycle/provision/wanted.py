"""Which tenant is wanted, and what will its database, schema and role be called? Pure: names are safe, or refused."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final, Self

from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem
from tenantproxy.model import MAX_IDENTIFIER_BYTES, Isolation, Placement, Tenant, TenantId, TenantStatus, tenant_id

__all__ = ["Wanted", "safe_name", "temporary_name", "wanted"]

_PLAIN: Final = re.compile(r"[a-z0-9_]+")
_OTHER: Final = re.compile(r"[^a-z0-9_]")
_PLACE: Final = re.compile(r"\{(id|domain|system)\}")
_DOMAIN: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_DIGITS: Final = 8  # of the hash or the random number that tells two names apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One tenant to be made. `mark`: 32 random hex digits, by which what was made for it is known again.

    `systems`: the names of its systems, each with its schema. `restore_from`: the backup that it is filled with, in the
    place of files and migrations.
    """

    id: TenantId
    isolation: Isolation
    server: str
    database: str
    schema: str | None
    role: str | None
    tier: str
    region: str | None
    mark: str
    systems: tuple[tuple[str, str], ...] = ()
    restore_from: str | None = None

    @property
    def sign(self) -> str:
        """The comment of what was made in one transaction."""
        return f"tenantproxy: made for {self.mark}"

    def tenant(self, status: TenantStatus) -> Tenant:
        """As the registry has it."""
        place = Placement(
            isolation=self.isolation, server=self.server, database=self.database, schema=self.schema, role=self.role
        )
        return Tenant(
            id=self.id, placement=place, status=status, tier=self.tier, region=self.region,
            systems=dict(self.systems),
        )  # fmt: skip

    def as_json(self) -> str:
        """For the saga's row."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What `as_json` wrote."""
        row = json.loads(text)
        systems = tuple((name, schema) for name, schema in row.get("systems", ()))
        return cls(**{**row, "id": TenantId(row["id"]), "isolation": Isolation(row["isolation"]), "systems": systems})

    def is_same(self, other: Self) -> bool:
        """Whether a request that is made again asks for the same; random parts of names are not compared."""
        mine, theirs = asdict(self), asdict(other)
        return all(mine[name] == theirs[name] for name in ("id", "isolation", "server", "tier", "region"))


def temporary_name(mark: str) -> str:
    """What a database is called until it is known to be ours: no one else has a database named so."""
    return f"tenantproxy_new_{mark}"


def safe_name(pattern: str, tenant: str, mark: str, **others: str) -> str:
    """`pattern` with `{id}`, `{uuid8}` and `others` filled in: lower-case ASCII letters, digits, `_`, at most 63 bytes.

    Identifiers that differ give names that differ: where characters had to be replaced, or the end cut off, a hash of
    the identifier is behind it. So `a-b` and `a_b`, or `A` and `a`, are never one name. Of a domain the dots become
    `_` and nothing is added: what tells its name from others is the rest of the pattern.
    """
    given = {"id": tenant, **others}
    plain = {name: _OTHER.sub("_", given[name].lower()) for name in set(_PLACE.findall(pattern))}
    room = MAX_IDENTIFIER_BYTES - len(_PLACE.sub("", pattern).replace("{uuid8}", "x" * _DIGITS))
    left = len(_PLACE.findall(pattern))
    for name in sorted(plain, key=lambda each: (len(plain[each]), each)):  # the short ones leave room for the long
        times = pattern.count(f"{{{name}}}")
        plain[name] = _fitting(given[name], plain[name], room // left, is_hashed=name != "domain")
        room, left = room - times * len(plain[name]), left - times
    filled = _PLACE.sub(lambda found: plain[found[1]], pattern)
    return filled.replace("{uuid8}", mark[:_DIGITS])


def _fitting(text: str, plain: str, room: int, *, is_hashed: bool) -> str:
    if not is_hashed:
        return plain[:room]
    if _PLAIN.fullmatch(text) and len(plain) <= room:
        return plain
    digits = hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
    return f"{plain[: room - _DIGITS - 1]}_{digits}"


def wanted(
    settings: Settings, tenant: str, *, isolation: Isolation | None = None, server: str | None = None,
    tier: str = "standard", region: str | None = None, domain: str | None = None, mark: str | None = None,
    systems: Sequence[str] | None = None,
) -> Wanted:  # fmt: skip
    """The tenant by `[provision]`, with other `systems` where they are given.

    Raises ConfigurationError with all that forbids it, TenantNotFound for a bad id.
    """
    rules, checked = settings.provision, tenant_id(tenant)
    kind, mark = isolation or rules.isolation, mark or secrets.token_hex(16)
    where = server or rules.server or settings.main.server
    systems = rules.systems if systems is None else systems
    if problems := [*_problems(settings, kind, where), *_domain_problems(settings, kind, domain, systems)]:
        raise ConfigurationError(problems)
    is_own, is_schema = kind is not Isolation.ROW, kind is Isolation.SCHEMA

    def name(pattern: str, **others: str) -> str:
        return safe_name(pattern, checked, mark, domain=domain or "", **others)

    return Wanted(
        id=checked,
        isolation=kind,
        server=where,
        database=name(rules.database) if kind is Isolation.DATABASE else rules.shared_database,
        schema=name(rules.schema_) if is_schema else None,
        role=name(rules.role) if is_own and rules.role else None,
        tier=tier,
        region=region,
        mark=mark,
        systems=tuple((each, name(rules.system_schema, system=each)) for each in systems) if is_schema else (),
    )


def _domain_problems(settings: Settings, kind: Isolation, domain: str | None, systems: Sequence[str]) -> list[Problem]:
    rules = settings.provision
    used = {
        Isolation.DATABASE: (rules.database, rules.role),
        Isolation.SCHEMA: (rules.schema_, rules.role, *(rules.system_schema for _ in systems)),
        Isolation.ROW: (),
    }[kind]
    needed = any("{domain}" in pattern for pattern in used)
    if needed and not domain:
        fix = "say which: --domain company.example.com"
        return [Problem(key="--domain", problem="is missing, and [provision] has {domain} in a name", fix=fix)]
    if domain and not _DOMAIN.fullmatch(domain):
        fix = "letters, digits, dots and hyphens, at most 253"
        return [Problem(key="--domain", problem="is not the name of a domain", fix=fix)]
    return []


def _problems(settings: Settings, kind: Isolation, server: str) -> list[Problem]:
    rules = settings.provision
    found = []
    if settings.registry.source != "postgres" or settings.registry.query is not None:
        problem, fix = "is not our own table, the one that provisioning writes", 'source = "postgres" without a query'
        found.append(Problem(key="registry", problem=problem, fix=fix))
    if server not in settings.servers:
        named = ", ".join(settings.servers)
        found.append(Problem(key="--server", problem=f"there is no [servers.{server}]", fix=f"name one of {named}"))
    else:
        found += _server_problems(settings, kind, server)
    if kind is not Isolation.DATABASE and not rules.shared_database:
        problem, fix = f"is missing, and a {kind} tenant lives there", "name the database that they share"
        found.append(Problem(key="provision.shared_database", problem=problem, fix=fix))
    return found


def _server_problems(settings: Settings, kind: Isolation, server: str) -> list[Problem]:
    found = []
    if settings.servers[server].admin is None and kind is not Isolation.ROW:
        fix = "name a user that may create databases and roles (CREATEDB CREATEROLE), and its password"
        found.append(Problem(key=f"servers.{server}.admin", problem="is missing", fix=fix))
    if settings.provision.role and settings.tenant_roles is None and kind is not Isolation.ROW:
        fix = 'name a key file for the passwords of roles, or set provision.role = ""'
        found.append(Problem(key="tenant_roles.key_file", problem="is missing", fix=fix))
    return found
