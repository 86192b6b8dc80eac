"""How are the hosts of a server written? The types of those keys."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any, Final

from pydantic import BeforeValidator

from tenantproxy.config.values import Text, as_text, texts, told

__all__ = ["Host", "HostPorts", "SystemId", "host_port"]


def _host(value: object) -> Any:
    text = as_text(value)
    why = _not_a_host(text)
    if why is not None:
        raise told(*why)
    return text


def _not_a_host(text: str) -> tuple[str, str] | None:
    """What is wrong with `text` as the host of a server, and the fix; never the value, which may hold a password."""
    if not text:
        return "is empty", "write a host name, an address, or the folder of a unix socket"
    if text != text.strip() or any(character.isspace() for character in text):
        return "contains a blank", "write the host alone, without blanks"
    if "://" in text or "@" in text:
        return "is a URL", "write host, port, user and password_file as keys of their own"
    if text.startswith("/"):
        return None
    if "," in text:
        return "names several hosts", 'write hosts = ["a:5432", "b:5432"] for the hosts of one cluster'
    if text.startswith("["):
        return "is an IPv6 address in brackets", 'write it without them, as in "::1", and the port as port = 5432'
    if ":" in text:
        try:
            ip_address(text.partition("%")[0])
        except ValueError:
            return "contains a port", "write the host alone, and the port as port = 5432"
    elif "/" in text:
        return "is a path that does not begin with /", "write the whole path of the folder of the unix socket"
    return None


DEFAULT_PORT: Final = 5432


def host_port(text: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port`, a host alone (port 5432) or `/folder:port` as (host, port). Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if (text.startswith("[") and text.endswith("]")) or not colon:
        host, port = text, ""
    elif not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError("must end in a port from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError("must have its IPv6 address in brackets")
    why = _not_a_host(host)
    if why is not None:
        raise ValueError(why[0])
    return host, int(port) if port else DEFAULT_PORT


def _host_ports(value: object) -> Any:
    given = texts(value)
    seen: set[tuple[str, int]] = set()
    for number, text in enumerate(given):
        try:
            place = host_port(as_text(text))
        except ValueError as exc:  # never the value, which may hold a password
            example = 'write for example ["db1.internal:5432", "db2.internal:5432"]'
            raise told(f"entry {number} {exc}", example) from None
        if place in seen:
            raise told(f"entry {number} is there twice", "name each host once")
        seen.add(place)
    return given


_SYSTEM_ID: Final = re.compile(r"[0-9]{1,20}")


def _system_id(value: object) -> Any:
    text = as_text(value)
    if text and not _SYSTEM_ID.fullmatch(text):
        raise told(
            "is not a system identifier", "write what SELECT system_identifier FROM pg_control_system() says, as text"
        )
    return text


Host = Annotated[str, BeforeValidator(_host)]
HostPorts = Annotated[tuple[Text, ...], BeforeValidator(_host_ports)]
"""Hosts with their ports, as `host_port` takes them."""
SystemId = Annotated[str, BeforeValidator(_system_id)]
