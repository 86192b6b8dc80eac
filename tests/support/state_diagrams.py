"""Which diagrams does docs/states.md hold? `python -m tests.support.state_diagrams` writes it again."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tenantproxy.sidecar.pg.checkout import CHECKOUT, CheckoutState
from tenantproxy.sidecar.workers.state import WORKER, WorkerState
from tenantproxy.wire.pipeline import CERTAINTY, COPY, Certainty, Copy
from tenantproxy.wire.requests import REQUESTS, Requests
from tenantproxy.wire.states import diagram

PAGE: Final = Path(__file__).parents[2] / "docs" / "states.md"


def page() -> str:
    """The whole page."""
    parts = [
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
            "Certainty",
            "`wire/pipeline.py`: how sure it is what is outstanding. Only a `known` backend is lent again.",
            diagram(CERTAINTY, Certainty.KNOWN),
        ),
    ]
    sections = "\n".join(f"## {title}\n{text}\n\n```mermaid\n{drawing}\n```\n" for title, text, drawing in parts)
    return f"# States\n\nThe state machines of the sidecar, drawn from their tables.\n\n{sections}"


if __name__ == "__main__":
    PAGE.write_text(page())
