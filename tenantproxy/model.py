"""What is a tenant, and what is the plan of one request? Values only: no I/O, nothing here can change."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal, NewType

from tenantproxy.errors import TenantNotFound

__all__ = [
    "MAX_IDENTIFIER_BYTES",
    "NOTHING",
    "OWN_SETTINGS",
    "Binding",
    "InvalidTenant",
    "Isolation",
    "Limits",
    "Placement",
    "PoolKey",
    "Proof",
    "Route",
    "RowForm",
    "Session",
    "Tenant",
    "TenantId",
    "TenantStatus",
    "check_identifier",
    "check_schema",
    "quote_identifier",
    "reader_of",
    "tenant_id",
]

MAX_IDENTIFIER_BYTES: Final = (
    63  # NAMEDATALEN - 1: PostgreSQL cuts longer names without an error, so two could become one
)
_READER: Final = "_reader"
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

OWN_SETTINGS: Final = ("app.tenant_proof", "app.context", "app.context_proof")
"""What isolation itself sets in a session, besides the setting of `[row]`."""

TenantId = NewType("TenantId", str)
"""A tenant identifier that `tenant_id()` has checked."""

# No quote, backslash, NUL, blank or non-ASCII letter: an identifier is written into `SET app.current_tenant_id = '...'`
# (under an unknown standard_conforming_strings), into application_name and into labels, and must not have look-alikes.
_TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,62}")


def tenant_id(value: object) -> TenantId:
    """`value` as a checked tenant identifier: 1 to 63 of `A-Z a-z 0-9 _ . -`, starting with a letter or a digit.

    Raises TenantNotFound: an identifier of another form cannot name a tenant. The error does not repeat the value.
    """
    if isinstance(value, str) and _TENANT_ID.fullmatch(value):
        return TenantId(value)
    raise TenantNotFound(
        "this cannot be a tenant identifier",
        detail=_why_not(value),
        hint="a tenant identifier is 1 to 63 of the characters A-Z a-z 0-9 _ . - and begins with a letter or a digit",
    )


def _why_not(value: object) -> str:
    if not isinstance(value, str):
        return f"it is a {type(value).__name__}, not a str"
    if not value:
        return "it is empty"
    if "\0" in value:
        return "it contains a NUL byte"
    if not value.isascii():
        return "it contains a character that is not ASCII"
    if len(value) > MAX_IDENTIFIER_BYTES:
        return f"it is {len(value)} bytes long"
    return "it contains or begins with a character that is not allowed"


class InvalidTenant(ValueError):
    """A field of a tenant, its placement or its limits has a value that cannot be used, or one of another type."""


def _check_types(owner: object, **kinds: type | tuple[type, ...]) -> None:
    """InvalidTenant when a field of `owner` is no instance of its kind: a registry of the user's own fills them."""
    for name, kind in kinds.items():
        value = getattr(owner, name)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            kinds_named = kind if isinstance(kind, tuple) else (kind,)
            wanted = " or ".join("None" if each is type(None) else each.__name__ for each in kinds_named)
            raise InvalidTenant(f"{type(owner).__name__}.{name} is a {type(value).__name__}, not {wanted}")


def check_identifier(name: str, what: str) -> str:
    """`name` if PostgreSQL keeps it as it is when quoted; ValueError that names `what` otherwise."""
    if not name:
        raise ValueError(f"{what} is empty")
    if "\0" in name:
        raise ValueError(f"{what} contains a NUL byte")
    if not name.isprintable():
        raise ValueError(f"{what} contains a character that cannot be printed")
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_IDENTIFIER_BYTES:
        raise ValueError(f"{what} is {size} bytes long, PostgreSQL would cut it to {MAX_IDENTIFIER_BYTES}")
    return name


def quote_identifier(name: str) -> str:
    """`name` as a quoted SQL identifier: the only function that writes one. Raises ValueError as `check_identifier`."""
    return '"' + check_identifier(name, "an identifier").replace('"', '""') + '"'


def reader_of(role: str) -> str:
    """The role that reads what `role` reads, and writes nothing: its name with `_reader`.

    Raises ValueError when PostgreSQL would cut it.
    """
    return check_identifier(f"{role}{_READER}", f"the name of the role that reads for {role!r}")


def check_schema(name: str) -> None:
    """ValueError when `name` cannot be a tenant's schema."""
    check_identifier(name, "the schema name")
    if name.startswith("pg_") or name == "information_schema":
        raise ValueError(f"the schema {name!r} is PostgreSQL's own")
    if name == "$user":
        raise ValueError("the schema '$user' stands for the role's own schema in a search_path: name the schema itself")


def _check_schema_of_system(schema: object) -> None:
    if not isinstance(schema, str):
        raise InvalidTenant(f"a schema in Tenant.systems is a {type(schema).__name__}, not str")
    check_schema(schema)


RowForm = Literal["bound", "trusted"]  # of a signed session on a primary: see Proof


class Isolation(StrEnum):
    """What keeps a tenant apart from the others: a database, a schema, or row-level security in shared tables."""

    DATABASE = "database"
    SCHEMA = "schema"
    ROW = "row"


class TenantStatus(StrEnum):
    """Where a tenant is in its life; only ACTIVE ones are served."""

    PROVISIONING = "provisioning"
    ACTIVE = "active"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    INACTIVE = "inactive"
    DELETING = "deleting"


