"""Which bytes break a parser of the PostgreSQL port? Mutated traces of real clients and servers, and generated ones.

Each target takes bytes as strangers would send them. It may refuse them with one of our errors; anything else that it
raises, and a backend given back that owes an answer, is a failure. The same seed makes the same inputs.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tenantproxy.errors import TenantProxyError
from tenantproxy.wire import frames
from tenantproxy.wire.client_auth import ClientAuth, Verdict
from tenantproxy.wire.frames import HEADER
from tenantproxy.wire.scram import Verifier
from tenantproxy.wire.server_auth import METHODS, BackendLogin
from tenantproxy.wire.startup import REQUEST_SIZE, CancelRequest, First, Startup, negotiate, read_first, wanted
from tests.support import model_server as pg
from tests.support.relay_desk import Client, Lender, settle

__all__ = ["TARGETS", "Fuzzer"]

_TRACES: Final = Path(__file__).with_name("wire_traces.json")
_VERIFIER: Final = Verifier.of_password("pencil", salt=b"0123456789abcdef", iterations=1)
_PIECES: Final = (1, 2, 5, 17, 300, 5000)


class Trace:
    """What a client and its server said to each other: packets before the first message, then messages."""

    def __init__(self, client: bytes, server: bytes) -> None:
        self.first: list[bytes] = []
        while client[4:6] == b"\x04\xd2" or client[4:6] == b"\0\3":
            size = int.from_bytes(client[:4], "big")
            self.first.append(client[:size])
            client = client[size:]
        messages = _messages(client)
        self.proofs = [message for message in messages if message[0] == frames.PASSWORD]
        self.client = [message for message in messages if message[0] != frames.PASSWORD]
        answers = _messages(server.lstrip(b"N") if self.first and len(self.first) > 1 else server)
        ready = next(n for n, message in enumerate(answers) if message[0] == frames.READY) + 1
        self.login, self.server = answers[:ready], answers[ready:]


def _messages(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= HEADER:
        size = int.from_bytes(data[1:HEADER], "big") + 1
        found.append(data[:size])
        data = data[size:]
    return found


def _traces() -> list[Trace]:
    pairs = [
        (base64.b64decode(each["client"]), base64.b64decode(each["server"])) for each in json.loads(_TRACES.read_text())
    ]
    return [Trace(client, server) for client, server in pairs if b"Z\0\0\0\5" in server]  # else it was refused


class Fuzzer:
    """Makes one input after the other, and tries it. Needs a running loop."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.traces = _traces()
        self._first = [packet for trace in self.traces for packet in trace.first]
        self._proofs = [proof for trace in self.traces for proof in trace.proofs]
        self._client = [trace.client for trace in self.traces]
        self._server = [trace.server for trace in self.traces]
        self._login = [trace.login for trace in self.traces]
        self._names = (b"a", b"b", b"__asyncpg_stmt_1__", b"tp_1", b"")
        self._texts = (
            b"rows 2",
            b"fail",
            b"bad",
            b"begin",
            b"rollback",
            b"copy in",
            b"trap",
            b"copy out",
            b"SET a = 1",
        )

    def one(self, target: str) -> bytes:
        """Try one input on `target`. Returns it; raises whatever is wrong."""
        return TARGETS[target](self)

    # --- making ------------------------------------------------------------------------------------------------------
    def mutated(self, data: bytes) -> bytes:
        """`data`, mostly a little broken."""
        rng = self.rng
        for _ in range(rng.choice((0, 1, 1, 2, 4))):
            at = rng.randrange(len(data) + 1)
            end = min(len(data), at + rng.choice((1, 1, 4, 20)))
            kind = rng.randrange(6)
            if kind == 0:
                data = data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            elif kind == 1:
                data = data[:at] + data[end:]
            elif kind == 2:
                data = data[:at] + data[at:end] * 2 + data[end:]
            elif kind == 3:
                data = data[:at] + rng.randbytes(end - at) + data[at:]
            elif kind == 4:
                data = data[:at]
            else:
                data = (
                    data[:at]
                    + rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\4"))
                    + data[end:]
                )
        return data

    def some(self, traces: list[list[bytes]]) -> bytes:
        """A few messages in a row of one trace, or of several in any order."""
        rng = self.rng
        messages = rng.choice(traces)
        if not messages:
            return b""
        begin = rng.randrange(len(messages))
        picked = messages[begin : begin + rng.choice((1, 3, 10, 40))]
        if rng.random() < 0.2:
            rng.shuffle(picked)
        return b"".join(picked)

    def generated(self) -> bytes:
        """Messages that a client may send, in an order that it may not."""
        rng = self.rng
        out = []
        for _ in range(rng.randrange(1, 10)):
            name, text = rng.choice(self._names), rng.choice(self._texts)
            out.append(rng.choice(_GRAMMAR)(name, text))
        return b"".join(out)

    def pieces(self, data: bytes) -> list[bytes]:
        """As a network may cut it."""
        step = self.rng.choice((*_PIECES, max(1, len(data))))
        return [data[at : at + step] for at in range(0, len(data), step)]


