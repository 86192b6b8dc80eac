"""Does the compiled path take for straight only what Python would send on as it is, and pass on unseen?"""

from __future__ import annotations

import random
from typing import Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tenantproxy._native.core import case_of, heard_of
from tenantproxy.sidecar.pg.session import ClientSession
from tenantproxy.wire import frames
from tenantproxy.wire.definition_changes import DefinitionChanges
from tenantproxy.wire.frames import frame
from tenantproxy.wire.leftovers import ANYTHING, SUSPECT, leftovers
from tenantproxy.wire.pipeline import Pipeline
from tenantproxy.wire.prepared import Prepared
from tenantproxy.wire.requests import RequestStream, Stop
from tenantproxy.wire.responses import ResponseStream
from tenantproxy.wire.session_features import PinPlaces, SessionFeatures
from tenantproxy.wire.session_settings import KeptSettings
from tenantproxy.wire.statements import Statements
from tests.support.fuzzing import IS_TRIED
from tests.support.model_server import SYNC, bind, execute, parse, query

ODD, QUERY, UNNAMED, NAMED = range(4)
MORE, DONE, LOOK, OPEN, RESET = range(5)
BRIEF: Final = execute() + SYNC
ONE_ROW: Final = frame(frames.EXECUTE, b"\0\0\0\0\1") + SYNC
END: Final = frame(frames.DESCRIBE, b"P\0") + execute() + SYNC
WORDS: Final = (
    b"SET", b"reset ", b"DISCARD", b"deallocate", b"SAVEPOINT", b"declare", b"DROP", b"alter", b"CREATE", b"select ",
    b"set_config", b"advisory_LOCK", b"_limit", b"set_limi", b"_Unlock", b"TEMP", b"tem", b"temporary", b"_", b"t",
    b" ", b"--", b"/*", b";", b"\0", b"\xff", b"_con", b"_loc", b"1", b"\n", b"insert", b"_unl",
)  # fmt: skip
TEXTS: Final = st.one_of(
    st.lists(st.sampled_from(WORDS), max_size=6).map(b"".join),
    st.binary(max_size=40),
)


def requests() -> RequestStream:
    kept = KeptSettings((), {})
    pipeline = Pipeline()
    return RequestStream(pipeline, Prepared(Statements(), pipeline, kept), kept, is_session=False)


def features() -> SessionFeatures:
    return SessionFeatures(KeptSettings((), {}), "pin", PinPlaces())


def responses() -> tuple[ResponseStream, Pipeline, Prepared]:
    pipeline = Pipeline()
    prepared = Prepared(Statements(), pipeline)
    return ResponseStream(pipeline, prepared, is_session=False), pipeline, prepared


@IS_TRIED
@given(TEXTS)
@example(b"select a_conf")
@example(b" \n\vRESET ALL")
@example(b"/* a * / */ -- b\n RESET ALL")
@example(b"/* /* a */ */ RESET ALL")
@example(b"--a")
@example(b"/*/ RESET ALL")
@example(b"set")
@example(b"x")
def test_a_query_is_straight_where_python_would_not_look_at_it_and_nowhere_else(text: bytes) -> None:
    data = query(text)
    is_plain = requests().one_query(data) == 0
    if len(data) < 8:  # shorter than any statement
        assert case_of(data)[0] == ODD
    elif SUSPECT(text) is None:
        assert (case_of(data)[0] == QUERY) == is_plain
    else:  # of the words that are looked at, only those that release may be straight
        assert is_plain or case_of(data)[0] == ODD
        assert case_of(data)[0] == ODD or not leftovers(text) & ANYTHING


@IS_TRIED
@given(
    st.sampled_from([b"s", b"a longer name"]),
    st.binary(max_size=30),
    st.integers(-2, 2),
    st.sampled_from([BRIEF, ONE_ROW]),
)
@example(b"s", b"", 0, BRIEF)
def test_a_statement_whose_rows_are_known_is_straight_only_where_python_reads_the_same(
    name: bytes, values: bytes, change: int, end: bytes
) -> None:
    data = bytearray(bind(name, values=values) + end)
    data[4] = (data[4] + change) % 256
    if case_of(bytes(data))[0] == ODD:
        return
    stream = requests()
    stream._prepared.names.set(name, statement := Statements().of(b"select 1\0\0\0"))
    stream._prepared._server.add(statement)
    out = stream.read(bytes(data), has_backend=True)
    assert out == bind(statement.name, values=values) + end
    assert stream.stop is Stop.END
    assert stream.is_at_rest


