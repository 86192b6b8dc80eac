"""Do we log in as allowed and no other way, whatever a server says?"""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.errors import ProtocolError
from tenantproxy.wire import answers
from tenantproxy.wire.frames import AUTHENTICATION, HEADER, NOTICE, frame
from tenantproxy.wire.scram import MECHANISM, MECHANISM_PLUS, ServerExchange, Verifier
from tenantproxy.wire.server_auth import MAX_LOGIN, MAX_MESSAGE, METHODS, BackendLogin, ChannelBinding, ServerRefusal
from tenantproxy.wire.startup import Startup, read_first
from tests.support.fuzzing import IS_TRIED

VERIFIER = Verifier.of_password("pencil", iterations=1)
MD5 = frame(AUTHENTICATION, struct.pack("!I", 5) + b"salt")
SESSION = (
    answers.parameter_status(b"TimeZone", b"UTC")
    + answers.notice("hello")
    + answers.backend_key_data(7, b"key!")
    + answers.ready_for_query()
)


def login(*methods: str, password: str = "pencil") -> BackendLogin:
    return BackendLogin({"user": "app", "database": "acme"}, lambda: password, methods=methods or ("scram-sha-256",))


def proven(server: ServerExchange, ours: BackendLogin) -> bytes:
    """What a server that knows the password says last of it."""
    initial = ours.receive(answers.AUTHENTICATION_SCRAM)[HEADER:]
    challenge = answers.sasl_continue(server.first(initial.partition(b"\0")[2][4:]))
    return answers.sasl_final(server.final(ours.receive(challenge)[HEADER:]))


def test_a_login_begins_with_the_startup_packet() -> None:
    first = read_first(login().begin)
    assert isinstance(first, Startup)
    assert first.parameters == ((b"user", b"app"), (b"database", b"acme"))


def test_a_server_that_knows_the_password_lets_us_in_and_says_who_it_is() -> None:
    ours = login()
    assert ours.receive(proven(ServerExchange(VERIFIER), ours) + answers.AUTHENTICATION_OK + SESSION) == b""
    assert ours.is_done
    assert (ours.pid, ours.secret, ours.parameters) == (7, b"key!", {b"TimeZone": b"UTC"})


def test_a_login_means_the_same_however_the_servers_bytes_are_cut() -> None:
    ours = login()
    server = ServerExchange(VERIFIER)
    out = b"".join(ours.receive(answers.AUTHENTICATION_SCRAM[at : at + 1]) for at in range(24))
    challenge = answers.sasl_continue(server.first(out[HEADER:].partition(b"\0")[2][4:]))
    out = b"".join(ours.receive(bytes([byte])) for byte in challenge)
    end = answers.sasl_final(server.final(out[HEADER:])) + answers.AUTHENTICATION_OK + SESSION
    for byte in end:
        assert not ours.is_done
        ours.receive(bytes([byte]))
    assert ours.is_done


def test_md5_is_answered_where_it_is_allowed() -> None:
    ours = login("md5")
    inner = hashlib.md5(b"pencilapp", usedforsecurity=False).hexdigest().encode()
    proof = b"md5" + hashlib.md5(inner + b"salt", usedforsecurity=False).hexdigest().encode() + b"\0"
    assert ours.receive(MD5) == frame(0x70, proof)
    ours.receive(answers.AUTHENTICATION_OK + SESSION)
    assert ours.is_done


def test_a_password_is_said_where_it_is_allowed() -> None:
    ours = login("password")
    assert ours.receive(answers.AUTHENTICATION_CLEARTEXT) == frame(0x70, b"pencil\0")


def test_a_server_that_asks_nothing_is_trusted_where_it_is_allowed() -> None:
    ours = login("none")
    ours.receive(answers.AUTHENTICATION_OK + SESSION)
    assert ours.is_done


REQUESTS = {
    "scram-sha-256": answers.AUTHENTICATION_SCRAM,
    "md5": MD5,
    "password": answers.AUTHENTICATION_CLEARTEXT,
    "none": answers.AUTHENTICATION_OK,
}


@pytest.mark.parametrize("method", METHODS)
def test_a_way_to_log_in_that_is_not_allowed_is_refused_before_the_password_is_read(method: str) -> None:
    def never() -> str:
        raise AssertionError("the password was read")

    others = [other for other in METHODS if other != method]
    ours = BackendLogin({"user": "app"}, never, methods=others)
    with pytest.raises(ProtocolError, match="not allowed") as caught:
        ours.receive(REQUESTS[method])
    assert "pencil" not in str(caught.value)


@pytest.mark.parametrize("number", [1, 2, 4, 6, 7, 8, 9, 11, 12, 13, 2**31, 2**32 - 1])
def test_other_requests_are_refused(number: int) -> None:
    with pytest.raises(ProtocolError, match="do not have"):
        login(*METHODS).receive(frame(AUTHENTICATION, struct.pack("!I", number)))


