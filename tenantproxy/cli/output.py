"""How does a command show what it read? A table for people, JSON for programs; the same values."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tenantproxy.printable import json_text, line_text, printable

if TYPE_CHECKING:
    from tenantproxy.lifecycle.operations.progress import Progress as Told

__all__ = ["Output", "progress_bar", "progress_of"]

_ANY_WIDTH: Final = 10_000  # columns: of a table that nothing makes narrower


def progress_bar() -> Progress:
    """On stderr, so that what is printed can be piped; nothing where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def progress_of(what: str) -> Iterator[Told]:
    """A bar as what the lifecycle calls when it goes on."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=None)

        def told(done: int, total: int | None, now: str = "", /) -> None:
            bar.update(task, completed=done, total=total, description=escape(line_text(now)) or None)

        yield told


class Output:
    """Writes to standard output, as JSON or for a reader."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json

    def rows(self, rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
        """Rows with the same keys; `empty` is said instead of an empty table."""
        if self._as_json:
            self._json(list(rows))
        elif not rows:
            Console(stderr=True).print(empty, markup=False)
        else:
            console = Console()
            table = _table(rows)
            if console.measure(table, options=console.options.update(max_width=_ANY_WIDTH)).maximum > console.width:
                table = _table(rows, box=SIMPLE_HEAD, pad_edge=False)
            console.print(table)

    def table(self, values: Mapping[str, Any]) -> None:
        """One thing: a name and its value on each line."""
        if self._as_json:
            self._json(values)
            return
        table = Table(show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in values.items():
            table.add_row(escape(line_text(name)), escape(printable(_shown(value))))
        Console().print(table)

    def tree(self, values: Mapping[str, Any]) -> None:
        """Nested tables; for a reader `section.key = value` lines."""
        if self._as_json:
            self._json(values)
            return
        for name, value in _flat(values):
            line = f"{line_text(name)} = {json.dumps(value, default=_text)}"
            Console(soft_wrap=True).print(line, markup=False, highlight=False)

    def _json(self, value: object) -> None:
        sys.stdout.write(json_text(value, indent=2, default=_text) + "\n")


def _table(rows: Sequence[Mapping[str, Any]], **style: Any) -> Table:
    table = Table(**style)
    for name in rows[0]:
        # Nothing is cut: a narrow terminal has more lines. A heading stays whole while there is room for all of them.
        table.add_column(escape(name), overflow="fold", min_width=len(name))
    for row in rows:
        table.add_row(*(escape(line_text(_shown(value))) for value in row.values()))
    return table


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_shown(item)}" for name, item in value.items())
    return _text(value)


def _text(value: object) -> str:
    return f"\\x{value.hex()}" if isinstance(value, bytes) else str(value)


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    lines: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append((f"{prefix}{name}", value))
    return lines