_GRAMMAR: Final[tuple[Callable[[bytes, bytes], bytes], ...]] = (
    lambda name, text: pg.query(text),
    pg.parse,
    lambda name, text: pg.parse(name, text) + pg.run(name),
    lambda name, text: pg.run(name),
    lambda name, text: pg.describe(name),
    lambda name, text: pg.close(name),
    lambda name, text: pg.SYNC,
    lambda name, text: pg.SYNC,
    lambda name, text: pg.FLUSH,
    lambda name, text: pg.data(),
    lambda name, text: pg.DONE,
    lambda name, text: pg.fail(),
    lambda name, text: pg.function(),
    lambda name, text: pg.parse(b"", b"DEALLOCATE " + name) + pg.run(),
    lambda name, text: pg.query(b"DEALLOCATE " + name),
)


def _client(fuzzer: Fuzzer) -> bytes:
    """A client behind its login, before a server that answers."""
    rng = fuzzer.rng
    sent = fuzzer.generated() if rng.random() < 0.5 else fuzzer.some(fuzzer._client)
    if rng.random() < 0.6:
        sent = fuzzer.mutated(sent)
    lender = Lender()
    client = Client(lender, is_session=rng.random() < 0.2)
    for piece in fuzzer.pieces(sent):
        client.send(piece)
        for backend in list(lender.backends):
            if backend.answers and rng.random() < 0.7:
                backend.deliver(rng.choice((1, 7, 40, None)))
    client.leave()
    settle(lender)
    assert client.ends == 1, sent
    assert len(lender.idle) == 1, sent
    return sent


def _server(fuzzer: Fuzzer) -> bytes:
    """A server that says anything to a client that asked for something."""
    rng = fuzzer.rng
    lender = Lender()
    client = Client(lender, is_session=rng.random() < 0.2)
    client.send(fuzzer.generated() + pg.query(b"rows 1"))
    backend = client.relay.backend
    said = fuzzer.mutated(fuzzer.some(fuzzer._server))
    if backend is not None:
        real = lender.backends[0]
        real.write = lambda data: None
        said = real.answers * (rng.random() < 0.3) + said
        real.model, real.answers = pg.ModelServer(), b""
        for piece in fuzzer.pieces(said):
            if real.is_leased:  # else the pool ends it at once
                real.data_received(piece)
    client.leave()
    assert client.ends == 1, said
    assert len(lender.idle) == 1, said
    return said


def _startup(fuzzer: Fuzzer) -> bytes:
    """A stranger."""
    rng = fuzzer.rng
    sent = fuzzer.mutated(b"".join(rng.choice(fuzzer._first) for _ in range(rng.randrange(1, 4))))
    buffer, answered = bytearray(sent), list[First]()
    try:
        while (first := read_first(buffer, answered=answered)) is not None:
            if isinstance(first, Startup):
                wanted(first)
                negotiate(first)
                break
            if isinstance(first, CancelRequest):
                break
            del buffer[:REQUEST_SIZE]
            answered.append(first)
    except TenantProxyError:
        pass
    return sent


def _proof(fuzzer: Fuzzer) -> bytes:
    """A stranger that is asked who it is."""
    rng = fuzzer.rng
    sent = fuzzer.mutated(b"".join(rng.choice(fuzzer._proofs) for _ in range(rng.randrange(1, 3))))
    method = rng.choice(("scram-sha-256", "cleartext"))
    auth = ClientAuth(method, _VERIFIER if rng.random() < 0.8 or method != "cleartext" else None, user=b"app")  # type: ignore[arg-type]
    buffer = bytearray(sent)
    try:
        while (message := auth.read(buffer)) is not None:
            del buffer[: message.size]
            step = auth.feed(message.payload)
            assert step.verdict is not Verdict.PROVEN, sent
            if step.verdict is not Verdict.MORE:
                break
    except TenantProxyError:
        pass
    return sent


def _login(fuzzer: Fuzzer) -> bytes:
    """A server that we log in at."""
    said = fuzzer.mutated(b"".join(fuzzer.rng.choice(fuzzer._login)))
    login = BackendLogin({"user": "app", "database": "db"}, lambda: "pencil", methods=METHODS)
    try:
        for piece in fuzzer.pieces(said):
            login.receive(piece)
            if login.is_done or login.refusal is not None:
                break
    except TenantProxyError:
        pass
    return said


TARGETS: Final[dict[str, Callable[[Fuzzer], bytes]]] = {
    "client": _client,
    "server": _server,
    "startup": _startup,
    "proof": _proof,
    "login": _login,
}