@pytest.mark.parametrize(
    "said", [frame(AUTHENTICATION, b"\0\0\0"), frame(AUTHENTICATION, struct.pack("!I", 10) + b"SCRAM-SHA-1\0PLAIN\0\0")]
)
def test_a_request_that_cannot_be_answered_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError, match=r"too soon|no SASL mechanism"):
        login().receive(said)


@pytest.mark.parametrize("password", ["", "a\0b"])
@pytest.mark.parametrize("method", ["md5", "password", "scram-sha-256"])
def test_a_password_that_is_none_is_not_sent(method: str, password: str) -> None:
    with pytest.raises(ProtocolError, match="ours is empty"):
        login(*METHODS, password=password).receive(REQUESTS[method])


@pytest.mark.parametrize("methods", [("scram-sha-256",), METHODS])
def test_a_server_that_skips_its_own_proof_is_refused(methods: tuple[str, ...]) -> None:
    ours = login(*methods)
    proven(ServerExchange(VERIFIER), ours)
    with pytest.raises(ProtocolError, match="did not show"):
        ours.receive(answers.AUTHENTICATION_OK)


def test_a_server_with_another_password_is_refused() -> None:
    ours = login()
    initial = ours.receive(answers.AUTHENTICATION_SCRAM)[HEADER:]
    server = ServerExchange(Verifier.of_password("other", iterations=1))
    ours.receive(answers.sasl_continue(server.first(initial.partition(b"\0")[2][4:])))
    with pytest.raises(ProtocolError, match="does not know"):
        ours.receive(answers.sasl_final(b"v=" + b"A" * 43 + b"="))


@pytest.mark.parametrize("second", ["md5", "password", "scram-sha-256"])
@pytest.mark.parametrize("first", ["md5", "password", "scram-sha-256"])
def test_a_server_gets_one_proof_only(first: str, second: str) -> None:
    ours = login(*METHODS)
    ours.receive(REQUESTS[first])
    with pytest.raises(ProtocolError):
        ours.receive(REQUESTS[second])


def test_an_error_of_the_server_is_a_value_and_ends_the_login() -> None:
    ours = login()
    error = frame(0x45, b"SFATAL\0C3D000\0Mdatabase does not exist\0\0")
    assert ours.receive(error + b"whatever") == b""
    assert ours.refusal == ServerRefusal("3D000", "database does not exist")
    assert not ours.is_done
    with pytest.raises(ProtocolError):
        ours.receive(error)
    with pytest.raises(ProtocolError):
        ours.feed(NOTICE, b"")


def test_an_error_without_a_state_is_an_error_too() -> None:
    ours = login()
    ours.receive(frame(0x45, b""))
    assert ours.refusal == ServerRefusal("XX000", "")


def let_in() -> BackendLogin:
    ours = login("none")
    ours.receive(answers.AUTHENTICATION_OK)
    return ours


@pytest.mark.parametrize(
    "said",
    [
        answers.ready_for_query(0x54),  # in a transaction
        answers.ready_for_query(0x49),  # and never said which backend it is
        frame(0x5A, b""),
        frame(0x5A, b"II"),
        answers.backend_key_data(7, b"abc"),
        answers.backend_key_data(7, b"x" * 257),
        frame(0x4B, b""),
        frame(0x53, b"TimeZone\0UTC"),
        frame(0x53, b"TimeZone"),
        frame(0x53, b"\0UTC\0"),
        frame(0x53, b"TimeZone\0UTC\0x\0"),
        frame(0x53, b""),
        answers.AUTHENTICATION_OK,
        frame(0x44, b"\0\0"),
        frame(0x76, struct.pack("!II", 3 << 16, 0)),
        b"".join(answers.parameter_status(b"p%d" % number, b"") for number in range(300)),
    ],
)
def test_a_session_that_does_not_begin_as_it_should_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        let_in().receive(said)


@pytest.mark.parametrize("kind", [0x5A, 0x4B, 0x53, 0x44, 0x31, 0x00, 0x76])
def test_nothing_of_a_session_is_taken_before_we_are_let_in(kind: int) -> None:
    with pytest.raises(ProtocolError):
        login("none").receive(frame(kind, b"I"))


@pytest.mark.parametrize("size", [0, 3, MAX_MESSAGE + 1, 2**31, 2**32 - 1])
def test_a_length_is_refused_before_its_message_is_kept(size: int) -> None:
    with pytest.raises(ProtocolError):
        login().receive(b"R" + struct.pack("!I", size))


