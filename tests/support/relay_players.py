"""Who talks to the relay in its model test? Polite clients, that wait for their answers, and rude ones.

Each text carries the tenant, the client and a number, and so do its rows and errors.
"""

from __future__ import annotations

import random
import re
from copy import deepcopy
from typing import Final

from tenantproxy.wire import frames
from tenantproxy.wire.frames import HEADER, frame, length_of
from tenantproxy.wire.statements import Statements
from tests.support import model_server as pg
from tests.support.model_server import SYNC, ModelServer
from tests.support.relay_desk import Client, Lender, Source

__all__ = ["HEAR", "LEAVE", "MANY", "STRIKE", "Player", "Polite", "Rude", "WrongAnswer", "messages_of", "wrong"]

PIECES: Final = (1, 3, 9, 40, None, None)
TRANSLATED: Final = frozenset(b"13tTn")  # answers to internal messages are among them, and are taken out
COMMANDS: Final = (b"rows 1", b"rows 3", b"rows 2", b"fail", b"begin", b"commit", b"rollback", b"copy out")
MANY: Final = 6000
STRIKE: Final = b"a timeout strikes it"
HEAR: Final = b"it hears all that was answered"
HOLD: Final = b"it hears nothing until it has sent all"
READY: Final = b"Z\0\0\0\5I"
LEAVE: Final = b"it hears all, and leaves"
_OUR_NAME: Final = re.compile(rb"tp_[0-9a-f]{16}")
_LABEL: Final = re.compile(rb"([a-z]+)\.([a-z0-9]+)\.[0-9]+:")
_ABOUT_A_NAME: Final = (b"\0C26000\0", b"\0C42P05\0")


class WrongAnswer(AssertionError):
    """A client got what it must not get, or a backend was lent again that was in use."""


def wrong(what: str, *facts: object) -> WrongAnswer:
    return WrongAnswer(f"{what}: {' '.join(map(repr, facts))}")


class Player(Client):
    """A client with its script. `heard` is what servers said to it, message by message."""

    def __init__(self, desk: Lender, name: str, tenant: str, statements: Statements, rng: random.Random) -> None:
        super().__init__(desk, statements=statements, source=Source(tenant))
        self.name, self.tenant, self.rng = name, tenant, rng
        self.numbers = 0
        self.heard: list[bytes] = []
        self.is_slow = False
        self.attacks = 0.3

    def text(self, command: bytes) -> bytes:
        """A command that no other message has."""
        self.numbers += 1
        return b"%s.%s.%d:%s" % (self.tenant.encode(), self.name.encode(), self.numbers, command)

    def shared(self, command: bytes, name: bytes = b"") -> bytes:
        """One that all of its tenant have under this name. Under two names, an error could be about either."""
        return b"%s.all.%d:%s" % (self.tenant.encode(), len(name) and name[0], command)

    def move(self) -> None:
        """Send some more."""
        raise NotImplementedError

    def may_be_refused(self) -> bool:
        """Whether it knows what it would see then, while it waits for a backend."""
        raise NotImplementedError

    def was_refused(self, said: bytes) -> None:
        """It got no backend, and heard `said`: nothing of its request runs, up to the end of its segment."""
        raise NotImplementedError

    def compare(self) -> None:
        """Raises WrongAnswer when it has got something else than it must."""
        raise NotImplementedError

    def may_have(self, data: bytes) -> bool:
        """Whether all labels in it are of this client, or of all of its tenant."""
        for tenant, name in _LABEL.findall(data):
            if tenant != self.tenant.encode() or name not in (self.name.encode(), b"all"):
                return False
        return _OUR_NAME.search(data) is None


