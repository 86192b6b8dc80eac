"""How are new tenants made? Where, under which names, and with what in them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Final, Self

from pydantic import Field, StringConstraints, model_validator

from tenantproxy.config.section import Section
from tenantproxy.config.values import Count, Flag, Name, Size, Text, Texts, told
from tenantproxy.model import MAX_IDENTIFIER_BYTES, Isolation

__all__ = ["ProvisionSettings"]

# Nothing in it that SQL or a connection string would read otherwise.
Pattern = Annotated[str, StringConstraints(pattern=r"^(?:[a-z0-9_]|\{(?:id|domain|uuid8)\}){1,60}$")]
SystemPattern = Annotated[str, StringConstraints(pattern=r"^(?:[a-z0-9_]|\{(?:id|domain|system|uuid8)\}){1,60}$")]
_PLACE: Final = re.compile(r"\{(\w+)\}")
_LEAST: Final = 12  # bytes for each of {id}, {domain}, {system}: some of it, and eight digits that tell it from others


class ProvisionSettings(Section):
    """What `tenants create` makes. In names `{id}` is the tenant, `{uuid8}` eight random hex digits, `{domain}` what
    `--domain` says, `{system}` one of the `systems` of a schema tenant, each of which has a schema `system_schema`.

    `sql_files`: SQL that runs in each new database or schema, in this order, as the server's admin user; a database
    tenant is copied from a sealed template in which they ran once, unless `template` is off. `shared_database`: where
    schema and row tenants live. `role`: a login role for each; empty: the server's own user. `parallel`: tenants made
    at once. `stock`: databases that are kept ready on the server. `admin_query`: in the tenant's own session, with an
    e-mail address and a password hash; returns the new account's user_id.
    """

    isolation: Isolation = Isolation.DATABASE
    server: Text = ""
    database: Pattern = "tenant_{id}"
    schema_: Pattern = Field(default="tenant_{id}", alias="schema")
    role: Pattern | Annotated[str, StringConstraints(pattern=r"^$")] = "tenant_{id}"
    shared_database: Name | Annotated[str, StringConstraints(pattern=r"^$")] = ""
    sql_files: Texts = ()
    template: Flag = True
    parallel: Annotated[Size, Field(le=32)] = 4
    stock: Annotated[Count, Field(le=1000)] = 0
    systems: Annotated[Texts, Field(max_length=32)] = ()
    system_schema: SystemPattern = "tenant_{id}_{system}"
    admin_query: Text = ""

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        for key, pattern in (("database", self.database), ("schema", self.schema_), ("role", self.role)):
            if pattern:
                _check(key, pattern, ())
        _check("system_schema", self.system_schema, ("system",))
        if wrong := [name for name in self.systems if not re.fullmatch("[A-Za-z0-9_.-]{1,32}", name)]:
            raise told(f"systems has {wrong[0]!r}", "name each with 1 to 32 of A-Z a-z 0-9 _ . -")
        return self


def _check(key: str, pattern: str, needed: Sequence[str]) -> None:
    places = _PLACE.findall(pattern)
    for name in needed:
        if name not in places:
            raise told(f"{key} has no {{{name}}}: two schemas would have one name", f"put {{{name}}} into it")
    if not {"id", "uuid8"} & {*places}:
        raise told(f"{key} has no {{id}}: two tenants would have one name", f'write {key} = "tenant_{{id}}"')
    named = sum(name != "uuid8" for name in places)
    room = MAX_IDENTIFIER_BYTES - len(_PLACE.sub("", pattern)) - 8 * places.count("uuid8")
    if room < _LEAST * named:
        raise told(
            f"{key} leaves {room} of {MAX_IDENTIFIER_BYTES} bytes for {named} names", "shorten what is around them"
        )
