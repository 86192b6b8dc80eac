"""What is a line of the file here: a server, a tenant, a user of the port? And what is said of it? Values alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Remark", "ServerPart", "TenantPart", "UserPart"]


@dataclass(frozen=True, slots=True)
class Remark:
    """On one line of the file. `decide`: what was written is a guess, or nothing was."""

    setting: str
    kind: Literal["same", "other", "decide", "needless"]
    text: str


@dataclass(frozen=True, slots=True)
class ServerPart:
    """A server, reached as one user."""

    name: str
    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    connections: int = 0


@dataclass(frozen=True, slots=True)
class TenantPart:
    """A database that clients may ask for."""

    id: str
    server: str
    database: str
    max_size: int | None


@dataclass(frozen=True, slots=True)
class UserPart:
    """A user of the port; one of verifier and password, or neither where the file has none that can be used.

    `tenants`: those that it may reach; None: all.
    """

    name: str
    verifier: str | None = field(repr=False)
    password: str | None = field(repr=False)
    pool_mode: str
    max_clients: int | None
    console: bool | Literal["read"]
    cert: bool
    tenants: tuple[str, ...] | None = None
