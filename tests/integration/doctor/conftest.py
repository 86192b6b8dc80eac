"""The demo's world on a server of its own: each test plants one fault in it, and takes it out again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest

from tenantproxy.demo.world import World, build_world
from tenantproxy.embedded import EmbeddedPostgres
from tenantproxy.embedded import server as embedded
from tests.conftest import DEFAULT_VERSION, EVERY_VERSION

OLDER = [version for version in EVERY_VERSION if version != DEFAULT_VERSION]


@pytest.fixture(scope="session")
def sick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """On the version that tests use by default."""
    yield from _built(DEFAULT_VERSION, tmp_path_factory.mktemp("doctor"))


@pytest.fixture(scope="session", params=OLDER, ids=lambda version: f"pg{version}")
def each_sick(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """On each other version that there is."""
    yield from _built(request.param, tmp_path_factory.mktemp("doctor"))


_OURS: Final = ("log_parameter_max_length", "log_parameter_max_length_on_error", "max_prepared_transactions")


def _built(version: int, folder: Path) -> Iterator[World]:
    """Settings that our server begins with, and that could not be changed, are PostgreSQL's own here."""
    given = embedded._settings

    def without_ours(*args: Any, **options: Any) -> dict[str, str]:
        return {name: value for name, value in given(*args, **options).items() if name not in _OURS}

    with patch.object(embedded, "_settings", without_ours), EmbeddedPostgres(version=version, durable=False) as server:
        yield asyncio.run(build_world(server, folder, listen="127.0.0.1:0", admin_listen="127.0.0.1:0"))
