"""Does the model test fail where one rule of the relay is taken out? Each rule, and how it is taken out.

`MUTATIONS[name]()` is a block in which the rule does not hold. `found_within(name, steps)` plays the model test in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final
from unittest.mock import patch

from tenantproxy.sidecar.pg import forwarder
from tenantproxy.sidecar.pg.inbox import Inbox
from tenantproxy.wire import pipeline as pipelines
from tenantproxy.wire import prepared as statements
from tenantproxy.wire import requests, responses
from tenantproxy.wire.frames import COPY_DATA
from tenantproxy.wire.pipeline import Copy, Pipeline
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.statements import ServerStatements
from tests.support.relay_machine import Machine

__all__ = ["MUTATIONS", "found_within"]

BATCH: Final = 1000  # steps of one seed
Block = Callable[[], AbstractContextManager[Any]]


def instead(owner: object, name: str, make: Callable[[Any], Any]) -> Block:
    """`make(original)` in the place of an attribute."""
    return lambda: patch.object(owner, name, make(getattr(owner, name)))


def certain(when: Callable[..., bool]) -> Callable[[Any], Any]:
    """A method of Pipeline that leaves its certainty as it was, where `when` says so."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Pipeline, *args: Any) -> Any:
            before, is_it = self.certainty, when(self, *args)
            found = original(self, *args)
            if is_it:
                self.certainty = before
            return found

        return method

    return make


def nothing(original: Any) -> Any:
    return lambda *args, **options: None


def _opens_again(original: Any) -> Any:
    def opened(self: Pipeline) -> None:
        self.is_open = True

    return opened


def _believed(original: Any) -> Any:
    def skipped(self: Prepared, answers: bytes) -> None:
        before = dict(self._server._prepared)
        original(self, answers)
        self._server._prepared.update(before)

    return skipped


def _of_any(original: Any) -> Any:
    def bind(self: Prepared, message: bytes) -> Any:
        if not message[6]:  # no portal's name, no statement's
            return message
        return original(self, message)

    return bind


def _always_there(original: Any) -> Any:
    return lambda self, statement, name: statement in self._begun or self._server.use(statement)


MUTATIONS: Final[dict[str, Block]] = {
    "a COPY message behind open messages makes it doubtful": instead(
        Pipeline, "copies", certain(lambda self, kind: self.is_open and self.copy is not Copy.IN)
    ),
    "so does an extended message in a COPY whose end has not been read": instead(Pipeline, "opened", _opens_again),
    "so does the end of a COPY behind answers of which a Sync is one": instead(
        Pipeline, "copies", certain(lambda self, kind: kind != COPY_DATA and not self.is_open)
    ),
    "so does a COPY that begins behind other answers": instead(
        Pipeline, "copy_began", certain(lambda self: self.outstanding > 1)
    ),
    "an error leaves what is open to be skipped up to a Sync": instead(pipelines, "SYNC", lambda sync: 77),
    "a server that says T and then I is lent no more": instead(Pipeline, "left_open", nothing),
    "a doubt is remembered": instead(Pipeline, "doubt", nothing),
    "messages without a body have none": instead(requests, "WITHOUT_BODY", lambda kinds: frozenset({0x58})),
    "only an error of the server's own is answered by a second try": instead(
        responses, "_INSIDE", lambda text: b"\xff"
    ),
    "a name is put right in an error": instead(Prepared, "in_own_names", lambda original: lambda self, error: error),
    "answers outstanding are bounded": instead(forwarder, "MAX_OUTSTANDING", lambda limit: 1_000_000),
    "the statement without a name is the client's own": instead(Prepared, "bind", _of_any),
    "a statement that an error skipped is not there": instead(Prepared, "skipped", _believed),
    "an error skips a Parse, and not what is behind its Sync": instead(Prepared, "_is_there", _always_there),
    "a client that has statements does not rest": instead(Prepared, "is_at_rest", lambda rests: True),
    "another backend knows other statements": instead(Prepared, "board", nothing),
    "answers to internal messages are taken out": instead(
        statements, "_SHOWN", lambda shown: dict.fromkeys(shown, 0x31)
    ),
    "a client is read again when its backend is given back": instead(Inbox, "resume", nothing),
    "what gets no backend is not sent to a later one": instead(
        requests.RequestStream, "refuse", lambda original: lambda self, data: 0
    ),
    "what room is made for is closed": instead(ServerStatements, "forget", nothing),
}


def found_within(name: str, steps: int, seed: int = 1) -> tuple[int, str] | None:
    """After how many steps the model test fails without the rule, and how; None: it does not."""
    done = 0
    with MUTATIONS[name]():
        while done < steps:
            machine = Machine(seed, attacks=0.3 + 0.6 * (seed % 2))
            try:
                asyncio.run(machine.play(BATCH))
            except Exception as exc:  # noqa: BLE001 - whatever fails, it is found
                return done + machine.done, f"{type(exc).__name__}: {str(exc)[:100]}"
            done, seed = done + machine.done, seed + 1
    return None
