"""How does memory that a process has freed go back to the system? glibc keeps it until it is told to let go of it."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["trim"]


def trim() -> None:
    """Give back what malloc holds free. Takes some milliseconds; does nothing where the C library has no such call."""
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # musl gives back by itself