class Polite(Player):
    """Waits for the answer to each segment, and compares."""

    def __init__(self, desk: Lender, name: str, tenant: str, statements: Statements, rng: random.Random) -> None:
        super().__init__(desk, name, tenant, statements, rng)
        self.alone = ModelServer()
        self.before = self.alone  # as it was when the segment under way had not been sent
        self.expected = b""
        self.next: list[bytes] = []
        self.is_whole = False  # what it sends now goes in one piece

    def script(self) -> None:
        rng, name = self.rng, self.rng.choice((b"a", b"b"))
        command = rng.choice(COMMANDS)
        text = self.text(command)
        # What is not prepared here yet cannot be in a transaction that has failed, nor put right in one.
        kind = rng.randrange({b"I": 13, b"T": 11, b"E": 8}[self.alone.status])
        if kind < 4:
            self.next = [pg.query(text)]
        elif kind == 4:
            self.next = [pg.query(b";".join((text, self.text(rng.choice(COMMANDS)))))]
        elif kind == 5:
            self.next = [pg.parse(b"", text) + pg.run() + SYNC]
        elif kind == 6:
            self.next = [pg.parse(b"", text) + SYNC, pg.run() + SYNC]
        elif kind == 7:
            lines = pg.data(self.name.encode() + b"\n") * rng.randrange(3)
            self.next = [pg.query(self.text(b"copy in")), lines + rng.choice((pg.DONE, pg.fail(), pg.data(b"wrong\n")))]
        elif kind == 8:
            self.next = [pg.parse(name, self.shared(command, name)) + pg.run(name) + SYNC]
        elif kind == 9:
            self.next = [pg.describe(name) + pg.run(name) + SYNC]
        elif kind == 10:
            self.next = [pg.close(name) + SYNC]
        elif kind == 11 and rng.random() < 0.5:
            shared = self.shared(b"rows 5")
            again = pg.parse(b"y", shared) + SYNC + pg.run(b"y") + SYNC
            self.next = [
                pg.close(b"x") + pg.close(b"y") + SYNC,
                pg.parse(b"", b"bad") + pg.parse(b"x", shared) + SYNC + again,
            ]
        elif kind == 11:
            shared = self.shared(command, name)
            self.next = [pg.parse(b"", b"bad") + pg.parse(name, shared) + SYNC, pg.parse(name, shared) + SYNC]
        else:
            prepared = self.text(b"inner") if rng.random() < 0.5 else self.shared(b"rows 4")
            self.next = [pg.close(b"i") + pg.parse(b"i", prepared) + SYNC, *[pg.shown(b"i") + SYNC] * 3]

    def move(self) -> None:
        """Send some more, or the next segment when the last one was answered."""
        if self.sending:
            self.push(self.rng.choice(PIECES))
            return
        if not self.is_answered:
            return
        self.compare()
        if not self.next:
            self.script()
        segment = self.next.pop(0)
        self.before = deepcopy(self.alone)
        self.expected, self.line.received = self.alone.feed(segment), b""
        self.sending = segment
        self.push(None if segment.startswith(pg.bind(b"i")) else self.rng.choice(PIECES))

    def may_be_refused(self) -> bool:
        """See Player: where its segment has come whole, and is one."""
        return not self.sending and [each[0] for each in messages_of(self.expected)].count(frames.READY) == 1

    def was_refused(self, said: bytes) -> None:
        """See Player."""
        self.alone, self.expected = self.before, said

    @property
    def is_answered(self) -> bool:
        """Whether as much has come as must."""
        return not self.sending and len(self.line.received) >= len(self.expected)

    def compare(self) -> None:
        received = self.line.received
        if received != self.expected:
            raise wrong("a polite client is answered otherwise than alone", self.name, received, self.expected)
        if self.line.is_closed:
            raise wrong("a polite client was ended", self.name, received)


