"""How is the isolation proof run and shown? A table of what was tried, a verdict, and a signed report for others."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape

from tenantproxy.cli.output import Output, progress_bar
from tenantproxy.config import Settings
from tenantproxy.errors import ConfigurationError, Problem, TenantProxyError
from tenantproxy.lifecycle.prove import (
    CHECKS,
    DOORS,
    IsolationProof,
    Options,
    ReportRefused,
    Result,
    TrialState,
    check_signing,
    prove,
    signed_report,
    verified_report,
)
from tenantproxy.printable import line_text, printable

__all__ = ["options", "run_proof", "show_report"]

_STDOUT: Final = Path("-")
_INTERRUPTED: Final = 2  # no verdict
_COLOURS: Final = {0: "green", 1: "red", 2: "yellow"}


def options(*, tenants: str, doors: Sequence[str], checks: Sequence[str], **others: Any) -> Options:
    """What was typed. Raises ConfigurationError for a door or check that is unknown, and for other than two tenants."""
    problems = [
        Problem(key=key, problem=f"{name!r} is not known", fix=f"it is one of: {', '.join(known)}")
        for key, names, known in (("--door", doors, DOORS), ("--check", checks, CHECKS))
        for name in names
        if name not in known
    ]
    pair = tuple(name.strip() for name in tenants.split(",")) if tenants else ()
    if (pair and len(pair) != len({*pair} - {""})) or len(pair) not in (0, 2):
        problems.append(Problem(key="--tenants", problem="names not two tenants", fix="write --tenants A,B"))
    if problems:
        raise ConfigurationError(problems)
    return Options(tenants=pair, doors=tuple(doors) or DOORS, checks=tuple(checks), **others)


def run_proof(settings: Settings, chosen: Options, json_file: Path | None) -> int:
    """Run it, show it, write the report; the exit code. Ctrl-C and SIGTERM end it when the canary rows are dropped."""
    if json_file is not None:
        check_signing(settings)  # before a minute was spent on it
    err = Console(stderr=True, soft_wrap=True)
    try:
        with progress_bar() as bar:
            task = bar.add_task("connecting", total=None)
            proof = asyncio.run(
                _interruptible(settings, chosen, lambda what: bar.update(task, description=escape(line_text(what))))
            )
    except (KeyboardInterrupt, asyncio.CancelledError):
        err.print("interrupted: nothing is proven; the canary rows are dropped", style="yellow")
        return _INTERRUPTED
    report = signed_report(proof, settings) if json_file is not None else ""
    if json_file == _STDOUT:
        sys.stdout.write(report)
    else:
        _show(proof)
        if json_file is not None:
            json_file.write_text(report)
    return proof.exit_code


async def _interruptible(settings: Settings, chosen: Options, progress: Any) -> IsolationProof:
    task = asyncio.current_task()
    assert task is not None
    if sys.platform != "win32":
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await prove(settings, chosen, progress=progress)


def _show(proof: IsolationProof) -> None:
    shown = [result for result in proof.results if result.state is not TrialState.NOTHING]
    Output(False).rows([_row(result) for result in shown], empty="nothing was tried")
    _verdict(proof.exit_code, [(result.state, _where(result)) for result in shown])
    Console(stderr=True, soft_wrap=True).print(
        f"{sum(result.cases for result in shown)} attempts by {', '.join(proof.tenants) or 'no tenants'},"
        f" {proof.seconds:.1f} s",
        highlight=False,
        markup=False,
    )


def _row(result: Result) -> dict[str, Any]:
    return {
        "result": result.state.value.upper() if result.state is not TrialState.HELD else "held",
        "door": result.door,
        "kind": result.kind,
        "check": result.check,
        "attempts": result.cases,
        "detail": result.detail,
    }


def _where(result: Result) -> str:
    return f"{result.check} ({result.kind}; {result.door}): {result.detail}"


def _verdict(code: int, results: Sequence[tuple[TrialState, str]]) -> None:
    err = Console(stderr=True, soft_wrap=True)
    for state, word in ((TrialState.LEAK, "LEAK"), (TrialState.UNTRIED, "NOT TRIED"), (TrialState.OPEN, "NO WALL")):
        for _, where in (each for each in results if each[0] is state):
            err.print(f"{word}: {line_text(where)}", markup=False, highlight=False)
    verdict = {0: "isolation held", 1: "isolation does NOT hold", 2: "NOT proven: not all of it could be tried"}[code]
    err.print(verdict, style=_COLOURS[code], markup=False, highlight=False)


def show_report(settings: Settings, path: Path) -> int:
    """Check the signature of a report, and show what it says; the exit code of the run that it is of, or 1: forged.

    Raises OSError, ConfigurationError without a key.
    """
    try:
        report = verified_report(sys.stdin.read() if path == _STDOUT else path.read_text(), settings)
    except ReportRefused as exc:
        text = ". ".join(part for part in (exc.message, exc.hint) if part)
        Console(stderr=True, soft_wrap=True).print(
            f"NOT genuine: {printable(text)}", style="red", markup=False, highlight=False
        )
        return 1
    try:
        results = [Result(**each | {"state": TrialState(each["state"])}) for each in report["results"]]
        code = {"held": 0, "leak": 1, "untried": 2}[report["verdict"]]
    except (KeyError, TypeError, ValueError):
        raise TenantProxyError("the report is of another version of tenantproxy") from None
    Output(False).rows([_row(result) for result in results if result.state is not TrialState.NOTHING], empty="nothing")
    Console(stderr=True).print("the signature is genuine", markup=False, highlight=False)
    _verdict(code, [(result.state, _where(result)) for result in results])
    return code
