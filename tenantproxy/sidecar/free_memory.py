"""How is memory that is not needed any more found, and given back to the system? By Python, and by the C library."""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Final

__all__ = ["keep", "trim"]

_YOUNG: Final = 10_000  # objects; most are of requests under way, which a collection would find alive


def keep() -> None:
    """What is there now stays: a full collection need not look through it, and hold the event loop, each time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *gc.get_threshold()[1:])


def trim() -> None:
    """Give back what malloc holds free. Takes some milliseconds; does nothing where the C library has no such call."""
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):
        pass  # musl gives back by itself
