"""Which data path does the PostgreSQL port run on? A compiled one where it was built, else the same in pure Python.

`core` is Cython, built by `hatch_build.py`: the sockets of the port and the straight case of a transaction. Everything
else is Python on both paths, and Python alone can do everything.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

__all__ = ["SWITCH", "data_path", "why_not"]

SWITCH: Final = "TENANTPROXY_NATIVE"
"""The environment variable that turns the compiled path off, by `0`."""

_NOT_BUILT: Final = Path(__file__).with_name("not_built")


def why_not() -> str | None:
    """Why the compiled path is not used; None: it is."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH}=0"
    try:
        import tenantproxy._native.loop as _  # noqa: F401
    except ImportError:
        return _NOT_BUILT.read_text().strip() if _NOT_BUILT.is_file() else "the compiled one was not built"
    return None


def data_path() -> str:
    """For people: `compiled`, or `pure Python` and why."""
    why = why_not()
    return "compiled" if why is None else f"pure Python: {why}"