class Proof(StrEnum):
    """How a session of a row tenant proves whose it is (docs/isolation.md).

    PLAIN: not at all. BOUND, TRUSTED: verified once; kept in the backend's memory, or in a parameter of the keeper's.
    CARRIED: checked in each statement (replicas). EXACT: the same, made for one transaction (behind a pooler).
    """

    PLAIN = "plain"
    BOUND = "bound"
    TRUSTED = "trusted"
    CARRIED = "carried"
    EXACT = "exact"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """A tenant's own limits; None: the configured default."""

    max_size: int | None = None
    max_waiting: int | None = None
    acquire_timeout: float | None = None

    def __post_init__(self) -> None:
        none = type(None)
        _check_types(self, max_size=(int, none), max_waiting=(int, none), acquire_timeout=(int, float, none))
        for name, least in (("max_size", 1), ("max_waiting", 0), ("acquire_timeout", 0.001)):
            value = getattr(self, name)
            if value is not None and not least <= value < float("inf"):
                raise InvalidTenant(f"Limits.{name} is {value}, which is out of range: write a number from {least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where a tenant's data lives. `server` names one of the operator's servers, never a host."""

    isolation: Isolation
    server: str
    database: str
    schema: str | None = None
    role: str | None = None

    def __post_init__(self) -> None:
        none = type(None)
        _check_types(self, isolation=Isolation, server=str, database=str, schema=(str, none), role=(str, none))
        check_identifier(self.database, "the database name")
        if self.schema is not None:
            check_schema(self.schema)
        if self.role is not None:
            check_identifier(self.role, "the role name")
        if self.isolation is Isolation.SCHEMA and self.schema is None:
            raise ValueError("a schema tenant needs a schema")
        if self.isolation is not Isolation.SCHEMA and self.schema is not None:
            raise ValueError(f"a {self.isolation} tenant has no schema of its own; its search_path is the server's")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One registered tenant.

    `epoch` rises when it moves, is suspended or deleted; `systems` maps the name of a system to its schema.
    """

    id: TenantId
    placement: Placement
    status: TenantStatus = TenantStatus.ACTIVE
    tier: str = "standard"
    region: str | None = None
    limits: Limits = field(default=Limits())
    epoch: int = 0
    settings: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    systems: Mapping[str, str] = field(default_factory=lambda: NOTHING)

    def __post_init__(self) -> None:
        _check_types(
            self, id=str, placement=Placement, status=TenantStatus, tier=str, region=(str, type(None)), limits=Limits,
            epoch=int, settings=Mapping, systems=Mapping,
        )  # fmt: skip
        if not _TENANT_ID.fullmatch(self.id):
            raise InvalidTenant(f"Tenant.id cannot be a tenant identifier: {_why_not(self.id)}")
        for schema in self.systems.values():
            _check_schema_of_system(schema)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolKey:
    """Connections opened for equal keys are interchangeable.

    `user` and `schema` are None for the server's own user and for no pinned schema; `profile` keeps apart
    connections with other client-side habits (codecs, statement caches). `shared`: row tenants share the pool.
    `systems`: further schemas of the same tenant, which its role may reach too. `reader`: its `user` must write
    nothing, which is looked at when connecting.
    """

    server: str
    database: str
    user: str | None = None
    schema: str | None = None
    profile: str = ""
    shared: bool = False
    systems: tuple[str, ...] = ()
    reader: bool = False
    _hash: int = field(init=False, repr=False, compare=False)  # looked up at each lease: computed once

    def __post_init__(self) -> None:
        whose = (self.server, self.database, self.user, self.reader)
        fields = (*whose, self.schema, self.profile, self.shared, self.systems)
        object.__setattr__(self, "_hash", hash(fields))

    def __hash__(self) -> int:
        return self._hash

    @property
    def name(self) -> str:
        """For people and labels: `server/database`, with the schema or user where they tell pools apart."""
        return "/".join(part for part in (self.server, self.database, self.schema, self.user, self.profile) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """Which tenant a shared session must be bound to, and how it proves it. `setting` is what policies read."""

    tenant: TenantId
    proof: Proof
    setting: str = "app.current_tenant_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a connection must be set to before a caller may have it, as data: every connector applies the same thing.

    What is pinned in the startup packet follows from the PoolKey and is not here. `context` are further settings of
    the request, set at each lease. `signed`: those of them that its tenant's SQL must not change, as one text that is
    proven at each lease; None: the deployment signs none. `standby`: of a replica, which must still be one each time.
    """

    binding: Binding | None = None
    context: tuple[tuple[str, str], ...] = ()
    signed: str | None = None
    standby: bool = False
    is_set_each_time: bool = field(init=False, repr=False, compare=False)
    """Whether each lease sets it again: a client can change in any SELECT what carries no proof."""

    def __post_init__(self) -> None:
        is_plain = self.binding is not None and self.binding.proof is Proof.PLAIN
        object.__setattr__(
            self,
            "is_set_each_time",
            bool(self.context or self.signed is not None or self.standby or is_plain),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The plan of one request: whose, from which pool, in which session. Equal requests have equal routes.

    `limits` are already the tenant's own where it has some.
    """

    tenant: TenantId
    isolation: Isolation
    pool: PoolKey
    session: Session
    limits: Limits = field(default=Limits())
