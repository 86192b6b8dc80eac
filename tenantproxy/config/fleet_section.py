"""How do the processes of a fleet share the budgets of their servers? The section, and its key."""

from __future__ import annotations

import hmac
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from tenantproxy.config.secret import Secret
from tenantproxy.config.section import Section
from tenantproxy.config.tenant_sections import RowSettings, TenantRoles
from tenantproxy.config.values import Flag, Seconds, Size, Text, told

__all__ = ["FleetSettings", "fleet_key"]


class FleetSettings(Section):
    """One budget of each server for all processes that have the same main database and `id`. Times in seconds.

    `interval`: between two reports of a process that wants nothing else. `ttl`: after which a process that is not heard
    of counts as silent. `floor`: connections to each server that it may keep while it does not reach the main database.
    `burst`: connects to each server under way at once. `path`: a local directory in which the processes of one host
    know of each other. `key`: what signs their reports, by default derived from another secret of the configuration.
    `user`: as whom they are made, by default the main server's user, which tenants' SQL may be able to disturb.
    """

    enabled: Flag = True
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,63}$")] = "default"
    interval: Seconds = 2.0
    ttl: Annotated[Seconds, Field(ge=3, le=3600)] = 15.0
    floor: Size = 1
    burst: Size = 4
    on_main_loss: Literal["floor", "keep"] = "floor"
    path: Text = ""
    user: Text = ""
    password: Secret | None = None
    password_file: Text | None = None
    password_env: Text | None = None
    key: Secret | None = None
    key_file: Text | None = None
    key_env: Text | None = None

    @model_validator(mode="after")
    def _check_interval(self) -> Self:
        if self.interval > self.ttl / 6:
            raise told("interval is more than a sixth of ttl", "raise ttl, or lower interval")
        if self.password is not None and not self.user:
            raise told("a password without a user", "name the user that it is of, or leave it out")
        return self


def fleet_key(fleet: FleetSettings, row: RowSettings, roles: TenantRoles | None) -> bytes | None:
    """The 32 bytes that sign what processes report; None: nothing that all of them know is secret.

    Derived from `[fleet] key`, else the newest key of `[row]`, else that of `[tenant_roles]`, and opens nothing else.
    Raises ConfigurationError when it cannot be read.
    """
    rows = row.keys()
    secrets = (fleet.key, rows[max(rows)] if rows else None, roles.key if roles is not None else None)
    secret = next((each for each in secrets if each is not None), None)
    if secret is None:
        return None
    given = secret.read_bytes()
    return hmac.digest(given, f"tenantproxy fleet/{fleet.id}".encode(), "sha256") if given else None
