"""Which values may stand in the configuration? The types of its keys; text from the environment fits any."""

from __future__ import annotations

import json
import re
from ipaddress import ip_address
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_core import PydanticCustomError

from tenantproxy.model import check_identifier

__all__ = [
    "ContextName",
    "Count",
    "Flag",
    "GivenText",
    "Leeway",
    "Lifetime",
    "Listen",
    "Name",
    "NoTimeout",
    "Port",
    "Relations",
    "Seconds",
    "SelectionTime",
    "SettingName",
    "Size",
    "Text",
    "Texts",
    "Window",
    "as_text",
    "is_loopback",
    "kind_of",
    "listen_address",
    "relation_name",
    "tenant_list",
    "texts",
    "told",
]


class GivenText(str):
    """Text from the environment or a flag: it is read as the key needs. `origin` names where from."""

    __slots__ = ("origin",)
    origin: str

    def __new__(cls, text: str, *, origin: str) -> GivenText:
        """`text`, remembered to come from `origin`."""
        self = super().__new__(cls, text)
        self.origin = origin
        return self


_KINDS: Final = {
    bool: "a boolean",
    int: "a number",
    float: "a number",
    str: "text",
    dict: "a table",
    list: "a list",
    tuple: "a list",
}


def kind_of(value: object) -> str:
    """What sort of value this is, in a reader's words; never the value itself."""
    if value is None:
        return "nothing"
    return next((word for kind, word in _KINDS.items() if isinstance(value, kind)), type(value).__name__)


def told(problem: str, fix: str) -> PydanticCustomError:
    """A validation error that brings its own words."""
    return PydanticCustomError("told", "{problem}; {fix}", {"problem": problem, "fix": fix})


def _only(value: object, kinds: tuple[type, ...], wanted: str) -> Any:
    """`value` if it is one of `kinds`; pydantic alone would take "10" for 10 and true for 1 from a file."""
    if isinstance(value, GivenText):
        return value  # as it is: an error about it shall know where it came from
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": wanted})
    return value


def _whole(value: object) -> Any:
    return _only(value, (int,), "a whole number")


def _number(value: object) -> Any:
    return _only(value, (int, float), "a number")


def _flag(value: object) -> Any:
    return _only(value, (bool,), "true or false")


def as_text(value: object) -> Any:
    """Text, from wherever it comes."""
    return str(_only(value, (str,), "text"))


def texts(value: object) -> Any:
    """A list of text; from the environment as JSON or separated by commas."""
    if isinstance(value, GivenText):
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except ValueError:
                raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": "a list in JSON"}) from None
        return [part.strip() for part in value.split(",") if part.strip()]
    return _only(value, (list, tuple), "a list of text")


def tenant_list(value: object) -> object:
    """Identifiers of tenants, or "*" for all."""
    if isinstance(value, GivenText):
        return "*" if value == "*" else tuple(part.strip() for part in value.split(",") if part.strip())
    if value == "*" or isinstance(value, list | tuple):
        return value
    raise PydanticCustomError("wrong_kind", "must be {wanted}", {"wanted": 'a list of tenants, or "*"'})


def listen_address(text: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as (host, port); port 0 takes a free one. Raises ValueError that says why not."""
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError("must be host:port")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("must have its IPv6 address in brackets")
    if not host:
        raise ValueError("must name a host; 0.0.0.0 is every IPv4 address of this machine")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must end in a port from 0 to 65535")
    return host, int(port)


def is_loopback(listen: str) -> bool:
    """Whether only this machine can connect to `listen`, an address that `listen_address` takes."""
    host, _ = listen_address(listen)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listen(value: object) -> Any:
    text = as_text(value)
    if text:  # empty: no such listener
        try:
            listen_address(text)
        except ValueError as exc:
            raise told(str(exc), 'write for example "127.0.0.1:8080"') from None
    return text


_SETTING_NAME = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)+")


def _setting_name(value: object) -> Any:
    text = as_text(value)
    if not _SETTING_NAME.fullmatch(text) or len(text) > 63:
        raise told(
            "must name a custom setting, in lower case and with a dot", 'write for example "app.current_tenant_id"'
        )
    return text


def _context_name(value: object) -> Any:
    return value if value == "application_name" else _setting_name(value)


_RELATION = re.compile(r'([^".*\s]+|"(?:[^"]|"")+")\.([^".*\s]+|"(?:[^"]|"")+"|\*)')


def relation_name(text: str) -> tuple[str, str | None]:
    """`schema.table` as its two names, `schema.*` as the schema and None. Raises ValueError that says what is wrong.

    A name in double quotes may hold anything; others are taken as they are, as they stand in the catalogue.
    """
    found = _RELATION.fullmatch(text)
    if found is None:
        raise ValueError('must be "schema.table", or "schema.*" for all of a schema')
    schema, name = (part[1:-1].replace('""', '"') if part.startswith('"') else part for part in found.groups())
    if schema.startswith("pg_") or schema == "information_schema":
        raise ValueError("names a schema of PostgreSQL's own, which is never looked at")
    for part in (schema, name):
        check_identifier(part, "a name in it")
    return schema, None if found[2] == "*" else name


def _relations(value: object) -> Any:
    given = texts(value)
    for text in given:
        try:
            relation_name(as_text(text))
        except ValueError as exc:
            raise told(f"{text!r} {exc}", 'write for example ["public.countries", "geo.*"]') from None
    return given


Text = Annotated[str, BeforeValidator(as_text)]
Name = Annotated[str, StringConstraints(min_length=1), BeforeValidator(as_text)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(texts)]
Relations = Annotated[tuple[Text, ...], BeforeValidator(_relations)]
"""Names of relations, as `relation_name` takes them."""
Flag = Annotated[bool, BeforeValidator(_flag)]
Size = Annotated[int, Field(ge=1, le=1_000_000), BeforeValidator(_whole)]
Count = Annotated[int, Field(ge=0, le=1_000_000_000), BeforeValidator(_whole)]
Port = Annotated[int, Field(ge=1, le=65535), BeforeValidator(_whole)]
# PostgreSQL keeps a timeout in a 32-bit count of milliseconds: 2,147,483 s is the longest.
Seconds = Annotated[float, Field(gt=0, le=2_147_483, allow_inf_nan=False), BeforeValidator(_number)]
NoTimeout = Annotated[float, Field(ge=0, le=2_147_483, allow_inf_nan=False), BeforeValidator(_number)]
"""Seconds where 0 means none."""
Window = Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False), BeforeValidator(_number)]
Leeway = Annotated[float, Field(ge=0, le=60, allow_inf_nan=False), BeforeValidator(_number)]
"""How far the clocks of two machines may be apart."""
# For longer, it is not remembered that the sessions of a user were ended.
SelectionTime = Annotated[float, Field(gt=0, le=1800, allow_inf_nan=False), BeforeValidator(_number)]
Lifetime = Annotated[float, Field(ge=1, le=315_360_000, allow_inf_nan=False), BeforeValidator(_number)]
"""Seconds, up to ten years: nothing waits for them."""
Listen = Annotated[str, BeforeValidator(_listen)]
SettingName = Annotated[str, BeforeValidator(_setting_name)]
ContextName = Annotated[str, BeforeValidator(_context_name)]
"""A custom setting, or the one of PostgreSQL's own that a request may choose."""
