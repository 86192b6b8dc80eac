"""How is a state machine written down? One table: from this state, at this event, to that state.

What is not in the table must not happen. The diagrams of docs/states.md are made of these tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeAlias, TypeVar

__all__ = ["Table", "diagram"]

S = TypeVar("S", bound=StrEnum)
E = TypeVar("E", bound=StrEnum)
Table: TypeAlias = Mapping[tuple[S, E], S]


def diagram(table: Table[S, E], start: S) -> str:
    """`table` as a diagram of Mermaid."""
    events: dict[tuple[str, str], list[str]] = {}
    for (state, event), then in table.items():
        events.setdefault((state, then), []).append(event)
    arrows = [f"    {state} --> {then}: {', '.join(names)}" for (state, then), names in events.items()]
    return "\n".join(["stateDiagram-v2", f"    [*] --> {start}", *arrows])
