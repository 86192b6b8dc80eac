"""Which release is installed? For banners, logs, metrics and the command line."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version

__all__ = ["version"]


def version() -> str:
    """The installed version; `unknown` where the package runs without being installed."""
    try:
        return installed_version("tenantproxy")
    except PackageNotFoundError:
        return "unknown"
