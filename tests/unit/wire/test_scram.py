"""Does SCRAM accept who knows the password and no other client, and nothing that is not a message of it?"""

from __future__ import annotations

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantproxy.errors import InvalidCredentials, ProtocolError
from tenantproxy.wire.saslprep import saslprep
from tenantproxy.wire.scram import (
    MAX_ITERATIONS,
    MAX_MESSAGE,
    ClientExchange,
    ServerExchange,
    Verifier,
)
from tests.support.fuzzing import IS_TRIED

# RFC 7677, 3: user "user", password "pencil".
CLIENT_NONCE = b"rOprNGfwEbeRWgbNEkqO"
SERVER_NONCE = b"%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
SALT = bytes.fromhex("5b6d99689d123 58eeca04b14123 6fa81".replace(" ", ""))
SERVER_FIRST = b"r=" + CLIENT_NONCE + SERVER_NONCE + b",s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
CLIENT_FINAL = b"c=biws,r=" + CLIENT_NONCE + SERVER_NONCE + b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
SERVER_FINAL = b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="

PENCIL = Verifier.of_password("pencil", salt=SALT)
CHEAP = Verifier.of_password("pencil", iterations=1, salt=b"salt")


def begun(verifier: Verifier = CHEAP) -> tuple[ServerExchange, ClientExchange, bytes]:
    """Both sides, and the client's last message, which the server has not seen yet."""
    server, client = ServerExchange(verifier), ClientExchange("pencil")
    return server, client, client.final(server.first(client.first()))


# --- both sides -------------------------------------------------------------------------------------------------------
def test_the_client_says_what_the_rfc_says() -> None:
    client = ClientExchange("pencil", nonce=CLIENT_NONCE)
    client._first_bare = b"n=user,r=" + CLIENT_NONCE  # PostgreSQL's clients leave the name out
    assert client.final(SERVER_FIRST) == CLIENT_FINAL
    client.verify(SERVER_FINAL)


def test_the_server_says_what_the_rfc_says() -> None:
    server = ServerExchange(PENCIL, nonce=SERVER_NONCE)
    assert server.first(b"n,,n=user,r=" + CLIENT_NONCE) == SERVER_FIRST
    assert server.final(CLIENT_FINAL) == SERVER_FINAL


@pytest.mark.parametrize("password", ["pencil", "ß²Ⅸ", "a\u00adb", "\u00a0", "\x07bell", "x" * 1000, "אב", "aא"])
def test_who_knows_the_password_is_accepted_and_so_is_the_server(password: str) -> None:
    server = ServerExchange(Verifier.of_password(password, iterations=1))
    client = ClientExchange(password)
    client.verify(server.final(client.final(server.first(client.first()))))


def test_who_does_not_know_the_password_is_refused() -> None:
    server = ServerExchange(CHEAP)
    client = ClientExchange("pencils")
    with pytest.raises(InvalidCredentials):
        server.final(client.final(server.first(client.first())))


def test_a_nonce_is_new_each_time() -> None:
    assert ClientExchange("x").first() != ClientExchange("x").first()
    hello = b"n,,n=,r=abc"
    assert ServerExchange(CHEAP).first(hello) != ServerExchange(CHEAP).first(hello)


def test_an_exchange_is_good_for_one_client() -> None:
    server, client, answer = begun()
    with pytest.raises(ProtocolError):
        server.first(client.first())
    with pytest.raises(ProtocolError):
        ServerExchange(CHEAP).final(answer)
    with pytest.raises((ProtocolError, InvalidCredentials)):
        begun()[0].final(answer)  # replayed into another exchange


# --- verifiers --------------------------------------------------------------------------------------------------------
def test_a_verifier_is_what_postgresql_stores() -> None:
    assert PENCIL.text() == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY="
        ":wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )
    assert Verifier.parse(PENCIL.text()) == PENCIL


def test_a_verifier_knows_its_password() -> None:
    assert CHEAP.matches("pencil")
    assert not CHEAP.matches("Pencil")
    assert not CHEAP.matches("")


def test_a_verifier_is_not_shown() -> None:
    assert repr(PENCIL) == "Verifier(iterations=4096)"
    assert "pencil" not in repr(ClientExchange("pencil"))


