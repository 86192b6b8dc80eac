"""Does every event become one readable, structured, harmless record?"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest
import structlog

from tenantproxy import events
from tenantproxy.events import AdminAccess, ConnectFailure, ConnectionOpened, Event, IsolationViolation, PoolEvicted
from tenantproxy.metrics.logging import LogObserver, combine


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    made = logging.getLogger("tenantproxy.tried")
    made.setLevel(logging.DEBUG)
    yield made
    made.handlers.clear()


class Kept(logging.Handler):
    def __init__(self, into: logging.Logger) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        into.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def example(kind: type[Event]) -> Event:
    values: dict[str, Any] = {
        "seconds": 0.5,
        "retry_in": 1.0,
        "permits": 1,
        "limit": 10,
        "waiting": 3,
        "seconds_left": 9.0,
    }
    return kind(**{field.name: values.get(field.name, f"some_{field.name}") for field in fields(kind)})


@pytest.mark.parametrize("kind", Event.__subclasses__(), ids=lambda kind: kind.__name__)
def test_every_event_becomes_one_record_with_its_fields(kind: type[Event], logger: logging.Logger) -> None:
    kept = Kept(logger)
    LogObserver(logger)(example(kind))
    (record,) = kept.records
    assert record.getMessage().startswith(record.__dict__["kind"])
    for field in fields(kind):
        assert record.__dict__[field.name] == getattr(example(kind), field.name)


def test_a_record_reads_by_itself_and_names_the_pool(logger: logging.Logger) -> None:
    kept = Kept(logger)
    LogObserver(logger)(PoolEvicted(pool="acme", reason="lru"))
    assert kept.records[0].getMessage() == "pool_evicted pool=acme reason=lru"
    assert kept.records[0].__dict__["pool"] == "acme"


def test_a_violation_is_an_error_and_routine_is_quiet(logger: logging.Logger) -> None:
    kept = Kept(logger)
    log = LogObserver(logger)
    log(IsolationViolation(check="prepared_in_sql", server="primary", database="shared"))
    log(ConnectFailure(server="primary", pool="acme", error="ConnectionRefusedError", retry_in=0.5))
    log(ConnectionOpened(server="primary", pool="acme", seconds=0.01))
    assert [record.levelno for record in kept.records] == [logging.ERROR, logging.WARNING, logging.DEBUG]


def test_a_level_that_is_off_writes_nothing(logger: logging.Logger) -> None:
    logger.setLevel(logging.INFO)
    kept = Kept(logger)
    LogObserver(logger)(ConnectionOpened(server="primary", pool="acme", seconds=0.01))
    assert kept.records == []


def test_what_somebody_typed_cannot_write_a_second_line(logger: logging.Logger) -> None:
    kept = Kept(logger)
    LogObserver(logger)(AdminAccess(tenant="acme", reason="bill\nERROR root logged in"))
    assert "\n" not in kept.records[0].getMessage()


def test_structlog_renders_the_fields(logger: logging.Logger) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    renderer = structlog.processors.JSONRenderer()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=[structlog.stdlib.ExtraAdder()], processor=renderer)
    )
    logger.addHandler(handler)
    LogObserver(logger)(PoolEvicted(pool="acme", reason="lru"))
    line = json.loads(stream.getvalue())
    assert (line["kind"], line["pool"], line["reason"]) == ("pool_evicted", "acme", "lru")


def test_an_observer_that_raises_is_logged_and_the_next_one_still_hears(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise RuntimeError("observer broke")

    event = PoolEvicted(pool="acme", reason="lru")
    with caplog.at_level(logging.ERROR, logger="tenantproxy"):
        combine(broken, heard.append)(event)
    assert heard == [event]
    assert "an observer failed on PoolEvicted" in caplog.text
    assert "observer broke" in caplog.text


def test_no_observers_are_one_that_ignores() -> None:
    assert combine() is events.ignore
