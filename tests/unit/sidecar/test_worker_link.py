"""What comes of a question to another process, when it answers, fails, is gone, or says what is no message?"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tenantproxy.errors import ConfigurationError, PoolTimeout, Problem, TenantProxyError
from tenantproxy.sidecar.workers.link import Link, LinkLost


class Ends:
    """Two ends of a link. The far one answers by `reply`."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        self.near = Link(here, self.unasked, on_end=lambda: self.ended.append("near"))
        self.far = Link(there, self.reply)
        self.raw = there
        self.ended: list[str] = []
        self.begun = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def unasked(self, verb: str, body: Any) -> Any:
        return [verb, body]

    async def reply(self, verb: str, body: Any) -> Any:
        match verb:
            case "echo":
                return body
            case "late":
                self.begun.set()
                await self.may_answer.wait()
                return "late"
            case "back":
                return await self.far.ask("question", body)
            case "timeout":
                raise PoolTimeout("no connection in time", detail="d", hint="h", retry_after=2.0)
            case "wrong":
                raise ConfigurationError([Problem(key="a.b", problem="is wrong", fix="write c")], source="f.toml")
            case _:
                raise ValueError("a secret that must not be told")


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    await made.near.open()
    await made.far.open()
    yield made
    await made.near.close()
    await made.far.close()


async def test_both_ends_may_ask_and_answers_find_their_questions(ends: Ends) -> None:
    late = asyncio.ensure_future(ends.near.ask("late"))
    await ends.begun.wait()
    assert await ends.near.ask("back", {"a": [1, b"\x00"]}) == ["question", {"a": [1, b"\x00"]}]
    ends.may_answer.set()
    assert await late == "late"


async def test_an_error_arrives_as_the_class_that_it_was(ends: Ends) -> None:
    with pytest.raises(PoolTimeout, match="no connection in time") as caught:
        await ends.near.ask("timeout")
    assert (caught.value.detail, caught.value.hint, caught.value.retry_after) == ("d", "h", 2.0)
    with pytest.raises(ConfigurationError, match=r"a\.b: is wrong; write c"):
        await ends.near.ask("wrong")


async def test_what_an_unexpected_error_said_is_not_told(ends: Ends) -> None:
    with pytest.raises(TenantProxyError, match="internal error") as caught:
        await ends.near.ask("unknown")
    assert "secret" not in repr(caught.value)


async def test_a_question_is_given_up_in_time_and_its_late_answer_is_ignored(ends: Ends) -> None:
    with pytest.raises(LinkLost, match="does not answer"):
        await ends.near.ask("late", timeout=0.05)
    ends.may_answer.set()
    assert await ends.near.ask("echo", 1) == 1


async def test_every_question_fails_when_the_other_end_is_gone(ends: Ends) -> None:
    late = [asyncio.ensure_future(ends.near.ask("late")) for _ in range(3)]
    await ends.begun.wait()
    ends.raw.shutdown(socket.SHUT_RDWR)
    for each in late:
        with pytest.raises(LinkLost, match="is gone"):
            await each
    with pytest.raises(LinkLost):
        await ends.near.ask("echo")
    assert ends.ended == ["near"]


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x03abc", b"\x00\x00\x00\x01\xc1"])
async def test_what_is_no_message_ends_the_link(garbage: bytes) -> None:
    here, there = socket.socketpair()
    ended = asyncio.Event()
    link = Link(here, _never, on_end=ended.set)
    await link.open()
    asked = asyncio.ensure_future(link.ask("echo"))
    await asyncio.sleep(0)
    there.send(garbage)
    with pytest.raises(LinkLost):
        async with asyncio.timeout(10):
            await asked
    assert ended.is_set()
    await link.close()
    there.close()


async def _never(verb: str, body: Any) -> Any:
    raise AssertionError(verb)