KEY = b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pencil",
        "md5" + "0" * 32,
        f"SCRAM-SHA-256$0:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256${MAX_ITERATIONS + 1}:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$-1:c2FsdA==${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA=${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:c2FsdA==${KEY}:c2FsdA==",
        f"SCRAM-SHA-256$4096:c2FsdA==$c2FsdA==:{KEY}",
        f"SCRAM-SHA-256$4096:${KEY}:{KEY}",
        f"SCRAM-SHA-256$4096:ß${KEY}:{KEY}",
        f"SCRAM-SHA-1$4096:c2FsdA==${KEY}:{KEY}",
    ],
)
def test_what_is_no_verifier_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="verifier") as caught:
        Verifier.parse(text)
    assert not text or text not in str(caught.value)


def test_an_empty_password_is_no_password() -> None:
    with pytest.raises(ValueError, match="empty"):
        Verifier.of_password("")
    with pytest.raises(ProtocolError, match="empty"):
        ClientExchange("")


def test_no_password_fits_a_verifier_that_was_made_of_none() -> None:
    server, client = ServerExchange(Verifier(1, b"salt", bytes(32), bytes(32))), ClientExchange("pencil")
    with pytest.raises(InvalidCredentials):
        server.final(client.final(server.first(client.first())))


# --- hostile clients --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("message", "why"),
    [
        (b"", "channel binding flag"),
        (b"n", "too soon"),
        (b"n,", "too soon"),
        (b"n,,", "attribute"),
        (b"n,,n=", "missing"),
        (b"x,,n=,r=abc", "channel binding flag"),
        (b"p=tls-server-end-point,,n=,r=abc", "not offered"),
        (b"n,a=postgres,n=,r=abc", "authorization identity"),
        (b"n,,m=x,n=,r=abc", "extension"),
        (b"n,,r=abc,n=", "not where it should be"),
        (b"n,,n=,r=", "nonce"),
        (b"n,,n=,r=a b", "nonce"),
        (b"n,,n=,r=a\x7fb", "nonce"),
        (b"n,,n=,r=\xc3\x9f", "nonce"),
        (b"n,,n=,r=" + b"x" * 513, "nonce"),
        (b"n,,n=,r=abc,", "not an attribute"),
        (b"n,,n=" + b"x" * MAX_MESSAGE + b",r=abc", "longer"),
    ],
)
def test_a_malformed_first_message_is_refused(message: bytes, why: str) -> None:
    with pytest.raises(ProtocolError, match="SCRAM") as caught:
        ServerExchange(CHEAP).first(message)
    assert why in str(caught.value.detail)


@pytest.mark.parametrize("message", [b"n,,n=,r=abc", b"y,,n=user,r=abc", b"n,,n=a=2Cb,r=abc,x=optional"])
def test_these_first_messages_are_good(message: bytes) -> None:
    assert ServerExchange(CHEAP).first(message).startswith(b"r=abc")


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (b"c=biws", b"c=eSws", "channel binding"),  # the first message said n, this one y
        (b"c=biws", b"c=", "channel binding"),
        (b"c=biws", b"c=!!!!", "base64"),
        (b"c=biws", b"c=cD10bHMtdW5pcXVlLCw=", "channel binding"),
        (b"c=biws", b"m=biws", "extension"),
        (b",r=", b",r=x", "nonce"),
        (b",r=", b",x=", "not where"),
        (b",p=", b",p=AAAA", "proof"),
        (b",p=", b",q=", "proof"),
        (b",p=", b",p=*", "base64"),
    ],
)
def test_a_malformed_final_message_is_refused(before: bytes, after: bytes, why: str) -> None:
    server, _, answer = begun()
    with pytest.raises(ProtocolError, match="SCRAM") as caught:
        server.final(answer.replace(before, after))
    assert why in str(caught.value.detail)


def test_each_proof_has_one_way_to_be_written() -> None:
    server, _, answer = begun()
    letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    assert answer.endswith(b"=")
    spare = letters[letters.index(answer[-2]) ^ 1]  # the same proof to a lenient reader
    with pytest.raises(ProtocolError):
        server.final(answer[:-2] + bytes([spare]) + b"=")


def test_an_optional_attribute_is_signed_like_the_rest() -> None:
    server, _, answer = begun()
    with pytest.raises(InvalidCredentials):
        server.final(answer.replace(b",p=", b",x=added,p="))


