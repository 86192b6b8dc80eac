"""Which diagrams does docs/states.md hold? `python -m tests.support.state_diagrams` writes it again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tenantproxy.lifecycle.move.state import MOVE, MoveState
from tenantproxy.lifecycle.operations import OPERATION, OperationState
from tenantproxy.lifecycle.provision.state import SAGA, SagaState
from tenantproxy.lifecycle.status.removal_state import REMOVAL, RemovalState
from tenantproxy.pools.slots import SLOT, State
from tenantproxy.sidecar.pg.checkout import CHECKOUT, CheckoutState
from tenantproxy.sidecar.sql.states import RUN, SqlRunState
from tenantproxy.sidecar.workers.state import WORKER, WorkerState
from tenantproxy.wire.pipeline import CERTAINTY, COPY, Certainty, Copy
from tenantproxy.wire.requests import REQUESTS, Requests
from tenantproxy.wire.states import diagram

PAGE: Final = Path(__file__).parents[2] / "docs" / "states.md"


def page() -> str:
    """The whole page."""
    parts = [
        (
            "A connection of a pool",
            "`pools/slots.py`: in which state a connection is. One that is `retiring` goes, and its permit with it.",
            diagram(SLOT, State.IDLE),
        ),
        (
            "A client's bytes",
            "`wire/requests.py`: what the next byte of a client is.",
            diagram(REQUESTS, Requests.BOUNDARY),
        ),
        (
            "A client's backend",
            "`sidecar/pg/checkout.py`: where a client and its backend are. Its bytes are read in `idle` and `held`.",
            diagram(CHECKOUT, CheckoutState.IDLE),
        ),
        (
            "A request of SQL over HTTP",
            "`sidecar/sql/states.py`: where a request is. It has a backend in `running`, `ending` and `settling`.",
            diagram(RUN, SqlRunState.ASKED),
        ),
        (
            "COPY",
            "`wire/pipeline.py`: what the server does with messages of COPY.",
            diagram(COPY, Copy.NONE),
        ),
        (
            "A worker",
            "`sidecar/workers/state.py`: a worker's place. What waits is started again, with the same number.",
            diagram(WORKER, WorkerState.STARTING),
        ),
        (
            "A tenant that is being made",
            "`lifecycle/provision/state.py`: what is known to be done. Each step looks first.",
            diagram(SAGA, SagaState.REQUESTED),
        ),
        (
            "What a tenant has, on its way out",
            "`lifecycle/status/removal_state.py`: behind `waiting` nothing is taken back.",
            diagram(REMOVAL, RemovalState.WAITING),
        ),
        (
            "A tenant that is moved",
            "`lifecycle/move/state.py`: until it is `active` at its new place, the old one is its own.",
            diagram(MOVE, MoveState.REQUESTED),
        ),
        (
            "Long work that was asked for over HTTP",
            "`lifecycle/operations/state.py`: what is `done` or `failed` is over; its key gives what came of it.",
            diagram(OPERATION, OperationState.RUNNING),
        ),
        (
            "Certainty",
            "`wire/pipeline.py`: how sure it is what is outstanding. Only a `known` backend is lent again.",
            diagram(CERTAINTY, Certainty.KNOWN),
        ),
    ]
    sections = "\n".join(f"## {title}\n{text}\n\n```mermaid\n{drawing}\n```\n" for title, text, drawing in parts)
    return f"# States\n\nThe state machines, drawn from their tables.\n\n{sections}"


if __name__ == "__main__":
    PAGE.write_text(page())