def test_endless_notices_end_the_login() -> None:
    notice = frame(NOTICE, b"x" * 50_000)
    with pytest.raises(ProtocolError, match="too much"):
        login().receive(notice * (MAX_LOGIN // 50_000 + 2))


def test_what_comes_behind_the_end_is_refused() -> None:
    with pytest.raises(ProtocolError, match="more than it was asked"):
        let_in().receive(SESSION + b"N")
    ours = let_in()
    ours.receive(SESSION)
    with pytest.raises(ProtocolError, match="more than it was asked"):
        ours.receive(answers.notice("late"))


@pytest.mark.parametrize("cut", [0, 1])
def test_a_server_that_ends_a_session_as_it_begins_is_heard(cut: int) -> None:
    """One that shuts down says so behind its first ReadyForQuery, and maybe in the same segment."""
    last_error = frame(0x45, b"SFATAL\0VFATAL\0C57P01\0Mterminating connection\0\0")
    ours = let_in()
    assert ours.receive(SESSION + last_error[: len(last_error) - cut]) == b""
    assert not ours.is_done
    assert ours.refusal == ServerRefusal("57P01", "terminating connection")


def test_a_server_that_has_crashed_as_a_session_begins_is_heard() -> None:
    """It says so as a warning, quickdie() in its postgres.c; any other behind a login is a breach of the protocol."""
    ours = let_in()
    crashed = frame(0x4E, b"SWARNING\0VWARNING\0C57P02\0Mterminating connection because of crash\0\0")
    assert ours.receive(SESSION + crashed) == b""
    assert not ours.is_done
    assert ours.refusal == ServerRefusal("57P02", "terminating connection because of crash")
    with pytest.raises(ProtocolError, match="more than it was asked"):
        let_in().receive(SESSION + frame(0x4E, b"SWARNING\0VWARNING\0C01000\0Mlate\0\0"))


PIECES = [*REQUESTS.values(), SESSION, answers.sasl_continue(b"r="), answers.sasl_final(b"v="), b"E\0\0\0\x05\0"]


@IS_TRIED
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=20), max_size=8), st.booleans())
def test_whatever_a_server_says_is_a_login_a_refusal_or_an_error(said: list[bytes], only_scram: bool) -> None:
    ours = login("scram-sha-256") if only_scram else login(*METHODS)
    try:
        for data in said:
            ours.receive(data)
    except ProtocolError:
        pass
    assert not (only_scram and ours.is_done)


# --- SCRAM-SHA-256-PLUS ----------------------------------------------------------------------------------------------
BINDING = b"hash of the certificate"
OFFERS = {"both": (MECHANISM_PLUS, MECHANISM), "plain": (MECHANISM,)}


def bound(channel_binding: ChannelBinding, *, binding: bytes = BINDING) -> BackendLogin:
    return BackendLogin(
        {"user": "app"}, lambda: "pencil", methods=METHODS, binding=binding, channel_binding=channel_binding
    )


def begun(ours: BackendLogin, offer: str) -> tuple[bytes, bytes]:
    """The mechanism that was chosen, and the first message of it."""
    mechanism, _, rest = ours.receive(answers.authentication_sasl(*OFFERS[offer]))[HEADER:].partition(b"\0")
    return mechanism, rest[4:]


@pytest.mark.parametrize("wanted", ["prefer", "require"])
def test_a_login_is_bound_to_the_certificate_where_the_server_offers_that(wanted: ChannelBinding) -> None:
    for seen in (BINDING, b"that of a man in the middle"):
        ours, server = bound(wanted, binding=seen), ServerExchange(VERIFIER, binding=BINDING)
        mechanism, first = begun(ours, "both")
        assert mechanism == MECHANISM_PLUS
        final = ours.receive(answers.sasl_continue(server.first(first, plus=True)))[HEADER:]
        if seen is BINDING:
            ours.receive(answers.sasl_final(server.final(final)) + answers.AUTHENTICATION_OK + SESSION)
            assert ours.is_done
        else:
            with pytest.raises(ProtocolError):
                server.final(final)


def test_a_server_hears_that_its_offer_to_bind_was_taken_out_on_the_way() -> None:
    mechanism, first = begun(bound("prefer"), "plain")
    assert (mechanism, first[:3]) == (MECHANISM, b"y,,")
    with pytest.raises(ProtocolError):
        ServerExchange(VERIFIER, binding=BINDING).first(first)
    for ours in (bound("disable"), bound("prefer", binding=b"")):
        assert begun(ours, "both")[1][:3] == b"n,,"


@pytest.mark.parametrize("said", ["plain", "both", "md5", "nothing"])
def test_a_login_that_must_be_bound_ends_where_it_cannot_be(said: str) -> None:
    """Not even a hash of the password is sent."""
    ours = bound("require", binding=b"" if said == "both" else BINDING)
    asked = {"md5": MD5, "nothing": answers.AUTHENTICATION_OK}
    asked |= {name: answers.authentication_sasl(*offered) for name, offered in OFFERS.items()}
    with pytest.raises(ProtocolError, match="not bound to the certificate"):
        ours.receive(asked[said])
