"""Which release is this? For banners, logs, metrics and the command line."""

from __future__ import annotations

from typing import Final

__all__ = ["VERSION"]

VERSION: Final = "0.1.0"
"""The build reads it from here, so that it is right too where the package runs without being installed."""
