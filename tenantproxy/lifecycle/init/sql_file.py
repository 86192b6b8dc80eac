"""What is a file of SQL that an operator reviews and runs? Its statements in order, each with what takes it back."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tenantproxy.lifecycle.change import SEARCH_PATH

__all__ = ["LATER", "Do", "SqlFile", "granted", "runs", "when"]

LATER: Final = 70
"""Files from this number on are for later: `--apply` leaves them alone."""


@dataclass(frozen=True, slots=True)
class Do:
    """One statement, without a semicolon at its end, that may be run again; `undo`: what takes it back, '' nothing."""

    sql: str
    undo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SqlFile:
    """A numbered file. `about`: lines of its head. `whole`: one transaction; else each statement is one.

    `body`: a text that stands for its statements as it is, with the transactions that it needs.
    """

    number: int
    name: str
    about: tuple[str, ...]
    statements: tuple[Do, ...] = ()
    body: str = ""
    undo_body: str = ""
    whole: bool = True

    @property
    def path(self) -> str:
        """In the folder."""
        return f"sql/{self.number}_{self.name}.sql"

    @property
    def undo_path(self) -> str:
        """Of what takes it back."""
        return f"sql/{self.number}_{self.name}.undo.sql"

    def text(self) -> str:
        """What psql or `--apply` runs."""
        return _head(self.about) + (self.body or _transaction([each.sql for each in self.statements], self.whole))

    def undo_text(self) -> str:
        """The last one first."""
        head = _head((f"Takes {self.number}_{self.name}.sql back.",))
        undoing = [each.undo for each in self.statements[::-1] if each.undo]
        return head + (self.undo_body or _transaction(list(dict.fromkeys(undoing)), self.whole))


def _head(about: Iterable[str]) -> str:
    return "".join(f"-- {line}\n" for line in about) + "\n"


def _transaction(statements: Iterable[str], whole: bool) -> str:
    lines = "".join(f"{statement};\n" for statement in statements)
    if not whole:  # blank lines are where `runs` cuts: no statement holds one
        return "\n".join(f"{statement};\n" for statement in statements)
    return f"BEGIN;\nSET LOCAL search_path = {SEARCH_PATH};\nSET LOCAL lock_timeout = '5s';\n{lines}COMMIT;\n"


def runs(text: str) -> list[str]:
    """What is to be sent to the server by itself: each transaction of a file that has its own, else each statement."""
    has_transactions = "\nBEGIN;\n" in f"\n{text}"
    parts = re.split(r"(?<=\nCOMMIT;\n)", text) if has_transactions else re.split(r"\n\s*\n", text)
    return [part for part in parts if any(line and not line.startswith("--") for line in part.splitlines())]


def granted(rights: str, on: str, to: str) -> Do:
    """A GRANT; a role that is gone has lost it already."""
    return Do(f"GRANT {rights} ON {on} TO {to}", f"REVOKE {rights} ON {on} FROM {to}")


def when(condition: str, statement: str) -> str:
    """A statement that is run where `condition` holds."""
    body, tag = f"IF {condition} THEN\n  {statement};\nEND IF;", "do"
    while f"${tag}$" in body:  # a name may hold anything
        tag += "_"
    return f"DO ${tag}$ BEGIN {body} END ${tag}$"
