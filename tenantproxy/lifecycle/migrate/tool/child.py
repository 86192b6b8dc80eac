"""Runs a project's migrations for one place after the other, as asked by the process at the other end of its pipes.

A line of standard input is a place, in JSON; a line of standard output the answer. When the other end closes while a
place is being migrated, this process ends at once, and the server undoes what was not committed. With `describe` as its
fourth argument it says which migrations there are, and ends.
"""

from __future__ import annotations

import importlib
import json
import os
import queue
import sys
import threading
import types
from pathlib import Path
from typing import Any, TextIO

__all__: list[str] = []

_PACKAGE = "tenantproxy_migration_tool"  # not `tenantproxy`, which need not be there


def _main(tool: str, folder: str, settings: str, only: str = "") -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the project prints is no answer
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [folder, *(each for each in sys.path if each != here)]
    package = types.ModuleType(_PACKAGE)
    package.__path__ = [here]
    sys.modules[_PACKAGE] = package
    session = importlib.import_module(f"{_PACKAGE}.session")
    module = importlib.import_module(f"{_PACKAGE}.{tool}_tool")
    os.chdir(folder)
    if only == "describe":
        module.start(settings)
        answers.write(json.dumps(module.describe()) + "\n")
        answers.flush()
        return
    asked: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_listen, args=(sys.stdin, asked), daemon=True).start()
    module.start(settings)
    while (line := asked.get()) is not None:
        answers.write(json.dumps(_answer(module, session, json.loads(line))) + "\n")
        answers.flush()
        asked.task_done()


def _listen(lines: TextIO, asked: queue.Queue[str | None]) -> None:
    for line in lines:
        asked.put(line)
    if asked.unfinished_tasks:
        os._exit(3)
    asked.put(None)


def _answer(module: Any, session: Any, place: dict[str, Any]) -> dict[str, Any]:
    os.environ.update(place.get("environment", {}))
    try:
        module.run(place)
    except session.MigrationRefused as exc:
        return {"is_done": False, "error": str(exc), "sqlstate": None, "is_refused": True}
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - a boundary: what a project raises is its own
        return {"is_done": False, "error": _said(exc), "sqlstate": _sqlstate(exc), "is_refused": False}
    return {"is_done": True}


def _said(error: BaseException) -> str:
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _sqlstate(error: BaseException) -> str | None:
    """That of the driver's error, which each tool wraps in its own. Of a server that went without a word: 08006."""
    seen: BaseException | None = error
    is_lost = False
    while seen is not None:
        for each in (seen, getattr(seen, "orig", None)):
            found = getattr(each, "sqlstate", None) or getattr(each, "pgcode", None)
            if isinstance(found, str):
                return found
            is_lost = is_lost or any(base.__name__ == "OperationalError" for base in type(each).__mro__)  # PEP 249
        seen = seen.__cause__ or seen.__context__
    return "08006" if is_lost else None


if __name__ == "__main__":
    _main(*sys.argv[1:])
