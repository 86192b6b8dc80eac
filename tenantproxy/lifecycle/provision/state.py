"""How far is a tenant's provisioning? States, and the table of what leads from one to the next."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from tenantproxy.wire.states import Table

__all__ = ["ENDED", "SAGA", "SagaEvent", "SagaState"]


class SagaState(StrEnum):
    """The last thing that is known to be done. What comes next may have been done as well: each step looks first."""

    REQUESTED = "requested"
    HAS_ROLE = "has_role"
    HAS_PLACE = "has_place"
    HAS_ACCESS = "has_access"
    HAS_CONTENT = "has_content"
    VERIFIED = "verified"
    HAS_ADMIN = "has_admin"
    ACTIVE = "active"
    CLEANING = "cleaning"
    CLEANED = "cleaned"


class SagaEvent(StrEnum):
    """What has been done, or has failed."""

    ROLE_MADE = "login role made"
    PLACE_MADE = "database or schema made"
    ACCESS_GIVEN = "closed to all others"
    CONTENT_RAN = "files ran"
    LOOKED_AT = "reached as the tenant"
    ADMIN_MADE = "first account made, if one was asked for"
    REGISTERED = "registered as active"
    FAILED = "a step failed, or abandoned"
    REMOVED = "all that was made is gone"


_S, _E = SagaState, SagaEvent

SAGA: Final[Table[SagaState, SagaEvent]] = {
    (_S.REQUESTED, _E.ROLE_MADE): _S.HAS_ROLE,
    (_S.HAS_ROLE, _E.PLACE_MADE): _S.HAS_PLACE,
    (_S.HAS_PLACE, _E.ACCESS_GIVEN): _S.HAS_ACCESS,
    (_S.HAS_ACCESS, _E.CONTENT_RAN): _S.HAS_CONTENT,
    (_S.HAS_CONTENT, _E.LOOKED_AT): _S.VERIFIED,
    (_S.VERIFIED, _E.ADMIN_MADE): _S.HAS_ADMIN,
    (_S.HAS_ADMIN, _E.REGISTERED): _S.ACTIVE,
    (_S.REQUESTED, _E.FAILED): _S.CLEANING,
    (_S.HAS_ROLE, _E.FAILED): _S.CLEANING,
    (_S.HAS_PLACE, _E.FAILED): _S.CLEANING,
    (_S.HAS_ACCESS, _E.FAILED): _S.CLEANING,
    (_S.HAS_CONTENT, _E.FAILED): _S.CLEANING,
    (_S.VERIFIED, _E.FAILED): _S.CLEANING,
    (_S.HAS_ADMIN, _E.FAILED): _S.CLEANING,
    (_S.CLEANING, _E.REMOVED): _S.CLEANED,
}
"""A tenant that was active once is never cleaned: what it has is more than what provisioning made."""

ENDED: Final = frozenset({SagaState.ACTIVE, SagaState.CLEANED})
