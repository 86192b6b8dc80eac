"""What was found on a server, before anything is decided. Values only; names are as in the catalogue, not quoted."""

from __future__ import annotations

from dataclasses import dataclass

from tenantproxy.lifecycle.table_facts import TableFacts
from tenantproxy.model import quote_identifier

__all__ = [
    "ColumnFound",
    "DatabaseFound",
    "InitFound",
    "KeyFound",
    "RegistryValues",
    "RelationFound",
    "RoleFound",
    "RoutineFound",
    "RowTable",
    "SchemaFound",
    "ServerFound",
    "TypeFound",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFound:
    """The server, and what the user that looks may do there. `provider`: the roles of a managed service."""

    version: int
    user: str
    database: str
    is_super: bool
    creates_roles: bool
    creates_databases: bool
    owns_database: bool
    max_connections: int
    reserved: int
    is_pooled: bool
    is_installed: bool
    provider: str
    extensions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseFound:
    """A database. `public_rights`: what PUBLIC may do; `is_mine`: its rights are the looking user's to give."""

    name: str
    owner: str
    public_rights: tuple[str, ...]
    is_mine: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleFound:
    """A role. `is_mine`: the looking user has its rights; `may_join`: it may make itself a member.

    `member_of`: predefined and other roles whose rights it has.
    """

    name: str
    logs_in: bool
    is_super: bool
    bypasses: bool
    inherits: bool
    is_mine: bool
    may_join: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaFound:
    """A schema. `public_creates`: PUBLIC may create in it. `owner`: pg_database_owner stands for the database's."""

    name: str
    owner: str
    public_creates: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnFound:
    """A column; `type` as PostgreSQL writes it; `label`: its name, quoted where SQL needs it."""

    name: str
    type: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationFound:
    """A table, view, sequence, ... `kind`: as pg_class.relkind. `label`: its name, quoted where SQL needs it.

    `parent`: the table that it is a part of. `reads`: labels of the relations that a view is made of. `grantees`: who
    else has been granted anything on it; `public_rights`: what PUBLIC has of that. `is_owned`: a sequence of a column.
    `is_readable`: its rows may be read.
    """

    schema: str
    name: str
    label: str
    kind: str
    owner: str
    parent: str | None = None
    rows: float = -1
    is_readable: bool = True
    is_invoker: bool = False
    is_owned: bool = False
    reads: tuple[str, ...] = ()
    grantees: tuple[str, ...] = ()
    public_rights: tuple[str, ...] = ()
    columns: tuple[ColumnFound, ...] = ()

    @property
    def sql(self) -> str:
        """Its name, always quoted."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"

    @property
    def is_table(self) -> bool:
        """Whether a policy can stand on it."""
        return self.kind in ("r", "p")

    def column(self, name: str) -> ColumnFound | None:
        """Its column of that name."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutineFound:
    """A function or procedure: its name with arguments. `is_fixed`: it has a search_path of its own."""

    name: str
    schema: str
    owner: str
    is_definer: bool
    is_fixed: bool
    is_public: bool
    is_trigger: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeFound:
    """An enum, a domain, or another type of one's own; `name` is written as in SQL."""

    name: str
    schema: str
    owner: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFound:
    """A foreign key. Actions and match as in pg_constraint; `nulled`: the columns that SET NULL or DEFAULT names."""

    name: str
    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    on_delete: str = "a"
    on_update: str = "a"
    match: str = "s"
    is_deferrable: bool = False
    is_deferred: bool = False
    is_valid: bool = True
    nulled: tuple[str, ...] = ()
    unique_sets: tuple[frozenset[str], ...] = ()
    """What is unique in the target: the columns of each whole unique index there."""
    partition_key: tuple[str, ...] = ()
    """Of the target: columns that each of its unique keys must hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryValues:
    """How many of the values of a column name a schema, or a database, of this server."""

    table: str
    column: str
    values: int
    schemas: int
    databases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowTable:
    """A table with the tenant's column: what the installer reads of it, and what only its rows tell."""

    facts: TableFacts
    unusable: tuple[str, ...] = ()
    has_nulls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InitFound:
    """Everything that the catalogue of the server and of one database says."""

    server: ServerFound
    databases: tuple[DatabaseFound, ...] = ()
    roles: tuple[RoleFound, ...] = ()
    schemas: tuple[SchemaFound, ...] = ()
    relations: tuple[RelationFound, ...] = ()
    routines: tuple[RoutineFound, ...] = ()
    types: tuple[TypeFound, ...] = ()
    keys: tuple[KeyFound, ...] = ()
    values: tuple[RegistryValues, ...] = ()

    @property
    def tables(self) -> tuple[RelationFound, ...]:
        """Tables that are no part of another one."""
        return tuple(each for each in self.relations if each.is_table and each.parent is None)

    @property
    def things(self) -> tuple[RelationFound | RoutineFound | TypeFound, ...]:
        """All that a role owns in the database."""
        return (*self.relations, *self.routines, *self.types)

    def role(self, name: str) -> RoleFound | None:
        """The role of that name."""
        return next((role for role in self.roles if role.name == name), None)

    def relation(self, label: str) -> RelationFound | None:
        """The relation with that label."""
        return next((each for each in self.relations if each.label == label), None)
