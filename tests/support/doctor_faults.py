"""Which faults are planted for `tenantproxy doctor`? Those of doctor_faults.toml, in groups that go together."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

__all__ = ["FAULTS", "PlantedFault", "groups"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedFault:
    """One entry of the file, where the fields are explained."""

    code: str
    name: str
    database: str
    object: str
    plant: tuple[str, ...]
    cleared: tuple[str, ...] = ()
    touches: tuple[str, ...] = ()
    besides: str = ""
    needs_contrib: bool = False


def _fault(entry: dict[str, Any]) -> PlantedFault:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return PlantedFault(**values)


_FILE: Final = Path(__file__).with_suffix(".toml")
FAULTS: Final = tuple(_fault(entry) for entry in tomllib.loads(_FILE.read_text())["fault"])


def groups(faults: Sequence[PlantedFault], *, main: str) -> list[list[PlantedFault]]:
    """As few as there can be: faults of a server (planted in `main`) apart from those inside a database."""
    made: list[tuple[bool, set[str], list[PlantedFault]]] = []
    for fault in faults:
        touched, is_inside = {fault.object, *fault.touches}, fault.database != main
        group = next((each for each in made if each[0] is is_inside and not each[1] & touched), None)
        if group is None:
            group = (is_inside, set(), [])
            made.append(group)
        group[1].update(touched)
        group[2].append(fault)
    return [group[2] for group in made]
