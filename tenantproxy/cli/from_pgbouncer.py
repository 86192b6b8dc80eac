"""What does `tenantproxy config from-pgbouncer` show and write?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from tenantproxy.cli.output import Output
from tenantproxy.lifecycle.from_pgbouncer import Remark, Translated, read_ini, toml_text, translate, write_folder
from tenantproxy.printable import json_text

__all__ = ["run_from_pgbouncer"]

_ORDER: Final = ("decide", "other", "same", "needless")
_WORDS: Final = {"decide": "to decide", "other": "not the same", "same": "taken over", "needless": "not needed"}


def run_from_pgbouncer(file: Path, into: Path | None, *, as_json: bool) -> None:
    """Translate `file` and write it `into` a folder; without one the configuration goes to standard output.

    Raises ConfigurationError: the file cannot be read, or something is in the way.
    """
    found = translate(read_ini(file))
    written = [] if into is None else write_folder(found, into)
    if as_json:
        sys.stdout.write(json_text(_told(found, into is None, written), indent=2) + "\n")
        return
    if into is None:
        sys.stdout.write(toml_text(found))
        return
    rows = [
        {"": _WORDS[each.kind], "setting": each.setting, "here": each.text}
        for each in sorted(found.remarks, key=lambda each: _ORDER.index(each.kind))
    ]
    Output(False).rows(rows, empty="nothing was found")
    _next_steps(found.remarks, into)


def _told(found: Translated, is_dry: bool, written: list[Path]) -> dict[str, object]:
    told: dict[str, object] = {
        "remarks": [{"setting": each.setting, "kind": each.kind, "text": each.text} for each in found.remarks],
        "tenants": len(found.tenants),
        "users": len(found.users),
        "written": [str(path) for path in written],
    }
    return told | ({"toml": toml_text(found)} if is_dry else {})


def _next_steps(remarks: tuple[Remark, ...], into: Path) -> None:
    to_decide = sum(each.kind == "decide" for each in remarks)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    if to_decide:
        console.print(f"{to_decide} to decide: they stand at the head of the configuration too.")
    console.print(f"Next: tenantproxy config check --config {into / 'tenantproxy.toml'}", markup=False)
