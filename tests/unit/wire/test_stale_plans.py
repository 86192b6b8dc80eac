"""Who learns of another shape of rows when a stale plan is made anew, and who gets a new plan?"""

from __future__ import annotations

import pytest

from tenantproxy.wire.frames import BIND, DESCRIBE, EXECUTE, PARSE, SYNC, frame
from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import Prepared, is_described
from tenantproxy.wire.statements import ServerStatements, Statements

BOUND = frame(BIND, b"\0one\0" + bytes(6))
RUN = frame(EXECUTE, b"\0" + bytes(4))
END = frame(SYNC)
PORTAL = frame(DESCRIBE, b"P\0")
STATEMENT = frame(DESCRIBE, b"Sone\0")
PARSED = frame(PARSE, b"one\0SELECT 1\0\0\0")


@pytest.mark.parametrize(
    ("segment", "expected"),
    [
        (BOUND + PORTAL + RUN + END, True),
        (BOUND + PORTAL + RUN + BOUND + PORTAL + RUN + END, True),
        (BOUND + RUN + END, False),
        (BOUND + PORTAL + RUN + BOUND + RUN + END, False),
        (PARSED + BOUND + PORTAL + RUN + END, False),
        (STATEMENT + BOUND + RUN + END, False),
    ],
)
def test_rows_of_another_shape_are_for_those_who_ask_for_it_each_time(segment: bytes, expected: bool) -> None:
    assert is_described(segment) is expected


def test_a_text_whose_plan_is_stale_gets_another_name_for_whoever_prepares_it_next() -> None:
    statements = Statements()
    one, other = Prepared(statements, Pipeline()), Prepared(statements, Pipeline())
    server = ServerStatements()
    one.board(server)
    one.parse(PARSED)
    one.bind(BOUND)
    before = one.names.get(b"one")
    one.outdated()
    other.board(server)
    other.parse(PARSED)
    assert other.names.get(b"one") is not before
    assert one.names.get(b"one") is before