@IS_TRIED
@given(TEXTS, st.sampled_from([b"", b"s", b"a longer name", b"tp_none"]), st.booleans(), st.integers(-2, 2))
@example(b"select 1", b"", True, 0)
@example(b"select 1", b"s", False, 0)
def test_a_statement_is_straight_only_where_python_reads_it_at_once(
    text: bytes, name: bytes, is_parsed: bool, change: int
) -> None:
    """`change`: of a byte of the length of its first message."""
    data = bytearray((parse(b"", text) if is_parsed else b"") + bind(name) + END)
    data[4] = (data[4] + change) % 256
    case, bind_at, begins, ends = case_of(bytes(data))
    if case != ODD:
        assert requests().one_statement(bytes(data)) == bind_at
        assert case == (UNNAMED if bind_at else NAMED)
        assert bytes(data[begins:ends]) == (b"" if bind_at else name)
        assert bool(bind_at) == is_parsed


def test_the_commonest_shapes_are_straight() -> None:
    assert case_of(query(b"select 1"))[0] == QUERY
    assert case_of(parse(b"", b"select $1") + bind(b"") + END)[0] == UNNAMED
    assert case_of(bind(b"P0_1") + END)[0] == NAMED
    assert case_of(bind(b"__asyncpg_stmt_1__") + BRIEF)[0] == NAMED
    assert case_of(bind(b"__asyncpg_stmt_1__") + ONE_ROW)[0] == NAMED


@pytest.mark.parametrize(
    "data",
    [
        query(b"select 1") + query(b"select 2"),
        query(b"select 1")[:-1],
        parse(b"s", b"select 1") + bind(b"s") + END,
        parse(b"", b"select 1") + bind(b"s") + END,
        bind(b"") + END,
        bind(b"s", portal=b"p") + END,
        bind(b"s") + END + SYNC,
        parse(b"", b"select 1") + bind(b"") + BRIEF,
        bind(b"s") + execute(b"p") + SYNC,
        bind(b"s") + frame(frames.EXECUTE, b"p\0\0\0\0") + SYNC,
        bind(b"s") + bind(b"s") + END,
        parse(b"", b"x" * 5000) + bind(b"") + END,
        query(b"x" * 20_000),
        b"",
        b"Q",
        b"B\0\0\0\4" + END,
        b"B\xff\xff\xff\xff" + END,
        b"P\xff\xff\xff\xff" + bind(b"") + END,
        b"P\0\0\0\0" + bind(b"") + END,
        END,
    ],
)
def test_all_else_is_pythons(data: bytes) -> None:
    assert case_of(data)[0] == ODD


@IS_TRIED
@given(st.binary(max_size=80), st.booleans())
def test_no_bytes_of_a_client_are_read_behind_their_end(data: bytes, is_ended: bool) -> None:
    """Under AddressSanitizer this is where it would tell."""
    case_of(b"B" + data + (END if is_ended else b""))
    case_of(b"P" + data + END)
    case_of(b"Q" + data)


# --- answers ---------------------------------------------------------------------------------------------------------
BLOCKS: Final = (b"BEGIN", b"START TRANSACTION", b"COMMIT", b"ROLLBACK")
ENDS: Final = (b"UNLISTEN", b"CLOSE CURSOR ALL", b"RESET")
ROW: Final = frame(frames.DATA_ROW, b"\0\1\0\0\0\1x")
SHAPE: Final = frame(frames.ROW_DESCRIPTION, b"\0\1c\0" + b"\0" * 18)
TAG: Final = frame(frames.COMMAND_COMPLETE, b"SELECT 1\0")
READY: Final = frame(frames.READY, b"I")
ANSWERS: Final = (
    ROW, SHAPE, TAG, READY, frame(frames.BIND_COMPLETE), frame(frames.NO_DATA), frame(frames.EMPTY_QUERY),
    frame(frames.PARSE_COMPLETE), frame(frames.COMMAND_COMPLETE, b"INSERT 0 1\0"), frame(frames.READY, b"T"),
    frame(frames.COMMAND_COMPLETE, b"SET\0"), frame(frames.ERROR, b"SERROR\0C42601\0Mx\0\0"),
    frame(frames.NOTICE, b"SNOTICE\0C00000\0Mx\0\0"), frame(frames.PARAMETER_STATUS, b"TimeZone\0UTC\0"),
    frame(frames.COPY_IN, b"\0\0\0"), frame(frames.COPY_OUT, b"\0\0\0"), frame(frames.CLOSE_COMPLETE),
    frame(frames.PARAMETER_DESCRIPTION, b"\0\0"), frame(frames.COMMAND_COMPLETE, b"LISTEN\0"),
    *(frame(frames.COMMAND_COMPLETE, tag + b"\0") for tag in (b"CREATE TABLE", *BLOCKS, *ENDS)),
    frame(frames.COMMAND_COMPLETE, b"SELECT\0"), frame(frames.PORTAL_SUSPENDED),
    b"D\0\0\0\3", b"D\xff\xff\xff\xff", b"Z\0\0\0\6II", b"\0\0\0\0\0",
)  # fmt: skip