class Rude(Player):
    """Sends anything, without waiting. Nothing is expected but what the server said while it had it."""

    def __init__(self, desk: Lender, name: str, tenant: str, statements: Statements, rng: random.Random) -> None:
        super().__init__(desk, name, tenant, statements, rng)
        self.left: list[bytes] = []  # of an attack
        self.token = b""  # what is to happen besides what it sends
        self.holds = False  # nothing is to arrive from its server meanwhile
        self.is_owed_ready = False  # it was refused in a segment whose end had not come

    def anything(self) -> bytes:  # noqa: C901 - a branch for each kind
        """A message, or a few that have a meaning together."""
        rng, name = self.rng, self.rng.choice((b"a", b"b", b"c"))
        command = rng.choice(COMMANDS + (b"copy in",) * 4 + (b"trap", b"inner"))
        kind = rng.randrange(30)
        if kind < 3:
            return pg.query(self.text(command))
        if kind < 5:
            return pg.query(self.text(command) + b";" + self.text(rng.choice((*COMMANDS, b"copy in"))))
        if kind < 8:
            return pg.parse(b"", self.text(command)) + pg.run()
        if kind == 8:
            return pg.parse(name, self.shared(command, name))
        if kind < 11:
            return rng.choice((pg.run(name), pg.run(), pg.describe(name), pg.close(name), pg.describe(b"none")))
        if kind < 13:
            return pg.parse(b"", self.text(command)) + rng.choice((b"", pg.FLUSH))
        if kind < 17:
            return SYNC * rng.choice((1, 1, 2))
        if kind < 22:
            return rng.choice(
                (pg.data(b"%s\n" % self.name.encode()), pg.DONE, pg.fail(), pg.DONE + SYNC, pg.data() + SYNC)
            )
        if kind == 22:
            return pg.bind(b"", values=b"\0\0\0\1\0\1\x11\x70" + b"x" * 70000 + b"\0\0")
        if kind == 23:
            return rng.choice((pg.function(), pg.FLUSH, pg.data(b"wrong\n"), pg.parse(b"", b"bad")))
        if kind == 24:
            return rng.choice((pg.query(b"DEALLOCATE ALL"), pg.query(b"DISCARD ALL"), SYNC * MANY))
        if kind == 25:
            return rng.choice((frame(frames.FLUSH, b"x"), frame(frames.SYNC, b"x")))
        if kind < 28:
            return pg.parse(b"", self.text(command)) + pg.run() + SYNC
        return pg.parse(b"", self.text(command)) + pg.run() + pg.query(self.text(rng.choice(COMMANDS))) + SYNC

    def attack(self) -> list[bytes]:
        """Something is opened; time passes; then come messages whose meaning depends on what the server made of it."""
        rng = self.rng
        copying = pg.parse(b"", self.text(b"copy in")) + pg.run()
        opened = rng.choice(
            (
                pg.parse(b"", self.text(b"rows 1")),
                pg.parse(b"", self.text(b"rows 1")) + pg.bind(b""),
                pg.parse(b"", self.text(b"rows 1")) + pg.run(),
                pg.query(self.text(b"copy in")),
                pg.query(self.text(b"trap")),
                copying,
                copying + SYNC,
                b"",
            )
        )
        messages = [pg.data(), pg.DONE, pg.fail(), pg.data(b"wrong\n"), SYNC, SYNC]
        more = [
            rng.choice((pg.query(self.text(rng.choice((b"rows 1", b"copy in", b"fail")))), pg.function())),
            copying,
            copying + SYNC,
            pg.parse(b"", self.text(b"rows 1")),
            SYNC,
        ]
        first = rng.choice((pg.data(b"wrong\n"), pg.fail(), pg.data(), b"")) + rng.choice((more[3], b"", b""))
        end = b"".join(rng.choices(messages, k=rng.randrange(4)) + rng.choices(more, k=rng.randrange(3)))
        end += rng.choice(messages) + SYNC + pg.query(self.text(b"rows 2"))
        kind = rng.randrange(10)
        if kind == 0:
            return [pg.query(self.text(b"rows 2")) + frame(frames.FLUSH, b"x")]
        if kind == 1:
            last, wrong = rng.choice((pg.query(self.text(b"rows 3")), pg.function())), pg.data(b"wrong\n")
            copy = pg.query(self.text(b"copy in"))
            return rng.choice(
                (
                    [copy, HEAR, HOLD, wrong + more[3], STRIKE, pg.data() + last],
                    [copy, wrong + SYNC + last],
                    [copy + SYNC, pg.data() + pg.DONE, LEAVE],
                )
            )
        if kind < 5:
            return [opened + end]
        return [opened, STRIKE, end] if kind < 7 else [opened, first, STRIKE, end]

    def move(self) -> None:
        if not self.sending:
            if not self.left and self.rng.random() < self.attacks:
                self.left = self.attack()
            if self.left:
                self.sending = self.left.pop(0)
            else:
                self.sending = b"".join(self.anything() for _ in range(self.rng.choice((1, 1, 2, 4))))
        self.token = b""
        if self.sending in (STRIKE, LEAVE, HEAR, HOLD):
            self.token, self.sending = self.sending, b""
            self.holds = self.holds or self.token is HOLD
        self.push(None if self.holds else self.rng.choice(PIECES))
        if not self.left and not self.sending:
            self.holds = False

    def may_be_refused(self) -> bool:
        """See Player."""
        return True

    def was_refused(self, said: bytes) -> None:
        """See Player. The end of its segment may still come, and is answered here."""
        self.heard += messages_of(said)
        if self.heard[-1] != READY:
            self.heard.append(READY)
            self.is_owed_ready = True

    def compare(self) -> None:
        """Everything that was said to it, and nothing else, in order."""
        if not self.may_have(self.line.received):
            raise wrong("a client sees what is another's", self.name, self.tenant, self.line.received)
        received, heard = shown(messages_of(self.line.received)), shown(self.heard)
        if self.is_owed_ready and len(received) == len(heard) - 1 and heard[-1] == READY:
            heard.pop()
        if self.line.is_closed:
            if received and received[-1][0] == frames.ERROR:
                received.pop()  # why it was ended
            heard = heard[: len(received)]
        if received != heard and not is_retried(received, heard):
            raise wrong("a client does not see what its server said", self.name, received, heard)


def messages_of(data: bytes) -> list[bytes]:
    found = []
    while len(data) >= HEADER and len(data) >= (length := length_of(data, 0)):
        found.append(data[:length])
        data = data[length:]
    return found


def shown(messages: list[bytes]) -> list[bytes]:
    found = []
    for message in messages:
        if message[0] in TRANSLATED:
            continue
        is_named = message[0] == frames.ERROR and any(each in message for each in _ABOUT_A_NAME)
        found.append(message[HEADER : HEADER + 30] if is_named else message)  # names are put right
    return found


def is_retried(received: list[bytes], heard: list[bytes]) -> bool:
    """Whether the client saw all but stale plans that were put right."""
    at = 0
    for message in received:
        while at < len(heard) and heard[at] != message and heard[at] in (pg.STALE_PLAN, b"Z\0\0\0\5I"):
            at += 1
        if at == len(heard) or heard[at] != message:
            return False
        at += 1
    return all(message in (pg.STALE_PLAN, b"Z\0\0\0\5I") for message in heard[at:])
