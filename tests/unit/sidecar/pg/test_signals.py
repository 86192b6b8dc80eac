"""Is the row behind a warning turned in whatever pieces it comes, and is nothing else taken for such a row?"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.raw.backend import RawBackend
from tenantproxy.sidecar.pg.signals import Signal, TrueRow, signal_of
from tenantproxy.wire.frames import COMMAND_COMPLETE, DATA_ROW, ERROR, NOTICE, frame

WARNING = frame(
    NOTICE, b"SWARNUNG\0VWARNING\0C01000\0MPID 4711 ist kein Serverprozess\0Fsignalfuncs.c\0Rpg_signal_backend\0\0"
)
DONE = frame(COMMAND_COMPLETE, b"SELECT 1\0")


def row(value: bytes) -> bytes:
    return frame(DATA_ROW, b"\0\1" + len(value).to_bytes(4, "big") + value)


class Ear:
    """A backend's sink, with what it heard."""

    def __init__(self) -> None:
        self.sink: object = None
        self.heard = b""

    def __call__(self, data: bytes) -> None:
        self.heard += data


def heard(data: bytes, cuts: list[int]) -> bytes:
    ear = Ear()
    backend: RawBackend = ear  # type: ignore[assignment]
    listening = TrueRow(backend, ear)
    at = 0
    for cut in [*sorted(cuts), len(data)]:
        (ear if ear.sink is ear else listening)(data[at:cut])
        at = max(at, cut)
    return ear.heard


CUTS = st.lists(st.integers(min_value=0, max_value=24), max_size=4)


@given(CUTS)
def test_a_false_row_comes_as_true_in_whatever_pieces(cuts: list[int]) -> None:
    for false, true in ((b"f", b"t"), (b"\0", b"\1")):
        assert heard(row(false) + DONE, cuts) == row(true) + DONE


@pytest.mark.parametrize("other", [row(b"t"), row(b"ff"), row(b""), frame(ERROR, b"SERROR\0C57014\0\0"), DONE])
@given(cuts=CUTS)
def test_anything_else_comes_as_it_was(other: bytes, cuts: list[int]) -> None:
    assert heard(other + DONE, cuts) == other + DONE


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        (b"select pg_terminate_backend($1)", Signal(4711, True)),
        (b" SELECT pg_catalog.PG_CANCEL_BACKEND( $1::int4 );", Signal(4711, False)),
        (b"SELECT pg_cancel_backend($1) as done", None),
        (b"select pg_terminate_backend($1, 100)", Signal(4711, True)),
        (b"select pg_terminate_backend($1), pg_cancel_backend($1)", None),
        (b"select not pg_terminate_backend($1)", None),
        (b"select pg_terminate_backend($1); select 1", None),
        (b"select pg_terminate_backend(pid) from unnest($1) pid", None),
        (b"", None),
    ],
)
def test_a_function_counts_where_it_is_alone_in_its_statement(text: bytes, signal: Signal | None) -> None:
    assert signal_of(WARNING, b"", text) == signal
