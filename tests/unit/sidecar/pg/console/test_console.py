"""Does the console answer each message as PostgreSQL would, and each command by its own right?"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenantproxy.errors import ConfigurationError, Problem, ProtocolError
from tenantproxy.events import AdminActedOn, Event, ServiceCommanded
from tenantproxy.sidecar.pg.console.console import Console
from tenantproxy.sidecar.pg.console.tables import Averages
from tenantproxy.sidecar.pg.console.view import ClientRow
from tenantproxy.wire import frames
from tenantproxy.wire.answers import read_error
from tests.support.console import View, client


def console(view: View | None = None, *, may_change: bool = True) -> Console:
    return Console(view or View(), user="ops", may_change=may_change, averages=Averages())


def messages(data: bytes) -> list[tuple[str, bytes]]:
    """Kind and payload of each."""
    found = []
    while data:
        size = frames.length_of(data, 0)
        assert len(data) >= size, "a message is cut"
        found.append((chr(data[0]), data[5:size]))
        data = data[size:]
    return found


def kinds(data: bytes) -> str:
    return "".join(kind for kind, _ in messages(data))


def error(data: bytes) -> dict[str, str]:
    return next(read_error(payload) for kind, payload in messages(data) if kind == "E")


def cells(payload: bytes) -> list[bytes | None]:
    (count,), at, found = struct.unpack_from("!H", payload), 2, list[bytes | None]()
    for _ in range(count):
        (size,) = struct.unpack_from("!i", payload, at)
        found.append(None if size < 0 else payload[at + 4 : at + 4 + size])
        at += 4 + max(size, 0)
    assert at == len(payload)
    return found


def rows(data: bytes) -> list[list[bytes | None]]:
    return [cells(payload) for kind, payload in messages(data) if kind == "D"]


def tags(data: bytes) -> list[str]:
    return [payload[:-1].decode() for kind, payload in messages(data) if kind == "C"]


# --- simple queries ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "sql",
    ["SHOW VERSION", "show version;", ' \n/* x */ Show "version" -- why\n ;', "SHOW VERSION ; ;", "show 'VERSION'"],
)
async def test_a_command_may_be_written_in_any_way(sql: str) -> None:
    answer = await console().answer(sql.encode())
    assert kinds(answer) == "TDCZ"
    assert rows(answer) == [[b"tenantproxy 1.2.3"]]
    assert tags(answer) == ["SHOW"]
    assert messages(answer)[-1][1] == b"I"


@pytest.mark.parametrize("sql", ["", ";", "  -- nothing\n", "/* ; */"])
async def test_a_query_without_a_command_is_empty(sql: str) -> None:
    assert kinds(await console().answer(sql.encode())) == "IZ"


async def test_several_commands_are_answered_in_order_up_to_the_first_that_fails() -> None:
    view = View()
    answer = await console(view).answer(b"SHOW VERSION; PAUSE acme; NONSENSE; KILL acme")
    assert kinds(answer) == "TDCCEZ"
    assert view.done == ["pause acme"]


@pytest.mark.parametrize(
    ("sql", "sqlstate", "words"),
    [
        ("SELECT 1", "42601", "invalid command 'SELECT 1', use SHOW HELP;"),
        ("select * from pg_class where x = $1", "42601", "use SHOW HELP;"),
        ("SHOW", "42601", "use SHOW HELP;"),
        ("SHOW NOTHING", "42601", "use SHOW HELP;"),
        ("SHOW POOLS acme", "42601", "use SHOW HELP;"),
        ("SHOW FDS", "0A000", "FDS is not available"),
        ("RECONNECT acme", "0A000", "RECONNECT is not available"),
        ("KILL_CLIENT 7", "0A000", "KILL_CLIENT is not available"),
        ("SET pool_size = 5", "0A000", "changes no settings"),
        ("PAUSE", "42601", "needs one tenant"),
        ("PAUSE a b", "42601", "needs one tenant"),
        ("RELOAD acme", "42601", "no argument"),
        ("PAUSE missing", "3D000", "no such tenant"),
        ("PAUSE 'a b'", "3D000", "cannot be a tenant identifier"),
        ("'SHOW' VERSION", "42601", "use SHOW HELP;"),
        ("SHOW \x01", "42601", "use SHOW HELP;"),
        ("SHOW " + "x" * 5000, "08P01", "too long"),
    ],
)
async def test_what_is_no_command_is_told_and_the_session_goes_on(sql: str, sqlstate: str, words: str) -> None:
    answer = await console().answer(sql.encode())
    assert kinds(answer) == "EZ"
    assert error(answer)["C"] == sqlstate
    assert words in error(answer)["M"]
    assert error(answer)["S"] == "ERROR"


async def test_text_that_is_not_utf8_is_an_error() -> None:
    assert error(await console().answer(b"SHOW \xff"))["C"] == "42601"


@pytest.mark.parametrize(
    "sql", ["PAUSE acme", "RESUME acme", "KILL acme", "RELOAD", "PAUSE", "KILL missing", "kill x y"]
)
async def test_every_command_that_changes_something_is_refused_to_who_may_only_read(sql: str) -> None:
    view = View()
    reader = console(view, may_change=False)
    answers = [await reader.answer(sql.encode()), await reader.answer(b"SHOW VERSION; " + sql.encode())]
    await reader.receive(frames.PARSE, b"\0" + sql.encode() + b"\0\0\0")
    await reader.receive(frames.BIND, b"\0\0" + bytes(6))
    answers.append(await reader.receive(frames.EXECUTE, b"\0" + bytes(4)))
    assert [error(answer)["C"] for answer in answers] == ["42501"] * 3
    assert "console = true in [pg.users.ops]" in error(answers[0])["H"]
    assert view.done == []


@pytest.mark.parametrize(
    ("sql", "tag", "done"),
    [
        ("PAUSE acme", "PAUSE", "pause acme"),
        ('resume "acme"', "RESUME", "resume acme"),
        ("KILL a.b-c_1", "KILL", "kill a.b-c_1"),
        ("KILL 7up", "KILL", "kill 7up"),
        ("RELOAD;", "RELOAD", "reload"),
    ],
)
async def test_a_verb_does_what_it_says(sql: str, tag: str, done: str) -> None:
    view = View()
    assert tags(await console(view).answer(sql.encode())) == [tag]
    assert view.done == [done]


async def test_a_reload_that_fails_says_what_is_wrong_with_the_configuration() -> None:
    view = View()
    view.failure = ConfigurationError([Problem(key="pg.users.x", problem="is wrong", fix="correct it")])
    assert "pg.users.x: is wrong; correct it" in error(await console(view).answer(b"RELOAD"))["M"]


@pytest.mark.parametrize(
    ("sql", "tag"),
    [
        ("BEGIN", "BEGIN"),
        ("START TRANSACTION READ ONLY", "START TRANSACTION"),
        ("COMMIT", "COMMIT"),
        ("ROLLBACK", "ROLLBACK"),
        ("SET extra_float_digits = 3", "SET"),
        ("SET SESSION timezone TO 'UTC'", "SET"),
        ("SET application_name = 'x'", "SET"),
        ("RESET ALL", "RESET"),
        ("DISCARD ALL", "DISCARD ALL"),
    ],
)
async def test_what_drivers_send_to_any_session_is_taken(sql: str, tag: str) -> None:
    answer = await console(may_change=False).answer(sql.encode())
    assert kinds(answer) == "CZ"
    assert tags(answer) == [tag]


async def test_settings_that_drivers_ask_for_have_values() -> None:
    assert rows(await console().answer(b"SHOW TimeZone; SHOW standard_conforming_strings")) == [[b"UTC"], [b"on"]]


async def test_help_is_a_notice_that_names_every_command() -> None:
    answer = await console().answer(b"SHOW HELP")
    assert kinds(answer) == "NCZ"
    detail = read_error(messages(answer)[0][1])["D"]
    for word in ("POOLS", "TENANTS", "STATS_TOTALS", "PAUSE tenant", "RESUME tenant", "KILL tenant", "RELOAD"):
        assert word in detail


def test_the_welcome_reports_what_drivers_want_to_know() -> None:
    said = dict(payload[:-1].split(b"\0") for kind, payload in messages(console().welcome) if kind == "S")
    assert said[b"client_encoding"] == b"UTF8"
    assert said[b"DateStyle"] == b"ISO, MDY"
    assert said[b"standard_conforming_strings"] == b"on"
    assert said[b"server_version"] == b"16.0 (tenantproxy 1.2.3)"
    assert said[b"session_authorization"] == b"ops"


# --- the extended protocol --------------------------------------------------------------------------------------------
def parse(sql: str, name: str = "", parameters: int = 0) -> tuple[int, bytes]:
    return frames.PARSE, f"{name}\0{sql}\0".encode() + struct.pack("!H", parameters) + bytes(4 * parameters)


def bind(portal: str = "", name: str = "", formats: Iterable[int] = ()) -> tuple[int, bytes]:
    wanted = list(formats)
    return frames.BIND, f"{portal}\0{name}\0".encode() + struct.pack(f"!HHH{len(wanted)}H", 0, 0, len(wanted), *wanted)


def execute(portal: str = "", limit: int = 0) -> tuple[int, bytes]:
    return frames.EXECUTE, f"{portal}\0".encode() + struct.pack("!I", limit)


def describe(what: str, name: str = "") -> tuple[int, bytes]:
    return frames.DESCRIBE, f"{what}{name}\0".encode()


def close(what: str, name: str = "") -> tuple[int, bytes]:
    return frames.CLOSE, f"{what}{name}\0".encode()


SYNC = (frames.SYNC, b"")
FLUSH = (frames.FLUSH, b"")


async def talk(one: Console, *sent: tuple[int, bytes]) -> bytes:
    return b"".join([await one.receive(kind, payload) for kind, payload in sent])


async def test_a_prepared_command_is_described_bound_and_executed_as_often_as_one_likes() -> None:
    one = console()
    answer = await talk(one, parse("SHOW VERSION", "s1"), describe("S", "s1"), FLUSH)
    assert kinds(answer) == "1tT"
    for _ in range(2):
        answer = await talk(one, bind("", "s1"), describe("P"), execute(), SYNC)
        assert kinds(answer) == "2TDCZ"
        assert rows(answer) == [[b"tenantproxy 1.2.3"]]
    assert kinds(await talk(one, close("S", "s1"), close("P", "never"), SYNC)) == "33Z"
    answer = await talk(one, bind("", "s1"), execute(), SYNC)
    assert kinds(answer) == "EZ"
    assert error(answer)["C"] == "26000"


async def test_numbers_come_in_binary_where_a_driver_asks_for_that() -> None:
    view = View()
    view.shown_clients = [client(2**40, waiting_seconds=2.5)]
    one = console(view)
    answer = await talk(one, parse("SHOW CLIENTS"), bind(formats=[1]), describe("P"), execute(), SYNC)
    (row,) = rows(answer)
    assert row[11:13] == [struct.pack("!i", 2), struct.pack("!i", 500_000)]
    assert row[1] == b"billing"
    assert row[20] == struct.pack("!i", 2**31 - 1), "what does not fit is not sent as something else"
    assert rows(await one.answer(b"SHOW CLIENTS"))[0][20] == b"2147483647"
    described = messages(answer)[2][1]
    assert described.endswith(b"worker\0" + struct.pack("!IhIhih", 0, 0, 23, 4, -1, 1))


@pytest.mark.parametrize("number", [0, 1, 9_999, 10_000, 123_456_789, 10**16, 2**63])
def test_a_whole_number_in_binary_numeric_reads_back(number: int) -> None:
    from tenantproxy.sidecar.pg.console.encoding import _numeric

    count, weight, sign, scale = struct.unpack_from("!hhHH", _numeric(number))
    digits = struct.unpack_from(f"!{count}h", _numeric(number), 8)
    assert sum(digit * 10_000 ** (weight - place) for place, digit in enumerate(digits)) == number
    assert (sign, scale) == (0, 0)
    assert all(0 <= digit < 10_000 for digit in digits)


async def test_a_portal_gives_its_rows_in_portions_of_one_moment() -> None:
    view = View()
    view.shown_clients = [client(1), client(2), client(3)]
    one = console(view)
    answer = await talk(one, parse("SHOW CLIENTS"), bind("p"), execute("p", 2))
    assert kinds(answer) == "12DDs"
    view.shown_clients = []
    answer = await talk(one, execute("p", 2), SYNC)
    assert kinds(answer) == "DCZ"
    assert kinds(await talk(one, execute("p"), SYNC)) == "EZ", "Sync ended the portal"


async def test_after_an_error_everything_up_to_sync_is_skipped_simple_queries_too() -> None:
    view = View()
    one = console(view)
    answer = await talk(
        one,
        parse("NONSENSE"),
        bind(),
        execute(),
        parse("KILL acme"),
        bind(),
        execute(),
        (frames.QUERY, b"KILL acme\0"),
        SYNC,
    )
    assert kinds(answer) == "12EZ"
    assert view.done == []
    assert kinds(await talk(one, parse("SHOW VERSION"), bind(), execute(), SYNC)) == "12DCZ"


async def test_a_command_without_rows_is_described_as_that() -> None:
    one = console()
    assert (
        kinds(await talk(one, parse("PAUSE acme"), describe("S"), bind(), describe("P"), execute(), SYNC)) == "1tn2nCZ"
    )
    assert kinds(await talk(one, parse(""), describe("S"), bind(), execute(), SYNC)) == "1tn2IZ"


@pytest.mark.parametrize(
    ("sent", "sqlstate"),
    [
        ([parse("SHOW VERSION", parameters=1)], "0A000"),
        ([parse("SHOW VERSION; SHOW POOLS")], "42601"),
        ([parse("SHOW VERSION", "s"), parse("SHOW POOLS", "s")], "42P05"),
        ([parse("SHOW VERSION"), bind(formats=[2])], "08P01"),
        ([parse("SHOW VERSION"), bind(formats=[0, 1])], "08P01"),
        ([parse("SHOW VERSION"), (frames.BIND, b"\0\0" + struct.pack("!HHiH", 0, 1, -1, 0))], "08P01"),
        ([describe("S", "none")], "26000"),
        ([describe("P", "none")], "34000"),
        ([execute("none")], "34000"),
        ([(frames.FUNCTION_CALL, bytes(10))], "0A000"),
    ],
)
async def test_what_cannot_be_is_an_error_of_the_extended_protocol(
    sent: list[tuple[int, bytes]], sqlstate: str
) -> None:
    answer = await talk(console(), *sent, SYNC)
    assert kinds(answer)[-2:] == "EZ"
    assert error(answer)["C"] == sqlstate


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (frames.QUERY, b"SHOW VERSION"),
        (frames.QUERY, b"SHOW\0VERSION\0"),
        (frames.PARSE, b"no end"),
        (frames.PARSE, b"s\0SHOW VERSION\0"),
        (frames.BIND, b"\0"),
        (frames.BIND, b"\0\0\xff\xff"),
        (frames.DESCRIBE, b"X\0"),
        (frames.DESCRIBE, b""),
        (frames.EXECUTE, b"p\0\0"),
        (frames.CLOSE, b"S"),
    ],
)
async def test_a_malformed_message_ends_the_connection(kind: int, payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        await console().receive(kind, payload)


async def test_one_client_cannot_prepare_without_end() -> None:
    one = console()
    for number in range(1000):
        await one.receive(*parse("SHOW VERSION", f"s{number}"))
    assert error(await one.receive(*parse("SHOW VERSION", "one_more")))["C"] == "08P01"


@settings(max_examples=300, deadline=None)
@given(
    kind=st.sampled_from([*b"QPBEDCSHFdcfpX", 0, 255]),
    payload=st.one_of(st.binary(max_size=64), st.text(alphabet="SHOWPAUSE \0;'\"/*-$=", max_size=64).map(str.encode)),
)
async def test_no_message_breaks_the_console_or_its_framing(kind: int, payload: bytes) -> None:
    one = console(may_change=False)
    try:
        answer = await one.receive(kind, payload)
    except ProtocolError:
        return
    assert all(letter in "TDCZENI123sntS" for letter in kinds(answer))
    assert kinds(await talk(one, SYNC, (frames.QUERY, b"SHOW VERSION\0"))) == "ZTDCZ"


async def test_the_observer_hears_what_was_changed_by_whom_and_how_it_ended() -> None:
    heard: list[Event] = []
    about: dict[str, Any] = {
        "view": View(),
        "user": "ops",
        "averages": Averages(),
        "address": "192.0.2.1",
        "observer": heard.append,
    }
    await Console(may_change=True, **about).answer(b"SHOW VERSION; PAUSE acme; RELOAD; KILL missing")
    await Console(may_change=False, **about).answer(b"SHOW TENANTS; KILL acme")
    told = [each for each in heard if isinstance(each, ServiceCommanded)]
    assert [(each.change, each.tenant, each.outcome) for each in told] == [
        ("pause", "acme", "done"),
        ("reload", "", "done"),
        ("kill", "missing", "failed"),
        ("kill", "acme", "refused"),
    ]
    assert {(each.by, each.user, each.address) for each in told} == {("console", "ops", "192.0.2.1")}


async def test_the_observer_hears_exactly_whom_a_command_concerned() -> None:
    heard: list[Event] = []
    view = View()
    about: dict[str, Any] = {"user": "app", "tenant": "acme", "state": "active", "local_address": "", "local_port": 0}
    view.shown_clients = [
        ClientRow(id=number, address="::1", port=number, connected_at=0.0, application_name="a job", **about)
        for number in range(120)
    ]
    await Console(may_change=True, view=view, user="ops", averages=Averages(), observer=heard.append).answer(
        b"KILL acme"
    )
    told = [each for each in heard if isinstance(each, AdminActedOn)]
    assert [len(each.acted_on) for each in told] == [50, 50, 20], "no event is too long for a line"
    assert {(each.by, each.change, each.tenant, each.count) for each in told} == {("console ops", "kill", "acme", 120)}
    assert told[2].acted_on[-1] == {
        "client": 119, "user": "app", "application_name": "a job", "address": "[::1]:119", "state": "active",
        "connected_at": "1970-01-01T00:00:00.000+00:00", "backend": "", "worker": 0,
    }  # fmt: skip