@IS_TRIED
@given(st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=6).map(b"".join), st.booleans(), st.integers(0, 60))
@example(SHAPE + ROW + TAG + READY, True, 0)
def test_what_is_heard_of_an_answer_python_would_pass_on_untouched(data: bytes, is_parsed: bool, cut: int) -> None:
    data = data[: len(data) - cut]
    found, heard, _ = heard_of(data, is_parsed)
    if found == LOOK:
        return
    stream, pipeline, prepared = responses()
    if not is_parsed:
        prepared.parse(parse(b"", b"select 1"))
    pipeline.queried() if is_parsed else pipeline.synced()
    out = stream.scan(data[:heard])
    assert out == data[:heard]
    told = (b"INSERT ", b"SELECT ", *BLOCKS, *ENDS)
    assert all(tag.startswith(told) or not tag[1:] for _, tag in stream.events)
    assert sum(tag == b"RESET" for _, tag in stream.events) == (found == RESET)
    session = ClientSession(
        KeptSettings((), {}), features(), DefinitionChanges(Statements(), prepared), is_session=False
    )
    session.kept.asked_for = b"SELECT 1; RESET ALL"
    session.note(stream.events, None)
    assert session.kept.ended() is False
    session.kept.asked_for = None
    assert session.kept.now is session.kept.applied
    assert session.kept.is_at_rest
    assert not session.pin
    assert not session.changes.is_heard
    assert not stream.is_amid
    if found in (DONE, OPEN, RESET):
        assert heard == len(data)
        assert stream.is_idle == (found != OPEN)
        assert stream.readies == 1
        assert pipeline.is_quiet
        assert pipeline.status == (b"T" if found == OPEN else b"I")[0]
    else:
        assert not stream.readies
        assert len(data) - heard < 65_536


def test_an_answer_that_needs_no_look_is_done_however_it_is_cut() -> None:
    data = frame(frames.PARSE_COMPLETE) + frame(frames.BIND_COMPLETE) + SHAPE + ROW * 3 + TAG + READY
    for cut in range(len(data)):
        found, heard, is_parsed = heard_of(data[:cut], False)
        assert found == MORE
        found, rest, is_parsed = heard_of(data[heard:], is_parsed)
        assert (found, heard + rest, is_parsed) == (DONE, len(data), True)


@pytest.mark.parametrize(
    "data",
    [
        TAG + frame(frames.READY, b"E"), TAG + READY + ROW, frame(frames.COMMAND_COMPLETE, b"COMMIT PREPARED\0"),
        READY + READY, frame(frames.ERROR, b"\0"),
        frame(frames.PARSE_COMPLETE) + READY, frame(frames.COMMAND_COMPLETE, b"SELECTED 1\0"), b"D\0\0\0\0",
        frame(frames.DATA_ROW, bytes(70_000)),
    ],
)  # fmt: skip
def test_all_else_of_an_answer_is_looked_at(data: bytes) -> None:
    assert heard_of(data, True)[0] == LOOK


def test_a_reset_is_one_only_where_nothing_is_said_behind_it() -> None:
    asked = frame(frames.COMMAND_COMPLETE, b"UNLISTEN\0") + frame(frames.COMMAND_COMPLETE, b"RESET\0")
    assert heard_of(TAG + asked + READY, True) == (RESET, len(TAG + asked + READY), True)
    status, begun = frame(frames.PARAMETER_STATUS), frame(frames.READY, b"T")
    for behind in (b"", READY[:-1], READY + ROW, TAG + READY, begun, status):
        assert heard_of(TAG + asked + behind, True)[0] == LOOK


def test_random_bytes_of_a_server_are_never_read_behind_their_end() -> None:
    rng = random.Random(7)
    for _ in range(2000):
        data = bytes(rng.choice(b"DTCZ12nI\0\0\0\0\5\6\x0aSELECT I") for _ in range(rng.randrange(40)))
        found, heard, _ = heard_of(data, rng.random() < 0.5)
        assert found == LOOK or heard <= len(data)
