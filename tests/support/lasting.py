"""How do many tests share one world? It is built once, in a loop of its own that those of the tests never meet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tenantproxy.embedded import EmbeddedPostgres
from tests.support.world import World, a_world


@contextmanager
def a_lasting_world(server: EmbeddedPostgres, *, each: int = 3) -> Iterator[World]:
    """`each` tenants of each kind. Leave its rows as they are."""
    with ThreadPoolExecutor(1) as thread:
        runner = asyncio.Runner()
        made = a_world(server, rows=each, schemas=each, databases=each)
        yield thread.submit(runner.run, made.__aenter__()).result()
        thread.submit(runner.run, made.__aexit__(None, None, None)).result()
        thread.submit(runner.close).result()
