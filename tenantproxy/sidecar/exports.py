"""Where does an export go that a program asks for? Into a folder of `[gdpr] folder`, on the machine of the process."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path

from tenantproxy.config import Settings
from tenantproxy.sidecar.admin_desk import ChangeRefused

__all__ = ["export_folder"]


def export_folder(settings: Settings, key: str | None) -> Path:
    """The same for the same idempotency key, so that what was interrupted is written again. Raises ChangeRefused."""
    if not settings.gdpr.folder:
        raise ChangeRefused(
            "there is no folder for exports",
            hint='name one: [gdpr] folder = "/var/lib/tenantproxy/exports", or export by the command line',
        )
    name = secrets.token_hex(12) if key is None else hashlib.sha256(key.encode()).hexdigest()[:24]
    return Path(settings.gdpr.folder) / name
