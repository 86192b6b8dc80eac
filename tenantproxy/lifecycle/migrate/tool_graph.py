"""What does a place lack of a project's migrations, and where is it? Pure: the graph against what was applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from tenantproxy.lifecycle.migrate.plan import MigrationsDiffer

__all__ = ["ToolGraph"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolGraph:
    """All migrations of a project, those that others need first; what each needs; what a squashed one stands for."""

    order: tuple[str, ...]
    needs: Mapping[str, tuple[str, ...]]
    replaces: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, told: Sequence[Mapping[str, Any]]) -> Self:
        """What a tool described."""
        return cls(
            order=tuple(each["id"] for each in told),
            needs={each["id"]: tuple(each["needs"]) for each in told},
            replaces={each["id"]: tuple(each["replaces"]) for each in told if each.get("replaces")},
        )

    def behind(self, heads: Iterable[str]) -> frozenset[str]:
        """The migrations that are applied where `heads` were the last. Raises MigrationsDiffer for one unknown here."""
        found: set[str] = set()
        left = list(heads)
        while left:
            if (each := left.pop()) not in self.needs:
                raise MigrationsDiffer(
                    f"{each} was applied, and the project has no such migration",
                    hint="migrate with the release that has it, or a newer one",
                )
            if each not in found:
                found.add(each)
                left += self.needs[each]
        return frozenset(found)

    def lacking(self, applied: Iterable[str]) -> tuple[str, ...]:
        """Those that are not among `applied`, in order. A squashed one is when all that it stands for are."""
        done = {*applied}
        done |= {each for each, former in self.replaces.items() if done.issuperset(former)}
        return tuple(each for each in self.order if each not in done)
