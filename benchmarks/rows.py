"""What do row tenants cost next to transaction + set_config? Both forms, in turns and one tenant, no process bound.

Sixteen tasks share ten connections in a closed loop. The CPU of client and server together tells what a call costs
wherever it runs; throughput also tells how well the two overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Final

from benchmarks.measure import Spread, Subject
from benchmarks.ours import Order, Ours, row_subject
from benchmarks.part import Options, Part
from benchmarks.peers import TransactionPool
from benchmarks.table import Verdict, at_least, figure, ratio, render, spread
from benchmarks.users import Run, run_for
from benchmarks.world import SIZE, World
from tenantproxy.model import RowForm

__all__ = ["run"]

_PEER: Final = "transaction"


def _ours(form: RowForm, order: Order) -> Callable[[World], Ours]:
    return lambda world: row_subject(world, "always", signed=True, order=order, form=form)


_SUBJECTS: Final[dict[str, Callable[[World], Subject]]] = {
    _PEER: TransactionPool,
    "signed, turns": _ours("bound", "20 in turns"),
    "trusted, turns": _ours("trusted", "20 in turns"),
    "signed, random": _ours("bound", "20 at random"),
    "signed, one": _ours("bound", "one tenant"),
    "trusted, one": _ours("trusted", "one tenant"),
}
_WANTED: Final = {"signed, turns": 0.95, "trusted, turns": 1.25, "signed, one": 1.8}


async def run(world: World, options: Options) -> Part:
    """All in each round, alternating forwards and backwards; the medians are judged."""
    runs: dict[str, list[Run]] = {key: [] for key in _SUBJECTS}
    async with AsyncExitStack() as stack:
        subjects = {key: make(world) for key, make in _SUBJECTS.items()}
        for subject in subjects.values():
            stack.push_async_callback(subject.close)
            await subject.open(SIZE)
        for number in range(options.rounds):
            for key in subjects if number % 2 == 0 else reversed(subjects):
                runs[key].append(await run_for(world, subjects[key], options.seconds))
    names = {key: subject.name for key, subject in subjects.items()}
    return Part(
        title=f"Row tenants: {SIZE} connections, 16 tasks, no process bound to a processor",
        text=_table(names, runs),
        data={key: [asdict(one) for one in all_] for key, all_ in runs.items()},
        verdicts=tuple(_verdicts(runs)),
    )


def _against(runs: dict[str, list[Run]], key: str, what: Callable[[Run], float]) -> Spread:
    """Each round's own ratio: what slows the machine for a while slows both."""
    return Spread.of(what(one) / what(peer) for one, peer in zip(runs[key], runs[_PEER], strict=True))


def _cpu(one: Run) -> float:
    return one.client_us + one.server_us


def _table(names: dict[str, str], runs: dict[str, list[Run]]) -> str:
    head = ("subject", "calls/s", "x transaction", "client us", "server us", "calls for its CPU, x")
    rows = [
        (
            names[key],
            spread(Spread.of(one.per_second for one in all_)),
            ratio(_against(runs, key, lambda one: one.per_second)),
            figure(Spread.of(one.client_us for one in all_).median),
            figure(Spread.of(one.server_us for one in all_).median),
            ratio(_against(runs, key, lambda one: 1 / _cpu(one))),
        )
        for key, all_ in runs.items()
    ]
    return render(head, rows)


def _verdicts(runs: dict[str, list[Run]]) -> Iterator[Verdict]:
    for key, wanted in _WANTED.items():
        value = _against(runs, key, lambda one: one.per_second)
        yield at_least(f"row tenants, {key}: throughput of transaction + set_config", wanted, value)
