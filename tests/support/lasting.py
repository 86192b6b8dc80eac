"""How do many tests share one world? It is built once, in a loop of its own that those of the tests never meet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import TypeVar

from tenantproxy.embedded import EmbeddedPostgres
from tests.support.world import World, a_world

T = TypeVar("T")


def a_lasting_world(server: EmbeddedPostgres, *, each: int = 3) -> AbstractContextManager[World]:
    """`each` tenants of each kind. Leave its rows as they are."""
    return lasting(a_world(server, rows=each, schemas=each, databases=each))


@contextmanager
def lasting(made: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """Any world, kept for as long as the block."""
    with ThreadPoolExecutor(1) as thread:
        runner = asyncio.Runner()
        yield thread.submit(runner.run, _enter(made)).result()
        thread.submit(runner.run, _leave(made)).result()
        thread.submit(runner.close).result()


async def _enter(made: AbstractAsyncContextManager[T]) -> T:
    return await made.__aenter__()


async def _leave(made: AbstractAsyncContextManager[T]) -> None:
    await made.__aexit__(None, None, None)