@IS_TRIED
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_any_bytes_are_a_message_or_an_error(first: bytes, final: bytes) -> None:
    for head, tail in ((first, final), (b"n,," + first, b"c=biws,r=" + final), (b"n,,n=,r=abc", final)):
        server = ServerExchange(CHEAP)
        try:
            server.first(head)
            server.final(tail)
        except (ProtocolError, InvalidCredentials):
            pass


@IS_TRIED
@given(st.integers(0, 200), st.integers(0, 255))
def test_no_changed_byte_of_the_final_message_is_overlooked(at: int, byte: int) -> None:
    server, _, answer = begun()
    changed = bytearray(answer)
    changed[at % len(answer)] = byte
    if bytes(changed) == answer:
        return
    with pytest.raises((ProtocolError, InvalidCredentials)):
        server.final(bytes(changed))


# --- hostile servers --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"r=other,s=c2FsdA==,i=4096",
        b"r=NONCE,s=c2FsdA==,i=4096",
        b"r=NONCEx,s=,i=4096",
        b"r=NONCEx,s=c2FsdA=,i=4096",
        b"r=NONCEx,s=" + b64encode(bytes(257)) + b",i=4096",
        b"r=NONCEx,s=c2FsdA==,i=0",
        b"r=NONCEx,s=c2FsdA==,i=-1",
        b"r=NONCEx,s=c2FsdA==,i=",
        b"r=NONCEx,s=c2FsdA==,i=2147483648",
        b"r=NONCEx,s=c2FsdA==,i=%d" % (MAX_ITERATIONS + 1),
        b"r=NONCEx,s=c2FsdA==,i=" + b"9" * 1000,
        b"r=NONCEx,s=c2FsdA==,i= 1",
        b"r=NONCEx,s=c2FsdA==",
        b"m=x,r=NONCEx,s=c2FsdA==,i=1",
        b"r=NONCE" + b"x" * 1000 + b",s=c2FsdA==,i=1",
        b"r=NONCE" + b"x" * 1_000_000 + b",s=c2FsdA==,i=1",
        b"r=NONCE\x00,s=c2FsdA==,i=1",
    ],
)
def test_a_challenge_that_is_malformed_or_costs_too_much_is_not_answered(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        ClientExchange("pencil", nonce=b"NONCE").final(message)


@pytest.mark.parametrize(
    "message", [b"", b"v=", b"v=AAAA", b"v=!", b"e=other-error", SERVER_FINAL, b"v=" + b"A" * 9000]
)
def test_a_server_that_does_not_know_the_password_is_refused(message: bytes) -> None:
    _, client, _ = begun()
    with pytest.raises(ProtocolError):
        client.verify(message)


def test_a_server_cannot_be_believed_before_it_was_answered() -> None:
    with pytest.raises(ProtocolError):
        ClientExchange("pencil").verify(SERVER_FINAL)


def test_a_server_asks_once() -> None:
    server = ServerExchange(CHEAP)
    client = ClientExchange("pencil")
    challenge = server.first(client.first())
    client.final(challenge)
    with pytest.raises(ProtocolError):
        client.final(challenge)


@IS_TRIED
@given(st.binary(max_size=80))
def test_any_bytes_of_a_server_are_a_message_or_an_error(message: bytes) -> None:
    for said in (message, b"r=NONCE" + message, b"r=NONCEx,s=c2FsdA==,i=1" + message):
        client = ClientExchange("pencil", nonce=b"NONCE")
        try:
            client.final(said)
            client.verify(message)
        except ProtocolError:
            pass


# --- SASLprep ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("I\u00adX", "IX"),  # RFC 4013, 3
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("\x07", "\x07"),  # prohibited, so it stays as it is
        ("\u06271", "\u06271"),  # right-to-left, and does not end so
        ("a\u00a0b", "a b"),
        ("\u0627a\u0627", "\u0627a\u0627"),
        ("\u00ad", "\u00ad"),
        ("\u0221", "\u0221"),  # not assigned in Unicode 3.2
    ],
)
def test_a_password_is_written_as_postgresql_writes_it(password: str, prepared: str) -> None:
    assert saslprep(password) == prepared.encode()


@IS_TRIED
@given(st.text(max_size=20))
def test_any_password_can_be_written(password: str) -> None:
    saslprep(password)
